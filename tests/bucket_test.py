"""Every path that a user gives may be an address of an object store: a whole run there, what reads
it, and all that the launch scripts read and write. The store is a stand-in, tests/bucket.py."""

from collections.abc import Iterator
import importlib
import json
from pathlib import Path
import sys
from typing import NamedTuple

from etils import epath
from etils.epath import backend
import jax
import numpy as np
import pytest

from configs import coding
from gdsd_jax import (
    checkpoint,
    cli,
    experiment,
    hf,
    metrics,
    models,
    report,
    settings,
    tokenizers,
    train,
    weights,
)
from gdsd_jax.settings import Settings
from tests.bucket import Bucket, serve
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
RUN = "gs://bucket/run"
LAST = 5  # number of its last checkpoint
OWN = "task=gs://bucket/code/letters.py,data_file=gs://bucket/data/train.jsonl"
SMALL = (
    "tiny,prompts_per_round=8,group_size=2,inner_iterations=1,eval_every=1,eval_problems=8,"
    "optimizer.learning_rate=1e-2,optimizer.warmup_steps=0,"
    f"checkpoint_every=1,{OWN},heldout_file=gs://bucket/data/heldout.jsonl"
)
TASK = '''
"""Counting letters, in words of the user's own files."""

import numpy as np

from gdsd_jax.tasks import Grades, Task, read_files


def make(settings):
    train, heldout = read_files(settings, dict, ' such as {"word": "abba"}')
    return Task(train, heldout, messages, grade, answer)


def messages(record):
    return [{"role": "user", "content": f"How many a are in {record['word']}?"}]


def grade(records, texts):
    right = [text == answer(record, None) for record, text in zip(records, texts)]
    reward = [sum(map(str.isdigit, text)) / (1 + len(text)) for text in texts]
    return Grades(np.array(reward, np.float32), np.array(right, bool), {})


def answer(record, seed):
    return str(record["word"].count("a"))
'''
SINK = '''
"""The number of rows so far, in a file."""

from gdsd_jax.metrics import Sink


def SINK(workdir, settings):
    steps = []

    def close():
        (workdir / f"rows after {settings['rounds']}").write_text(str(len(steps)))

    return Sink(lambda row: steps.append(row["step"]), close)
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """The current folder of all these tests."""
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def bucket(here) -> Iterator[Bucket]:
    """An object store with a task, a sink and data files of a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for bucket in serve(patch):
            write("code/letters.py", TASK)
            write("code/count.py", SINK)
            words = [f"{'ab' * (number % 5)}{'ca' * (number % 3)}" for number in range(24)]
            lines = [json.dumps({"word": word}) + "\n" for word in words]
            write("data/train.jsonl", "".join(lines[:16]))
            write("data/heldout.jsonl", "".join(lines[16:]))
            yield bucket


@pytest.fixture(autouse=True)
def nothing_local(bucket, here) -> Iterator[None]:
    """No test leaves anything in the current folder, such as one named gs:, or half a file."""
    yield
    assert not [*here.rglob("*")]
    assert not [name for name in bucket.objects if "partial" in name]


def write(name: str, text: str) -> None:
    epath.Path(f"gs://bucket/{name}").write_text(text)


def content(name: str) -> bytes:
    return epath.Path(f"gs://bucket/{name}").read_bytes()


def chosen(*overrides: str) -> Settings:
    return settings.parse(coding.get_config(",".join([SMALL, *overrides])))


class Run(NamedTuple):
    said: list[str]  # of both processes
    before: int  # lines of metrics.jsonl that the first wrote


@pytest.fixture(scope="module")
def run(bucket) -> Run:
    """A run of two rounds, each in a process of its own so to speak."""
    said, before = [], []
    for rounds in (1, 2):
        prepared = experiment.prepare(
            chosen(
                "sft.steps=2,sft.batch=8,sinks=(csv,gs://bucket/code/count.py)", f"rounds={rounds}"
            ),
            say=said.append,
        )
        train.train(prepared, RUN, say=said.append)
        before.append(len(metrics.read_metrics(f"{RUN}/metrics.jsonl")))
    return Run(said, before[0])


def call(monkeypatch, name: str, *flags: str) -> int:
    """Exit code of launch/NAME.py with these flags."""
    module = importlib.import_module(f"launch.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    return code_of(module.main)


# ---------------------------------------------------------------- a run


@pytest.mark.slow
def test_all_of_a_run_lies_in_the_bucket(bucket, run):
    names = {name.removeprefix("bucket/run/") for name in bucket.names("bucket/run/")}
    parts = {name for name in names if not name.startswith("checkpoints/")}
    tables = {f"{phase}.csv" for phase in metrics.PHASES}
    assert parts == tables | {
        "config.json",
        "origin.json",
        "metrics.jsonl",
        "metrics.jsonl.sent",
        "report.html",
        "rows after 1",
        "rows after 2",
        "samples/000000.json",
        "samples/000001.json",
        "samples/000002.json",
        "tokenizer/tokenizer.model",
    }
    assert checkpoint.latest_iteration(RUN) == LAST
    assert settings.read(RUN) == chosen(
        "sft.steps=2,sft.batch=8,sinks=(csv,gs://bucket/code/count.py),rounds=2"
    )
    assert json.loads(content("run/config.json"))["score"] == "reward"
    assert b"</html>" in content("run/report.html")


@pytest.mark.slow
def test_it_goes_on_there(bucket, run):
    assert f"resuming {RUN}: rl, round 1, step 2" in run.said
    rows = metrics.read_metrics(f"{RUN}/metrics.jsonl")
    steps = {
        phase: [row["step"] for row in rows if row["phase"] == phase] for phase in metrics.PHASES
    }
    assert steps == {
        "sft": [2],
        "rollout": [1, 2],
        "train": [1, 2],
        "probe": [1, 2],
        "eval": [0, 1, 2],
    }
    assert int(content("run/rows after 1")) == run.before
    assert report.headline_lines(RUN)


@pytest.mark.slow
def test_its_tables_hold_every_row(bucket, run):
    for phase in metrics.PHASES:
        head, *lines = content(f"run/{phase}.csv").decode().splitlines()
        rows = metrics.read_metrics(f"{RUN}/metrics.jsonl")
        steps = {row["step"] for row in rows if row["phase"] == phase}
        assert "step" in head.split(",") and len(lines) == len(steps)


# ---------------------------------------------------------------- what reads it


@pytest.mark.slow
def test_its_model_is_loaded(bucket, run):
    denoiser, params, tokenizer = weights.load(RUN)
    state = checkpoint.lazy_params(f"{RUN}/checkpoints/{LAST}/state", "state", "trainable")
    assert jax.tree.structure(state) == jax.tree.structure(params)
    jax.tree.map(lambda lazy, leaf: np.testing.assert_array_equal(lazy.read(), leaf), state, params)
    assert tokenizer.decode(tokenizer.encode("How many")) == "How many"
    assert denoiser.config.vocab_size % 128 == 0


@pytest.mark.slow
def test_another_run_begins_with_it(bucket, run, monkeypatch):
    """Its first answers, with the noise of any run of that seed, are the last ones of the
    other."""
    argument = f"{SMALL},init_from={RUN},rounds=0,sft.steps=0"
    flags = f"--config={ROOT}/configs/coding.py:{argument}", "--workdir=gs://bucket/second"
    assert call(monkeypatch, "main", *flags) == 0
    assert content("second/samples/000000.json") == content("run/samples/000002.json")
    assert content("run/samples/000001.json") != content("run/samples/000002.json")
    assert (
        not bucket.names("bucket/second/tokenizer/")
        and settings.read("gs://bucket/second").init_from
    )


@pytest.mark.slow
def test_it_is_evaluated(bucket, run, monkeypatch, capsys):
    flags = f"--config={ROOT}/configs/coding.py:{SMALL}", f"--checkpoint={RUN}"
    assert call(monkeypatch, "eval", *flags, "--out=gs://bucket/eval.json") == 0
    found, samples = (
        json.loads(content("eval.json")),
        json.loads(content("run/samples/000002.json")),
    )
    assert found["iteration"] == LAST
    *_, last = metrics.read_metrics(f"{RUN}/metrics.jsonl")
    assert found["mean_reward"] == last["mean_reward"] > 0
    greedy = [item["completion"] for item in found["items"] if item["temperature"] == 0]
    assert greedy == [row["text"] for row in samples]
    assert "gs://bucket/eval.json" in capsys.readouterr().out


@pytest.mark.slow
def test_it_answers_prompts(bucket, run, monkeypatch, capsys):
    write("prompts.jsonl", '{"prompt": "How many a are in abba?"}\n')
    flags = (
        f"--checkpoint={RUN}",
        "--prompts=gs://bucket/prompts.jsonl",
        "--out=gs://bucket/new/answers.jsonl",
    )
    assert call(monkeypatch, "generate", *flags) == 0, capsys.readouterr().err
    (line,) = content("new/answers.jsonl").decode().splitlines()
    assert json.loads(line)["prompt"].startswith("How many")
    assert call(monkeypatch, "generate", *flags[:2], "--out=gs://bucket/new") == 2
    assert "--out=gs://bucket/new: that is a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_converted(bucket, run, monkeypatch, capsys):
    assert call(monkeypatch, "convert", f"--from_orbax={RUN}", "--to_hf=gs://bucket/hf") == 0
    config = models.config_from_hf("gs://bucket/hf")
    assert tokenizers.load("gs://bucket/hf").mask_id == config.mask_id
    _, params, _ = weights.load(RUN)
    jax.tree.map(np.testing.assert_array_equal, hf.load("gs://bucket/hf", config), params)


# ---------------------------------------------------------------- the other scripts, and files


def test_plan_and_bench_write_numbers_there(bucket, monkeypatch, capsys):
    plan, bench = (importlib.import_module(f"launch.{name}") for name in ("plan", "bench"))
    monkeypatch.setattr(plan.topologies, "devices", lambda *_: [])
    monkeypatch.setattr(plan, "plan", lambda *_: {"fits": True})
    monkeypatch.setattr(plan, "table", str)
    monkeypatch.setattr(bench, "measure_all", lambda *_: {"memory": 1})
    config = f"--config={ROOT}/configs/coding.py:tiny"
    code = call(monkeypatch, "plan", config, "--topology=v5e:2x2", "--json=gs://bucket/plan.json")
    assert code == 0, capsys.readouterr().err
    assert json.loads(content("plan.json"))["fits"]
    assert call(monkeypatch, "bench", "--json=gs://bucket/bench.json") == 0
    assert json.loads(content("bench.json"))["memory"] == 1


def test_a_config_file_lies_there(bucket):
    write("configs/mine.py", "def get_config(arg):\n    return arg\n")
    assert cli.load_config("gs://bucket/configs/mine.py") is None
    assert cli.load_config("gs://bucket/configs/mine.py:llada,init_from=gs://bucket/run") == (
        "llada,init_from=gs://bucket/run"
    )
    with pytest.raises(ValueError, match="--config=gs://bucket/configs/none.py is not a readable"):
        cli.load_config("gs://bucket/configs/none.py:tiny")


def test_a_file_is_whole_or_absent_there(bucket):
    before = content("data/train.jsonl")
    with (
        pytest.raises(RuntimeError),
        cli.replacing(epath.Path("gs://bucket/data/train.jsonl")) as file,
    ):
        file.write("half\n")
        raise RuntimeError
    assert content("data/train.jsonl") == before
    kept = epath.Path("gs://bucket/data/train.jsonl.partial")
    assert kept.read_text() == "half\n"  # nothing is lost either
    kept.unlink()


def test_the_package_that_addresses_need_is_named(bucket, data_dir, monkeypatch, capsys):
    """One line, wherever an address comes first."""

    def find(name: str):
        raise ImportError("Please install gcsfs")

    config = f"--config={ROOT}/configs/coding.py:tiny,data_dir={data_dir}"
    commands = [
        ("main", config, "--workdir=gs://bucket/third"),
        ("main", f"{config},task=prompts,data_file=gs://bucket/data/train.jsonl"),
        ("main", f"{config},init_from={RUN}"),
        ("eval", config, f"--checkpoint={RUN}", "--out=eval.json"),
        ("generate", f"--checkpoint={RUN}", "--prompt=a"),
        ("plan", config, "--topology=v5e:2x2", "--json=gs://bucket/plan.json"),
    ]
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", find)
    for command in commands:
        assert call(monkeypatch, *command) == 2
        assert capsys.readouterr().err.splitlines()[-1] == "error: Please install gcsfs"
