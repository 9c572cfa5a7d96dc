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

from gdsd_jax import metrics
from gdsd_jax.metrics import MetricsWriter, duration, read_metrics, round_line


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
    with pytest.raises(ValueError, match="'warmup'.*sft, rollout, train, eval"):
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


def test_bad_line_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"phase": "sft"}\nnonsense\n')
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
        == "round    7/1000 | reward  0.500 | tests  25.0% |       812 tokens/s |        - left"
    )
    assert len(lines[0]) == len(lines[1])
    assert round_line(8, 1000, 42) == "round    8/1000 |     42 s left"
    assert (
        round_line(1, 10, kl=0.5, drift_mean=0.125)
        == "round  1/10 | KL  0.500 nats a token | drift_mean    0.125 |        - left"
    )


def test_durations():
    given = [0, 59.6, 187, 7387, 4 * 86400 + 3600 * 5, math.inf, -1]
    assert [duration(seconds) for seconds in given] == [
        "0 s",
        "1:00",
        "3:07",
        "2:03:07",
        "4 d 05 h",
        "-",
        "0 s",
    ]
