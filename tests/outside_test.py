"""What users add without editing the package: a task, an objective, a denoising order, a metrics
sink and a model, each a file elsewhere that the config names."""

import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

from configs import coding
from gdsd_jax import experiment, settings, train, weights
from gdsd_jax.metrics import read_metrics
from tests.processes import xla_flags

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "tiny,prompts_per_round=4,group_size=2,inner_iterations=1,minibatches=1,eval_every=1,"
    "eval_problems=8"
)

TASK = '''
"""Counting letters: no programs, no files, no tokenizer of its own."""

import dataclasses
import random
import re

import numpy as np

from gdsd_jax.tasks import Grades, Task

BEGIN = "Count: "


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    letter: str = "a"
    words: int = 20


def make(settings):
    letter, rng = settings.options.letter, random.Random(settings.seed)
    records = []
    for number in range(settings.options.words):
        word = "".join(rng.choices("abcde", k=rng.randint(3, 8)))
        records.append({"word": word, "count": word.count(letter), "judged": number % 3 > 0})

    def messages(record):
        question = f"How many {letter} are in {record['word']}?"
        return [{"role": "user", "content": question}, {"role": "assistant", "content": BEGIN}]

    def answer(record, seed):
        noise = 0 if seed is None else random.Random(seed).randint(0, 1)
        return f"{BEGIN}{record['count'] + noise}"

    return Task(records, None, messages, grade, answer, score="near")


def grade(records, texts):
    assert all(text.startswith(BEGIN) for text in texts), "the prefill belongs to the answer"
    said = [re.search("[0-9]+", text) for text in texts]
    wrong = [9 if hit is None else abs(int(hit[0]) - record["count"])
             for hit, record in zip(said, records)]
    wrong_N = np.minimum(np.array(wrong, np.float32), 9)
    parts = {"near": 1 / (1 + wrong_N), "number": np.array([hit is not None for hit in said], bool)}
    judged_N = np.array([record["judged"] for record in records], bool)
    return Grades(-wrong_N, wrong_N == 0, parts, judged_N)
'''

OBJECTIVE = '''
"""The plain policy gradient."""

import dataclasses

import jax.numpy as jnp

from gdsd_jax.objectives import Objective
from gdsd_jax.scoring import counted, draw_full_masks, view_token_scores

WIDTH = 8  # of the sampler's blocks


@dataclasses.dataclass(frozen=True)
class Config:
    weight: float = 1.0


def views(config, batch, draws, rng):
    return draw_full_masks(rng, draws, batch, 0.0)


def loss(denoiser, config, params, batch):
    logp_KxBxG = view_token_scores(denoiser, params, batch, batch.masks_KxBxL)
    score_B = jnp.mean(jnp.sum(logp_KxBxG * counted(batch, "answer")[None], axis=-1), axis=0)
    step_BxNxW = batch.step_map_BxG.reshape(len(score_B), -1, WIDTH)
    later_first = jnp.mean(step_BxNxW[..., :-1] >= step_BxNxW[..., 1:])
    metrics = {"score": jnp.mean(score_B), "weight": jnp.float32(config.weight)}
    metrics["later_first"] = later_first
    return -config.weight * jnp.mean(batch.advantages_B * score_B), metrics


READS = ("masks_KxBxL", "advantages_B", "step_map_BxG")
OBJECTIVE = Objective(Config, loss, views, reads=READS)
'''

ORDER = '''
"""From right to left."""

import jax.numpy as jnp


def ORDER(config, scores_BxCxV, tokens_BxC, probability_BxC, rng_B):
    columns = jnp.arange(tokens_BxC.shape[1], dtype=jnp.float32)
    return jnp.broadcast_to(columns, tokens_BxC.shape)
'''

SINK = '''
"""A line of text for every row."""

import json

from gdsd_jax.report import Sink


def SINK(workdir, settings):
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / "lines.txt", "a")

    def write(row):
        print(settings["name"], json.dumps(row), file=file, flush=True)

    return Sink(write, file.close)
'''

MODEL = '''
"""A denoiser of one narrow layer."""

import dataclasses

from gdsd_jax.models import MODELS

PRESET = dataclasses.replace(
    MODELS["llada_tiny"], d_model=32, layers=1, heads=2, kv_heads=2, head_dim=16, d_ff=64
)
'''


def write(folder: Path, **texts: str) -> None:
    """Files by their names without .py."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"launch_{name}", ROOT / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def phase(rows: list[dict], name: str) -> list[dict]:
    return [row for row in rows if row["phase"] == name]


# ---------------------------------------------------------------- a task, by the command


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """(workdir after one round, workdir after two, what both commands said); the second command
    goes on where the first one ended."""
    folder = tmp_path_factory.mktemp("letters")
    write(folder, letters=TASK)
    shutil.copytree(folder, folder / "work")

    def run(rounds: int) -> str:
        config = (
            f"{ROOT}/configs/coding.py:{TINY},task=letters.py,options.letter=b,options.words=30,"
            f"prompt_length=40,sft.steps=4,sft.batch=8,rounds={rounds}"
        )
        command = [sys.executable, str(ROOT / "launch/main.py")]
        command += [f"--config={config}", f"--workdir={folder / 'two'}"]
        environment = os.environ | {"XLA_FLAGS": xla_flags()}
        done = subprocess.run(
            command, cwd=folder / "work", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run(1)
    shutil.copytree(folder / "two", folder / "one")
    return folder / "one", folder / "two", said + run(2)


@pytest.mark.slow
def test_a_task_of_ones_own_is_trained(letters):
    one, _, said = letters
    assert re.search(r"^held out: 3 of the 30 problems of \S+/work/letters\.py ", said, re.M), said
    assert re.search(r"^eval  0/1 \| held-out pass@1 .*% \(temp.*\) \| near [\d.]+%", said, re.M)
    number = r"-?\d+\.\d+"
    line = rf"^round 1/1 \| reward +{number} \| near +{number} \| number +{number} \| "
    assert re.search(line, said, re.M), said
    rows = read_metrics(one / "metrics.jsonl")
    assert [row["phase"] for row in rows] == ["sft", "eval", "rollout", "train", "probe", "eval"]
    for row in phase(rows, "rollout"):
        assert -9 <= row["reward"] <= 0 and 0 < row["near"] <= 1 and 0 <= row["number"] <= 1
        assert 0 < row["judged"] < 1
    for row in phase(rows, "eval"):
        assert 0.1 <= row["mean_reward"] == row["near"] <= 1 and "number" in row
        assert row["reward"] < 0
        assert row["problems"] == 3
    config = json.loads((one / "config.json").read_text())
    assert config["task"] == str(one.parent / "work" / "letters.py") and config["score"] == "near"
    assert config["options"] == {"letter": "b", "words": 30}
    assert settings.read(one).options.words == 30


@pytest.mark.slow
def test_its_report_has_its_parts_by_name(letters):
    one, _, _ = letters
    page = (one / "report.html").read_text()
    assert "held-out near, temperature 1" in page and "training near" in page
    assert "<h3>number</h3>" in page and "How many b are in " in page and "Count: " in page
    assert "<h3>judged</h3>" not in page and "tests" not in page
    samples = json.loads((one / "samples" / "000001.json").read_text())
    judged = [sample["score"] is not None for sample in samples]
    assert len(samples) == 3 and any(judged)


@pytest.mark.slow
def test_a_run_of_it_goes_on(letters):
    one, two, said = letters
    assert f"resuming {two}: rl, round 1, step 4" in said
    before, after = (read_metrics(folder / "metrics.jsonl") for folder in (one, two))
    assert after[: len(before) - 1] == before[:-1]
    *_, ended = before
    repeated = after[len(before) - 1]
    assert ended | {"wall_s": 0} == repeated | {"wall_s": 0}, "one model, one tokenizer"
    assert [row["step"] for row in phase(after, "eval")] == [0, 1, 2]
    names = {path.name for path in (two / "tokenizer").iterdir()}
    assert names == {"tokenizer.model"}
    denoiser, _, tokenizer = weights.load(two)  # on all devices, whatever the tokenizer's size
    assert denoiser.config.vocab_size % 128 == 0 and tokenizer.vocab_size % 128 > 0
    assert tokenizer.decode(tokenizer.encode("How many b")) == "How many b"


@pytest.mark.slow
def test_runs_of_it_are_compared_by_its_parts(letters):
    one, two, _ = letters
    compare = load_script("compare")
    heads, first, second = compare.table({"one round": [one], "two rounds": [two]})
    measures = [f"{name}, temperature 1" for name in ("near", "reward", "number")]
    measures.insert(1, "pass@1, temperature 0")
    assert [head for head in heads if head != "gain"] == [
        "run",
        *measures,
        "deepest fall in training",
    ]
    last = phase(read_metrics(two / "metrics.jsonl"), "eval")[-1]
    assert second[heads.index("number, temperature 1")].endswith(f"→ {last['number']:.3f}")
    assert second[heads.index("near, temperature 1")].endswith(f"→ {last['mean_reward']:.1%}")
    assert first[0] == "one round" and len(first) == len(second) == len(heads)


# ---------------------------------------------------------------- the others, in one run


@pytest.fixture(scope="module")
def extended(data_dir, tmp_path_factory):
    """(workdir, folder of the files) of a run with an objective, an order, a sink and a model from
    files; its second round is of a second call."""
    folder = tmp_path_factory.mktemp("extended")
    write(folder, gradient=OBJECTIVE, leftwards=ORDER, lines=SINK, narrow=MODEL)
    workdir = folder / "run"

    def run(rounds: int) -> None:
        chosen = (
            f"{TINY},objective=gradient.py,gradient.weight=0.5,sampler.remasking=leftwards.py,"
            f"sinks=(lines.py,csv),model=narrow.py,data_dir={data_dir},sft.steps=2,sft.batch=8,"
            f"rounds={rounds}"
        )
        prepared = experiment.prepare(settings.parse(coding.get_config(chosen)), say=len)
        try:
            train.train(prepared, workdir, say=len)
        finally:
            prepared.task.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(1)
        run(2)
    return workdir, folder


def saved(workdir: Path) -> dict:
    return json.loads((workdir / "config.json").read_text())


@pytest.mark.slow
def test_an_objective_of_ones_own_makes_the_updates(extended):
    workdir, folder = extended
    rows = phase(read_metrics(workdir / "metrics.jsonl"), "train")
    assert len(rows) == 2
    for row in rows:
        assert row["weight"] == 0.5 and row["score"] < 0
    config = saved(workdir)
    assert config["objective"] == str(folder / "gradient.py")
    assert config["gradient"] == {"weight": 0.5} and "gdsd" not in config
    assert config["name"] == "coding-tiny-gradient"
    assert "gradient.weight" in (workdir / "report.html").read_text()
    assert settings.read(workdir).objective_config.weight == 0.5


@pytest.mark.slow
def test_an_order_of_ones_own_is_what_the_sampler_follows(extended):
    workdir, folder = extended
    for row in phase(read_metrics(workdir / "metrics.jsonl"), "train"):
        assert row["later_first"] == 1.0
    assert saved(workdir)["sampler"]["remasking"] == str(folder / "leftwards.py")


@pytest.mark.slow
def test_a_sink_of_ones_own_gets_every_row_once(extended):
    """Also the rows that the second call has written again."""
    workdir, folder = extended
    lines = (workdir / "lines.txt").read_text().splitlines()
    assert all(line.startswith("coding-tiny-gradient {") for line in lines)
    got = [json.loads(line.partition(" ")[2]) for line in lines]
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [(row["phase"], row["step"]) for row in got] == [
        (row["phase"], row["step"]) for row in rows
    ]
    assert [row["step"] for row in phase(got, "eval")] == [0, 1, 2]
    assert saved(workdir)["sinks"] == [str(folder / "lines.py"), "csv"]
    assert len((workdir / "eval.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_model_of_ones_own_is_trained_and_loaded(extended):
    workdir, folder = extended
    assert saved(workdir)["model"] == str(folder / "narrow.py")
    denoiser, params, tokenizer = weights.load(workdir)
    assert (denoiser.config.layers, denoiser.config.d_model) == (1, 32)
    assert params["embed"]["embedding"].shape == (tokenizer.vocab_size, 32)


# ---------------------------------------------------------------- what is wrong in such a file


@pytest.fixture(scope="module")
def main():
    return load_script("main").main


OF_ALL = {  # kind: (its key, what its file must define)
    "task": ("task", "make"),
    "objective": ("objective", "OBJECTIVE"),
    "order": ("sampler.remasking", "ORDER"),
    "sink": ("sinks", "SINK"),
    "model": ("model", "PRESET"),
}
WRONG = {}  # (key, the file's text or None, what is said)
for kind, (key, name) in OF_ALL.items():
    WRONG |= {
        f"{kind}, no attribute": (key, "other = 1\n", f"the file defines no {name}"),
        f"{kind}, bad syntax": (key, "def make(:\n", "fails: SyntaxError"),
        f"{kind}, fails": (key, "import nothing_of_that_name\n", "fails: ModuleNotFoundError"),
        f"{kind}, no file": (key, None, "is not a readable file (FileNotFoundError): check"),
    }
WRONG |= {
    "objective, another thing": ("objective", "OBJECTIVE = 3", "OBJECTIVE is a int, give"),
    "order, another thing": ("sampler.remasking", "ORDER = 3", "ORDER is not a function"),
    "model, another thing": ("model", "PRESET = 3", "PRESET is a int, give a models.ModelConfig"),
    "task, options": (
        "task",
        TASK.replace("@dataclasses.dataclass(frozen=True)\n", ""),
        "OPTIONS is not a dataclass: add @dataclasses.dataclass",
    ),
    "task, length": (
        "task",
        TASK.replace("Grades(-wrong_N,", "Grades(np.zeros(2),"),
        "grade's reward_N has shape [2]: give [0]",
    ),
    "task, answers": (
        "task",
        TASK.replace("grade, answer, score", "grade, score"),
        "this task has no answers to fine-tune on: set sft.steps=0",
    ),
    "task, prefill": (
        "task",
        TASK.replace('f"{BEGIN}{', 'f"{'),
        "an answer does not begin with its prefill 'Count: '",
    ),
    "task, reserved": (
        "task",
        TASK.replace('"number": np', '"loss": np'),
        "grade's part 'loss' has a name of the metrics: choose another",
    ),
    "task, score": (
        "task",
        TASK.replace('score="near"', 'score="nearness"'),
        "score='nearness' is no part: choose one of reward, near, number",
    ),
    "task, empty": (
        "task",
        TASK.replace("    said = [", "    texts[0]\n    said = ["),
        "grade([], []) fails (IndexError: list index out of range): for no answers return",
    ),
}


@pytest.mark.parametrize(("key", "text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_named_in_one_line(main, monkeypatch, capsys, tmp_path, key, text, said):
    """Before anything is compiled or written."""
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("training began"))
    workdir, file = tmp_path / "workdir", tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    config = f"{ROOT}/configs/coding.py:{TINY},sft.batch=8,data_dir={tmp_path},{key}={file}"
    monkeypatch.setattr(sys, "argv", ["main.py", f"--config={config}", f"--workdir={workdir}"])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(file) in line and said in line, line
    assert not workdir.exists()


def test_an_unknown_option_of_a_task_is_named(main, monkeypatch, capsys, tmp_path):
    write(tmp_path, letters=TASK)
    config = f"{ROOT}/configs/coding.py:{TINY},task={tmp_path}/letters.py,options.leter=b"
    monkeypatch.setattr(sys, "argv", ["main.py", f"--config={config}"])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown config key 'options.leter'; near it: options.letter" in line
