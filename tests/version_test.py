"""Formats of files: those of later versions are refused in one line and stay as they are, and what
was written before there were numbers is read."""

import importlib.util
import json
from pathlib import Path
import shutil
import sys

import pytest

import gdsd_jax
from gdsd_jax import checkpoint, checksums, metrics, version, weights
from gdsd_jax.evaluation import record
from gdsd_jax.report import __main__ as report
from gdsd_jax.settings import FORMAT as CONFIG
from tests import folders
from tests.contents import contents

ROOT = Path(__file__).resolve().parents[1]
LATER = "9.8.7"


def test_a_number_is_read_and_a_later_one_refused():
    assert version.stamp(4) == {"format": 4, "version": gdsd_jax.__version__}
    assert version.format_of({}, 2, "f") == 1
    assert [version.format_of({"format": n}, 2, "f") for n in (1, 2)] == [1, 2]
    with pytest.raises(ValueError) as error:
        version.format_of({"format": 3, "version": LATER}, 2, "f")
    assert str(error.value) == (
        f"f: format 3, this version, {gdsd_jax.__version__}, reads up to 2: install gdsd_jax 9.8.7 "
        "or a later one"
    )
    for writer in (None, 3, ["9.8.7"]):
        with pytest.raises(ValueError, match="install the version that wrote it or a later one"):
            version.format_of({"format": 3, "version": writer}, 2, "f")
    for wrong in (True, 0, -1, "3", None, 2.0, {}):
        with pytest.raises(ValueError, match="^f: format=.* is no number from 1 on"):
            version.format_of({"format": wrong}, 2, "f")


# ---------------------------------------------------------------- files, by the scripts


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"of_{name}", ROOT / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(workdir, tmp_path_factory):
    """A folder with a run's workdir, a converted model and an evaluation, as they are written."""
    base = tmp_path_factory.mktemp("files")
    shutil.copytree(workdir, base / "run")
    folders.write(base / "hf", folders.LLADA)
    folders.write_tokenizer(base / "hf", folders.LLADA)
    convert = script("convert")
    assert convert.main([f"--from_hf={base / 'hf'}", f"--to_orbax={base / 'model'}"]) == 0
    manifest = {
        "format": record.FORMAT,
        "settings": {"task": "gsm8k"},
        "samplers": [],
        "packages": record.versions(),
    }
    item = {"problem": 0, "completion": "\\boxed{3}"}
    prompts = [{"record": {"question": "q", "answer": "3", "solution": ""}}]
    content = {"manifest": manifest, "prompts": prompts, "items": [item]}
    (base / "eval.json").write_text(json.dumps(content))
    return base


def number_of(kind: str) -> tuple[str, int]:
    """(the key, the number that this version writes) of a kind of file."""
    return {
        "config": ("format", CONFIG),
        "metrics": ("metrics_format", metrics.FORMAT),
        "checkpoint": ("format", checkpoint.FORMAT),
        "manifest": ("format", checkpoint.CONVERTED),
        "evaluation": ("format", record.FORMAT),
    }[kind]


def change(folder: Path, kind: str, changes: dict) -> None:
    """Writes entries into the file of a kind, or takes those out that are None."""
    if kind == "checkpoint":
        place = next((folder / "run" / "checkpoints").iterdir())
        host = changed(place / "host" / "metadata", changes)
        sums = json.loads((place / "checksums" / "metadata").read_text())
        sums["host"] = checksums.sum_of(host)
        (place / "checksums" / "metadata").write_text(json.dumps(sums))
    elif kind == "evaluation":
        content = json.loads((folder / "eval.json").read_text())
        told = dict(changes)
        content["manifest"]["packages"] = {"gdsd_jax": told.pop("version", None)}
        content["manifest"] |= told
        drop_none(content["manifest"])
        (folder / "eval.json").write_text(json.dumps(content))
    else:
        name = "model/manifest.json" if kind == "manifest" else "run/config.json"
        changed(folder / name, changes)


def changed(file: Path, changes: dict) -> dict:
    entries = drop_none(json.loads(file.read_text()) | changes)
    file.write_text(json.dumps(entries))
    return entries


def drop_none(entries: dict) -> dict:
    for key in ("format", "version", "metrics_format"):
        if entries.get(key, 0) is None:
            del entries[key]
    return entries


def config_of(workdir: Path) -> str:
    """The flag with which the run of the fixture was started."""
    found = json.loads((workdir / "config.json").read_text())
    return (
        f"--config={ROOT}/configs/coding.py:tiny,rounds=1,prompts_per_round=8,group_size=2,"
        "sft.steps=4,sft.batch=16,sft_optimizer.learning_rate=1e-3,eval_problems=20,"
        f"data_dir={found['data_dir']}"
    )


RUN = ["main CONFIG --workdir=DIR/run"]
OF_RUN = [
    "generate --checkpoint=DIR/run --prompt=a",
    "convert --from_orbax=DIR/run --to_hf=DIR/out",
    "eval CONFIG --checkpoint=DIR/run --out=DIR/out.json",
]
COMMANDS = {
    "config": RUN + OF_RUN,
    "metrics": [*RUN, "report DIR/run"],
    "checkpoint": RUN + OF_RUN,
    "manifest": [
        "generate --checkpoint=DIR/model --prompt=a",
        "convert --from_orbax=DIR/model --to_hf=DIR/out",
        "main CONFIG,init_from=DIR/model,model=none --workdir=DIR/new",
        "eval CONFIG --checkpoint=DIR/model --out=DIR/out.json",
    ],
    "evaluation": [
        "eval --again=DIR/eval.json --out=DIR/out.json",
        "eval --compare DIR/eval.json DIR/other.json",
        "eval --config=gsm8k:llada --rescore=DIR/eval.json --out=DIR/out.json",
    ],
}


def call(command: str, folder: Path, monkeypatch, capsys) -> tuple[int, str]:
    """(exit code, what it said on stderr) of a script."""
    name, *flags = command.split()
    flags = [
        flag.replace("CONFIG", config_of(folder / "run")).replace("DIR", str(folder))
        for flag in flags
    ]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    capsys.readouterr()
    code = (report if name == "report" else script(name)).main()
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_later_format_is_refused_and_nothing_changes(kind, files, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "files"
    shutil.copytree(files, folder)
    key, number = number_of(kind)
    change(folder, kind, {key: number + 1, "version": LATER})
    before = contents(folder)
    for command in COMMANDS[kind]:
        code, said = call(command, folder, monkeypatch, capsys)
        assert code == 2, (command, said)
        (line,) = said.splitlines()
        assert line.startswith("error: ") and f"{key} {number + 1}, this version, " in line, line
        assert line.endswith(f"reads up to {number}: install gdsd_jax {LATER} or a later one"), line
        assert contents(folder) == before, command


def test_what_was_written_before_there_were_numbers_is_read(files, tmp_path, monkeypatch, capsys):
    """A converted folder and an evaluation; of config.json and checkpoints tests/settings_test.py
    and tests/resume_test.py hold whole files of the first format."""
    folder = tmp_path / "files"
    shutil.copytree(files, folder)
    nothing = {"format": None, "version": None}
    change(folder, "manifest", nothing)
    change(folder, "evaluation", nothing)
    change(folder, "config", {"metrics_format": None, "version": None})
    assert "format" not in checkpoint.read_manifest(folder / "model")
    weights.load(folder / "model")
    command = "eval --config=gsm8k:llada --rescore=DIR/eval.json --out=DIR/out.json"
    assert call(command, folder, monkeypatch, capsys)[0] == 0
    assert json.loads((folder / "out.json").read_text())["metrics"]["correct"] == 1
    assert call("report DIR/run", folder, monkeypatch, capsys)[0] == 0
    weights.load(folder / "run")


def test_what_is_written_says_its_format_and_version(files):
    config = json.loads((files / "run" / "config.json").read_text())
    (place,) = (files / "run" / "checkpoints").iterdir()
    host, manifest = checkpoint.read_host(place), checkpoint.read_manifest(files / "model")
    for entries in (config, host, manifest):
        assert entries["version"] == gdsd_jax.__version__
    found = [entries["format"] for entries in (config, host, manifest)]
    assert found == [CONFIG, checkpoint.FORMAT, checkpoint.CONVERTED]
    assert config["metrics_format"] == metrics.FORMAT
    assert record.versions()["gdsd_jax"] == gdsd_jax.__version__
