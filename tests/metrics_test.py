"""metrics.jsonl survives kills and resumes, and stays JSON."""

import json
import math
import os
from pathlib import Path
import signal
import subprocess
import sys

import numpy as np
import pytest

from gdsd_jax import meanings, metrics
from gdsd_jax.metrics import MetricsWriter, Pace, duration, read_metrics, round_line
from tests.report.rows import unexplained

ROOT = Path(__file__).resolve().parents[1]


def test_lines_come_back(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    writer = MetricsWriter(path, clock=iter([10.0, 11.5, 12.0]).__next__)
    writer.write("sft", 3, loss=np.float32(0.5))
    writer.write("eval", 0, pass_at_1=1, mean_reward=np.array([0.25]))
    assert writer.cursor() == 2
    writer.close()
    assert read_metrics(path) == [
        {"phase": "sft", "step": 3, "wall_s": 1.5, "loss": 0.5},
        {"phase": "eval", "step": 0, "wall_s": 2.0, "pass_at_1": 1, "mean_reward": 0.25},
    ]


def test_jax_scalars_are_numbers(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write("train", 1, loss=jnp.float32(2), low=jnp.bfloat16(0.5), count=jnp.int32(7))
    row = read_metrics(tmp_path / "m.jsonl")[0]
    assert (row["loss"], row["low"], row["count"]) == (2.0, 0.5, 7)


def test_a_part_may_have_any_name_that_is_not_reserved(tmp_path):
    names = {name: 0.5 for name in ("self", "values", "two words", "Größe")}
    MetricsWriter(tmp_path / "m.jsonl").write("rollout", 1, **names)
    assert metrics.parts_of(read_metrics(tmp_path / "m.jsonl")) == tuple(names)
    said = round_line(1, 2, **names)
    assert all(f"{name}  0.500" in said for name in names)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_json_does_not_know_is_null(tmp_path, value):
    path = tmp_path / "m.jsonl"
    MetricsWriter(path).write("train", 1, loss=value)

    def reject(name):
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(path.read_text(), parse_constant=reject)["loss"] is None


@pytest.mark.parametrize("value", ["0.5", None, np.zeros(2), [1.0], 1j])
def test_what_is_no_number_is_refused_by_name(tmp_path, value):
    with pytest.raises(TypeError, match="'loss'"):
        MetricsWriter(tmp_path / "m.jsonl").write("train", 1, loss=value)


def test_unknown_phase_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'warmup'.*sft, rollout, train, probe, eval"):
        MetricsWriter(tmp_path / "m.jsonl").write("warmup", 1)


@pytest.mark.parametrize("remote", [False, True])
def test_resume_cuts_to_the_cursor_and_goes_on(tmp_path, monkeypatch, remote):
    path = tmp_path / "m.jsonl"
    address = f"gs://bucket/{path.name}" if remote else path
    # a bucket in a folder
    monkeypatch.setattr(metrics.epath, "Path", lambda given: tmp_path / os.path.basename(given))
    ticks = iter(range(100))
    first = MetricsWriter(address, clock=lambda: float(next(ticks)))
    for step in range(3):
        first.write("train", step, loss=step)
    cursor = first.cursor()
    first.write("train", 3, loss=math.nan)
    first.close()
    path.write_bytes(path.read_bytes() + b'{"phase": "train", "ste')
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3]

    again = MetricsWriter(address, keep=cursor, clock=lambda: 1000.0)
    assert again.cursor() == 3
    again.write("eval", 9, pass_at_1=0.5)
    again.close()
    rows = read_metrics(path)
    assert [(row["phase"], row["step"]) for row in rows] == [
        ("train", 0),
        ("train", 1),
        ("train", 2),
        ("eval", 9),
    ]
    assert rows[3]["wall_s"] == rows[2]["wall_s"], "time goes on from the last line that was kept"


def test_a_fresh_start_forgets_the_old_file_and_a_short_one_is_kept_whole(tmp_path):
    path = tmp_path / "m.jsonl"
    MetricsWriter(path).write("train", 1)
    assert MetricsWriter(path, keep=5).cursor() == 1
    assert MetricsWriter(path).cursor() == 0
    assert read_metrics(path) == []


def test_other_processes_count_but_do_not_write(tmp_path):
    path = tmp_path / "m.jsonl"
    writer = MetricsWriter(path, keep=4, enabled=False)
    writer.write("train", 1, loss=1.0)
    writer.close()
    assert writer.cursor() == 5 and not path.exists()


def test_killed_process_leaves_whole_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    program = (
        "import os, signal, sys; from gdsd_jax.metrics import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1])\n"
        "for step in range(50): writer.write('train', step, loss=0.1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(path)] == list(range(50))
    assert path.read_bytes().endswith(b"}\n")


def test_lines_that_are_lost_are_told_of(tmp_path):
    """A file that was deleted, or cut, goes on with what is left of it."""
    path, said = tmp_path / "m.jsonl", []
    for left in (0, 2):
        path.write_text('{"phase": "sft", "step": 1, "wall_s": 2.0}\n' * left)
        writer = MetricsWriter(path, keep=5, say=said.append)
        writer.write("sft", 9)
        assert writer.cursor() == left + 1
        assert said.pop() == f"{path}: {5 - left} of 5 lines of this run are not there"
        writer.close()
    assert not said


@pytest.mark.parametrize(
    "line",
    ["17", "[]", '{"phase": "sft"}', '{"phase": "x", "step": 1}', '{"phase": ["sft"], "step": 1}']
    + [f'{{"phase": "sft", "step": {step}}}' for step in ("-1", "1.0", "true", "null", '"1"')]
    + [
        f'{{"phase": "sft", "step": 1, "wall_s": {value}}}'
        for value in ('"2"', "true", "[2]", "{}", "NaN", "Infinity", "1e400", "9" * 400)
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"phase": "sft", "step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2 is none of a run"):
        MetricsWriter(path, keep=2).open()


def test_bad_line_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"phase": "sft", "step": 1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2"):
        read_metrics(path)
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "absent.jsonl")


def test_round_lines_align():
    """And say nothing of what there is not: a reward in distillation, a rollout in a round resumed
    inside."""

    def line(round, *numbers):
        return round_line(round, 1000, **dict(zip(("tokens_per_s", "tests", "reward"), numbers)))

    lines = [line(7, 812.3, 0.25, 0.5), line(1000, 1234567, 1.0, -1.25)]
    assert (
        lines[0]
        == "round    7/1000 | reward  0.500 | tests  0.250 |       812 tokens/s |        - left"
    )
    assert len(lines[0]) == len(lines[1])
    assert round_line(8, 1000, 42) == "round    8/1000 |     42 s left"
    assert (
        round_line(1, 10, kl=0.5, drift_mean=0.125)
        == "round  1/10 | KL  0.500 nats a token | drift_mean    0.125 |        - left"
    )


def test_time_left_forgets_how_long_compiling_took():
    """Also of what goes on after four steps."""
    for before in (0, 4):
        pace = Pace(before + 10, before, clock=iter([0.0, 300.0, 310.0, 322.0]).__next__)
        assert [pace.left(before + done) for done in (1, 2, 3)] == [2700, 80, 77]


def test_round_lines_show_the_parts_of_any_task():
    said = round_line(1, 9, drift_mean=0.5, cells=0.75, reward=1.0, kl=0.25, **{"{valid}": -2.0})
    parts = "reward  1.000 | cells  0.750 | {valid} -2.000"
    rest = "KL  0.250 nats a token | drift_mean      0.5"
    assert said == f"round 1/9 | {parts} | {rest} |        - left"


def test_parts_are_what_the_loop_does_not_write_itself():
    rows = [
        {"phase": "sft", "step": 1, "wall_s": 0.5, "loss": 1.0},
        {"phase": "eval", "step": 0, "pass_at_1": 0.5, "mean_reward": 0.5, "valid": 1.0},
        {"phase": "rollout", "step": 1, "reward": 1.0, "solved": 0.5, "cells": 0.5, "valid": 1.0},
        {"phase": "rollout", "step": 1, "drift_mean": 0.5, "tokens_per_s": 1.0, "length": 3},
        {"phase": "train", "step": 1, "loss": 0.5, "slope": 1.0},
        {"phase": "eval", "step": 1, "teacher_pass_at_1": 1.0, "threshold_pass_at_1": 1.0},
    ]
    assert metrics.parts_of(rows) == ("valid", "cells")
    assert metrics.parts_of([]) == ()


@pytest.mark.parametrize(
    "name", ["step", "wall_s", "reward", "judged", "drift_x", "rounds", "teacher_x", "pass_at_8"]
)
def test_the_loops_own_names_are_reserved(name):
    assert meanings.is_reserved(name) and not meanings.is_reserved(f"my_{name}")


def test_nothing_is_touched_before_the_file_is_opened(tmp_path):
    path = tmp_path / "new" / "m.jsonl"
    writer = MetricsWriter(path, keep=1)
    assert not path.parent.exists(), "made with the file"
    writer.open()
    assert path.read_bytes() == b""
    for step in range(3):
        writer.write("train", step)
    writer.close()
    MetricsWriter(path, keep=1)
    MetricsWriter(path, keep=1).close()
    assert len(read_metrics(path)) == 3, "a writer that was never opened cuts nothing"
    writer = MetricsWriter(path, keep=1)
    writer.open()
    assert len(read_metrics(path)) == 1
    writer.write("train", 1)
    writer.open()
    assert writer.cursor() == len(read_metrics(path)) == 2, "opening again cuts nothing"


def test_a_closed_writer_takes_no_lines(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.close()
    with pytest.raises(ValueError, match=r"m\.jsonl is closed"):
        writer.write("train", 1)


def test_durations():
    told = {0: "0 s", 59.6: "1:00", 187: "3:07", 7387: "2:03:07", 4 * 86400 + 3600 * 5: "4 d 05 h"}
    told |= {math.inf: "-", -1: "0 s"}
    assert [duration(seconds) for seconds in told] == list(told.values())


def test_every_key_of_a_run_has_its_meaning(workdir):
    rows = read_metrics(workdir / "metrics.jsonl")
    assert unexplained(rows, parts=("tests", "format")) == []
    assert unexplained([{"phase": "train", "step": 1, "mystery": 1.0}]) == ["mystery"]
    assert meanings.meaning_of("train", "kl") != meanings.meaning_of("eval", "kl")


def test_the_guide_says_what_the_keys_mean():
    text = " ".join((ROOT / "gdsd_jax" / "README.md").read_text().split())
    for place, names in meanings.MEANINGS.items():
        for key, meaning in names.items():
            assert place == "terminal" or f"- `{key}`: {meaning}" in text, (place, key)
