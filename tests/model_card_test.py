"""Model cards say what the files of a run say, in a form that the hub reads, and nothing of the
machine; folders go up by the hub's own client."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from etils import epath
import pytest

from gdsd_jax import checkpoint, cli, metrics, model_card, models, weights
from gdsd_jax.resume import Progress
from launch import convert
from tests import folders, hub_server

huggingface_hub = pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"phase": "eval", "step": 0, "pass_at_1": 0.25, "mean_reward": 0.5, "reward": 1.0},
    {"phase": "eval", "step": 2, "pass_at_1": 0.75, "mean_reward": 0.625, "reward": 1.5},
]
RUN = model_card.Run(
    {"seed": 3, "task": "/home/me/own.py", "objective": "gdsd", "data_file": "/home/me/rows.jsonl"},
    "gdsd train --config=coding:tiny,data_file=/home/me/rows.jsonl --workdir=gs://bucket/mine",
    Progress("rl", step=7, round=2),
    [row | {"problems": 40} for row in ROWS],
    "tests",
)
HUB = "owner/base@0123abcd"


def card(**changes) -> model_card.Card:
    given = {"name": "alice/small", "model": folders.LLADA, "entries": {}, "base": HUB}
    given |= {"license": {"license": "mit"}, "adapters": False, "run": RUN}
    return model_card.Card(**given | changes)


def read(text: str):
    """(the front matter, as the hub's library reads it, the rest)."""
    found = huggingface_hub.ModelCard(text)
    return found.data, found.text


def test_the_front_matter_is_what_the_hub_reads():
    data, _ = read(model_card.text_of(card()))
    assert (data.base_model, data.license, data.library_name) == ("owner/base", "mit", "gdsd_jax")
    assert data.pipeline_tag == "text-generation" and data.base_model_relation == "finetune"
    assert data.tags == ["gdsd_jax", "diffusion-language-model", "gdsd", "own.py"]
    results = {one.metric_type: one.metric_value for one in data.eval_results}
    assert results == {"pass_at_1": 0.75, "mean_reward": 0.625}
    assert {one.dataset_type for one in data.eval_results} == {"own.py"}


def test_the_text_says_before_and_after_and_how_without_folders():
    _, text = read(model_card.text_of(card()))
    trained = "trained from owner/base@0123abcd on the task own.py: 7 supervised steps and 2 rounds"
    assert f"{trained} of gdsd." in text
    assert "| held-out problems solved, temperature 0 | 25.0% | 75.0% | +50.0 points |" in text
    assert "| held-out tests, temperature 1 | 50.0% | 62.5% | +12.5 points |" in text
    assert (
        "Means over 40 held-out problems, before (round 0) and after (round 2); the weights" in text
    )
    assert "gdsd train --config=coding:tiny,data_file=rows.jsonl --workdir=mine\n" in text
    assert "\ndata_file=rows.jsonl\n" in text and "seed 3" in text and "jax 0." in text
    assert "/home" not in text and "bucket" not in text


@pytest.mark.parametrize(
    "changes, library, base",
    [
        ({"adapters": True}, "peft", "owner/base"),
        ({"entries": {"auto_map": {}}}, "transformers", "owner/base"),
        ({"model": folders.LLAMA, "base": "/models/here"}, "transformers", None),
        ({"model": folders.LLADA, "run": None}, "gdsd_jax", "owner/base"),
        ({"base": ""}, "gdsd_jax", None),
        ({"base": "owner/base"}, "gdsd_jax", None),  # a folder of that name, not downloaded
    ],
)
def test_what_loads_it_and_where_it_comes_from(changes, library, base):
    data, text = read(model_card.text_of(card(**changes)))
    assert (data.library_name, data.base_model) == (library, base)
    if changes.get("run", RUN) is None:
        assert "converted from owner/base@0123abcd: no run has changed it." in text
        assert "Held-out" not in text and data.eval_results is None
    if library == "peft":
        assert data.base_model_relation == "adapter" and "--from_hf=owner/base --adapter=" in text


def test_adapters_of_a_converted_model_are_loaded_over_one():
    converted = models.to_denoiser(folders.LLAMA)
    _, text = read(model_card.text_of(card(adapters=True, model=converted)))
    assert "--adapter=adapters/small --a2d --to_orbax=" in text


def test_the_license_is_that_of_the_bases_card(tmp_path):
    front = (
        "---\nlicense: other\nlicense_name: 'own'\nlicense_link: https://x/y\nlanguage: en\n---\n"
    )
    for text, found in (
        (front + "# x", {"license": "other", "license_name": "own", "license_link": "https://x/y"}),
        ("# no front matter\nlicense: mit\n", {}),
        ("---\ntags: [a]\n---\nlicense: mit\n", {}),
        (b"\xff\xfe", {}),
    ):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "README.md").write_bytes(data)
        assert model_card.license_of(epath.Path(tmp_path)) == found
    assert model_card.license_of(epath.Path(tmp_path / "none")) == {}


# ---------------------------------------------------------------- from files


def evaluation(file: Path, weights_sha256: str) -> str:
    content = {
        "metrics": {"problems": 40, "pass_at_1": 0.75, "mean_reward": 0.6, "reward": 1.5},
        "intervals": {"pass_at_1": [0.6, 0.875], "mean_reward": [0.5, 0.7]},
        "manifest": {
            "format": 1,
            "settings": {"task": "coding"},
            "samplers": [],
            "score": "tests",
            "weights_sha256": weights_sha256,
            "intervals": {"level": 0.95},
            "packages": {"jax": "0.10.2", "math-verify": None},
        },
        "prompts": [],
        "items": [],
    }
    file.write_text(json.dumps(content))
    return f"--evaluation={file}"


def test_a_runs_export_has_its_card(workdir, tmp_path, monkeypatch, capsys):
    """The figures of the checkpoint's own lines, the intervals of evaluations of these weights."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(workdir, run)
    config = json.loads((run / "config.json").read_text()) | {
        "command": "gdsd train '--x=/a/b b/c,y=/d/e' --coordinator 10.0.0.1:9 --process_id=0"
    }
    (run / "config.json").write_text(json.dumps(config))
    last = [row for row in metrics.read_metrics(run / "metrics.jsonl") if row["phase"] == "eval"][
        -1
    ]
    with (run / "metrics.jsonl").open("a") as file:  # of a round that no checkpoint holds
        file.write(json.dumps(last | {"step": 9, "pass_at_1": 1.0}) + "\n")
    other = evaluation(tmp_path / "before.json", "0" * 64)
    flags = [f"--from_orbax={run}", f"--to_hf={out}", other]
    assert convert.main(flags) == 2 and not out.exists()
    assert "it is of other weights than these" in capsys.readouterr().err
    flags.append(evaluation(tmp_path / "after.json", weights.hash_of(run)))
    assert convert.main(flags) == 0
    data, text = read((out / "README.md").read_text())
    results = {one.metric_type: one.metric_value for one in data.eval_results}
    assert results["pass_at_1"] == last["pass_at_1"] and data.base_model is None
    assert text.startswith("\n# out\n") and "random weights on the task coding: 4 superv" in text
    assert "Means over 20 held-out problems at round 0; the weights are of round 0" in text
    assert "| held-out problems solved, temperature 0 | 0.0% |" in text
    assert "```sh\ngdsd train --x=c,y=e\n```" in text and "\nrounds=0\n" in text
    assert "## Evaluation of other weights, to compare with\n\n`before.json`" in text
    assert "## Evaluation of these weights\n\n`after.json`, 40 problems, weights " in text
    assert "| solved, temperature 0 | 0.750 | 0.600 to 0.875 |" in text
    assert "| reward, sampled | 1.500 | none |" in text and "math-verify None" not in text
    assert str(tmp_path) not in text and str(Path(config["data_dir"]).parent) not in text
    best = tmp_path / "run" / "best"
    shutil.copytree(run / "checkpoints", best / "checkpoints")
    shutil.copyfile(run / "config.json", best / "config.json")
    assert model_card.run_of(best).rows == model_card.run_of(run).rows != []


def test_the_command_of_a_script_is_kept(monkeypatch):
    """And of nothing else."""
    for argv, wanted in (
        ([f"{ROOT}/launch/main.py", "--config=a b"], "python launch/main.py '--config=a b'"),
        (["gdsd train", "--config=coding"], "gdsd train --config=coding"),
        (["/usr/bin/pytest", "-q"], None),
        ([""], None),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert cli.command() == wanted


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--from_hf=a --to_orbax=b --push=me/x", "--push belongs to --to_hf"),
        ("--from_hf=a --to_orbax=b --evaluation=x", "--evaluation belongs to --to_hf"),
        ("--from_orbax=a --to_hf=b --private", "--private belongs to --push"),
        ("--from_orbax=a --to_hf=gs://b/c --push=me/x", "--push takes a local folder"),
    ],
)
def test_flags_that_do_not_go_together(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        convert.main(flags.split())
    assert stop.value.code == 2 and said in capsys.readouterr().err


# ---------------------------------------------------------------- up

# In a process of its own: the client reads HF_ENDPOINT when it is imported.
DRIVER = """
import contextlib, io, json, os, sys
from launch import convert
import huggingface_hub

def call(token, *flags):
    os.environ["HF_TOKEN"] = token
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = convert.main(list(flags))
    lines = said.getvalue().splitlines()
    print(json.dumps([code, [line for line in lines if line.startswith("error: ")]]))

for step in json.loads(sys.argv[1]):
    if step == "no network":  # a port where nothing listens
        huggingface_hub.whoami.__self__.endpoint = "http://127.0.0.1:9"
    elif step == "no library":
        sys.modules["huggingface_hub"] = None
    else:
        call(*step)
"""


# (token, what follows --push=, the begin of the line that says why not)
REFUSED = [
    ("hf_reads", "alice/x", "--push=alice/x: the token may only read: make one that may write"),
    ("hf_unknown", "alice/x", "--push=alice/x: the Hugging Face hub does not answer"),
    (
        "hf_writes",
        "bob/x",
        "--push=bob/x: the token is of alice, who does not belong to bob: choose",
    ),
    ("hf_writes", "x", "--push=x: no name of a repository (it has no owner): give USER/NAME"),
    ("hf_writes", "alice/x@main", "--push=alice/x@main: no name of a repository"),
    ("hf_writes", "alice/x--y", "--push=alice/x--y: no name of a repository"),
    ("", "alice/x", "--push=alice/x: no token: `hf auth login`, or set HF_TOKEN"),
    "no network",
    ("hf_writes", "alice/x", "--push=alice/x: the Hugging Face hub does not answer (ConnectError"),
    "no library",
    ("hf_writes", "alice/x", "--push=alice/x needs a package: `pip install huggingface_hub`"),
]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """(the stand-in, the folder with what was converted, [exit code, lines] of each command)."""
    base = tmp_path_factory.mktemp("pushed")
    folders.write(base / "hf", folders.LLADA)
    folders.write_tokenizer(base / "hf", folders.LLADA)
    (base / "hf" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert convert.main([f"--from_hf={base / 'hf'}", f"--to_orbax={base / 'model'}"]) == 0
    source = f"--from_orbax={base / 'model'}"
    steps = [
        ["hf_writes", source, f"--to_hf={base / 'new'}", "--push=alice/new", "--private"],
        ["hf_writes", source, f"--to_hf={base / 'old'}", "--push=lab/old"],
        ["hf_writes", source, f"--to_hf={base / 'full'}", "--push=alice/full"],
    ]
    for one in REFUSED:
        step = one
        if not isinstance(one, str):
            step = [one[0], source, f"--to_hf={base / 'refused'}", f"--push={one[1]}"]
        steps.append(step)
    with hub_server.serving() as hub:
        before = {"model-00001-of-00009.safetensors": b"x", "adapter_config.json": b"{}"}
        hub.repositories["lab/old"] = before | {"mine.txt": b"y"}
        hub.full.add("alice/full")
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(base / "home")}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(steps)],
            cwd=ROOT,
            env=os.environ | places | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return hub, base, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_hubs_own_client_uploads_the_folder(pushed):
    """One commit, in place of weights that were there."""
    hub, base, found = pushed
    assert found[:2] == [[0, []]] * 2
    assert checkpoint.read_manifest(base / "model")["license"] == {"license": "mit"}
    for name, folder in (("alice/new", "new"), ("lab/old", "old")):
        files = {path.name: path.read_bytes() for path in (base / folder).iterdir()}
        up = {path: data for path, data in hub.repositories[name].items() if path in files}
        assert up == files and f"# {name}\n".encode() in files["README.md"]
        assert sum(call.startswith(f"POST /api/models/{name}/commit") for call in hub.calls) == 1
    assert hub.private == {"alice/new"}
    assert hub.repositories["lab/old"]["mine.txt"] == b"y"
    gone = {"model-00001-of-00009.safetensors", "adapter_config.json"}
    assert gone.isdisjoint(hub.repositories["lab/old"])
    assert models.config_from_hf(base / "new") == folders.LLADA
    data, _ = read((base / "new" / "README.md").read_text())
    assert data.license == "mit"


def test_a_folder_that_does_not_go_up_stays(pushed):
    _, base, found = pushed
    code, (line,) = found[2]
    folder = base / "full"
    assert code == 2 and (folder / "README.md").exists() and (folder / "config.json").exists()
    begin = f"error: {folder} is complete, but it is not on the Hugging Face hub ("
    assert line.startswith(begin) and "no storage is left" in line
    assert line.endswith(f"upload it by `hf upload alice/full {folder}`")


def test_what_cannot_go_up_is_refused_before_anything_is_written(pushed):
    hub, base, found = pushed
    wanted = [one[2] for one in REFUSED if not isinstance(one, str)]
    for (code, lines), begin in zip(found[3:], wanted, strict=True):
        assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {begin}"), lines
    assert not (base / "refused").exists()
    assert hub.repositories.keys() == {"alice/new", "lab/old", "alice/full"}
