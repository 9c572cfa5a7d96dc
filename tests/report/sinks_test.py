"""Sinks get every row once, also over kills and resumes, and never end a run."""

import csv
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest

from gdsd_jax import metrics
from gdsd_jax.metrics import MetricsWriter, read_metrics
from gdsd_jax.report import sinks

ROOT = Path(__file__).resolve().parents[2]

OWN = """
from gdsd_jax.report import Sink

def SINK(workdir, settings):
    file = open(workdir / "own.txt", "a")

    def write(row):
        print(settings["seed"], row["phase"], row["step"], sorted(row), file=file, flush=True)

    return Sink(write, file.close)
"""


def writer_of(workdir, *names, keep=0, **options):
    opened = sinks.open_sinks(names, workdir, {"seed": 7})
    return MetricsWriter(workdir / "metrics.jsonl", keep=keep, sinks=opened, **options)


def table(workdir, phase):
    with open(workdir / f"{phase}.csv", newline="") as file:
        return list(csv.DictReader(file))


def steps(workdir, phase="train"):
    return [int(row["step"]) for row in table(workdir, phase)]


def own_file(folder):
    file = folder / "own_sink.py"
    file.write_text(OWN)
    return str(file)


def test_csv_has_a_table_a_phase(tmp_path):
    writer = writer_of(tmp_path, "csv", clock=lambda: 5.0)
    writer.write("sft", 10, loss=0.5)
    writer.write("rollout", 1, reward=0.25, **{'a,"b"': 1})
    writer.write("train", 1, loss=float("nan"))
    writer.close()
    assert (tmp_path / "sft.csv").read_text() == "step,wall_s,loss\n10,0.0,0.5\n"
    assert table(tmp_path, "rollout") == [
        {"step": "1", "wall_s": "0.0", "reward": "0.25", 'a,"b"': "1"}
    ]
    assert table(tmp_path, "train")[0]["loss"] == "", "null is an empty cell"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["metrics.jsonl", "rollout.csv", "sft.csv", "train.csv"]


def test_columns_grow_without_losing_rows(tmp_path):
    writer = writer_of(tmp_path, "csv", clock=lambda: 0.0)
    writer.write("eval", 0, pass_at_1=0.5)
    writer.write("eval", 1, kl=1.5, pass_at_1=0.25)
    writer.write("eval", 2, solved=1)
    writer.write("eval", 3, pass_at_1=1.0)
    rows = [line.split(",") for line in (tmp_path / "eval.csv").read_text().splitlines()]
    assert rows == [
        ["step", "wall_s", "pass_at_1", "kl", "solved"],
        ["0", "0.0", "0.5", "", ""],
        ["1", "0.0", "0.25", "1.5", ""],
        ["2", "0.0", "", "", "1"],
        ["3", "0.0", "1.0", "", ""],
    ]


def test_sinks_get_the_rows_of_the_file(tmp_path):
    rows = []
    sink = metrics.Sink(rows.append, lambda: None)
    writer = MetricsWriter(tmp_path / "m.jsonl", sinks=[sink])
    writer.write("train", 1, loss=float("inf"), count=3)
    writer.write("eval", 1, pass_at_1=0.5)
    assert rows == read_metrics(tmp_path / "m.jsonl") and rows[0]["loss"] is None


PROGRAM = """
import os, pathlib, signal, sys
from gdsd_jax.metrics import MetricsWriter
from gdsd_jax.report import open_sinks

workdir, keep, last = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sinks = open_sinks(sys.argv[4:], workdir, {"seed": 7})
writer = MetricsWriter(workdir / "metrics.jsonl", keep=keep, sinks=sinks)
for step in range(keep, last):
    writer.write("train", step, loss=step / 4, keep=keep)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_and_kill(workdir, keep, last, *names):
    """Writes lines `keep` to `last` and is killed."""
    command = [sys.executable, "-c", PROGRAM, str(workdir), str(keep), str(last), *names]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_no_row_comes_twice_over_kills_and_resumes(tmp_path):
    own = own_file(tmp_path)
    run_and_kill(tmp_path, 0, 10, "csv", own)  # a checkpoint after 5 lines
    assert steps(tmp_path) == list(range(10))
    run_and_kill(tmp_path, 5, 6, "csv", own)  # killed at once: lines 6 to 9 are in no file now
    assert steps(tmp_path) == list(range(6))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 6
    run_and_kill(tmp_path, 5, 12, "csv", own)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(12))
    assert steps(tmp_path) == list(range(12))
    kept = [row["keep"] for row in table(tmp_path, "train")]
    assert kept == ["0"] * 5 + ["5"] * 7, "a table holds the rows of the file"
    lines = (tmp_path / "own.txt").read_text().splitlines()
    assert [int(line.split()[2]) for line in lines] == list(range(12))


def test_csv_mends_what_a_kill_left(tmp_path):
    run_and_kill(tmp_path, 0, 4, "csv")
    file = tmp_path / "train.csv"
    file.write_text(file.read_text()[:-4])  # the last line is torn
    writer = writer_of(tmp_path, "csv", keep=4)
    writer.write("train", 4, loss=9.0)
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    assert table(tmp_path, "train")[3]["loss"] == "0.75"


def test_csv_named_later_has_the_rows_before(tmp_path):
    run_and_kill(tmp_path, 0, 3)
    writer = writer_of(tmp_path, "csv", keep=3)
    writer.write("train", 3, loss=9.0, extra=1.0)
    assert steps(tmp_path) == [0, 1, 2, 3] and table(tmp_path, "train")[3]["extra"] == "1.0"


def test_another_run_in_the_same_folder_begins_anew(tmp_path):
    run_and_kill(tmp_path, 0, 4, "csv")
    run_and_kill(tmp_path, 2, 3, "csv")  # leaves a memory of four rows
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "eval.csv").write_text("step,solved\n9,1\n")
    writer = writer_of(tmp_path, "csv")
    writer.write("train", 0, other=1.0)
    assert not (tmp_path / "eval.csv").exists()
    assert table(tmp_path, "train")[0].keys() == {"step", "wall_s", "other"}
    assert steps(tmp_path) == [0]


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    run_and_kill(tmp_path, 0, 1)
    (tmp_path / "eval.csv").write_text("name,mark\nAda,1\n")
    with pytest.raises(ValueError, match=r"sink 'csv' does not open.*eval\.csv has no column step"):
        sinks.open_sinks(["csv"], tmp_path, {})
    assert (tmp_path / "eval.csv").read_text() == "name,mark\nAda,1\n"


def test_object_stores_get_whole_tables(tmp_path):
    """They cannot append: rows are held back, and come back from metrics.jsonl after a kill."""
    now = [0.0]

    def remote_tables():
        tables = sinks.Tables(tmp_path, clock=lambda: now[0])
        tables.remote = True
        return tables

    first = remote_tables()
    first.write({"phase": "train", "step": 1, "loss": 0.5})
    assert not (tmp_path / "train.csv").exists()
    now[0] = 31.0
    first.write({"phase": "train", "step": 2, "loss": 0.25})
    assert steps(tmp_path) == [1, 2]
    first.write({"phase": "train", "step": 3, "loss": 0.125})
    first.write({"phase": "eval", "step": 1, "kl": 1.0})
    assert steps(tmp_path) == [1, 2, 3] and steps(tmp_path, "eval") == [1]
    held_back = {"phase": "train", "step": 4, "loss": 0.0}
    first.write(held_back)
    assert steps(tmp_path) == [1, 2, 3]
    remote_tables().start([{"phase": "train", "step": 1, "loss": 0.5}, held_back])
    assert steps(tmp_path) == [1, 4] and not (tmp_path / "eval.csv").exists()


@pytest.mark.parametrize("remote", [False, True])
def test_sinks_get_rows_that_are_safe_in_the_file(tmp_path, monkeypatch, remote):
    path = tmp_path / "m.jsonl"
    monkeypatch.setattr(metrics.epath, "Path", lambda given: tmp_path / os.path.basename(given))
    rows, now = [], [0.0]

    def write(row):
        assert row in read_metrics(path)
        rows.append(row["step"])

    address = f"gs://bucket/{path.name}" if remote else path
    sink = metrics.Sink(write, lambda: rows.append("closed"))
    failed = []
    writer = MetricsWriter(address, sinks=[sink], clock=lambda: now[0], say=failed.append)
    writer.write("train", 1)
    assert rows == ([] if remote else [1])
    now[0] = 31.0
    writer.write("train", 2)
    assert rows == [1, 2]
    writer.write("train", 3)
    writer.close()
    assert rows == [1, 2, 3, "closed"] and not failed


def test_a_sink_that_fails_is_told_once_and_left_out(tmp_path, capsys):
    calls, rows = [], []

    def fail(row):
        calls.append(row)
        raise OSError("disk\nfull")

    def close():
        calls.append("closed")
        raise OSError("still full")

    bad, good = metrics.Sink(fail, close, "bad"), metrics.Sink(rows.append, lambda: None, "good")
    writer = MetricsWriter(tmp_path / "m.jsonl", sinks=[bad, good])
    for step in range(3):
        writer.write("train", step)
    writer.close()
    assert len(calls) == 2 and calls[1] == "closed"
    assert len(rows) == 3 == len(read_metrics(tmp_path / "m.jsonl"))
    said = capsys.readouterr().err
    assert said == "the sink bad fails, it gets no more rows: OSError: disk full\n"


def test_a_sink_that_fails_at_the_end_is_told(tmp_path):
    def close():
        raise OSError("gone")

    said = []
    sink = metrics.Sink(lambda row: None, close, "bad")
    writer = MetricsWriter(tmp_path / "m.jsonl", sinks=[sink], say=said.append)
    writer.close()
    assert said == ["the sink bad fails while it closes: OSError: gone"]


def test_other_processes_feed_no_sink(tmp_path):
    def refuse(*row):
        raise AssertionError

    sink = metrics.Sink(refuse, refuse)
    writer = MetricsWriter(tmp_path / "m.jsonl", enabled=False, sinks=[sink], say=refuse)
    writer.write("train", 1)
    writer.close()


def test_a_sink_of_ones_own(tmp_path):
    writer = writer_of(tmp_path, own_file(tmp_path), "csv")
    writer.write("eval", 3, pass_at_1=0.5)
    writer.close()
    said = "7 eval 3 ['pass_at_1', 'phase', 'step', 'wall_s']\n"
    assert (tmp_path / "own.txt").read_text() == said and steps(tmp_path, "eval") == [3]


@pytest.mark.parametrize(
    "names, text, said",
    [
        (["tensorbord"], "", "unknown sink 'tensorbord', known: csv, tensorboard, wandb, mlflow"),
        (["csv", "csv"], "", "'csv' is named twice"),
        (["FILE"], "", "defines no SINK"),
        (["FILE"], "def SINK(workdir, settings): raise OSError('no\\nlogin')", "OSError: no login"),
        (["FILE"], "def SINK(workdir, settings): return print", "must return a report.Sink"),
    ],
)
def test_what_is_no_sink_is_refused(tmp_path, names, text, said):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        sinks.open_sinks([name.replace("FILE", str(file)) for name in names], tmp_path, {})
    assert said in str(caught.value) and "\n" not in str(caught.value)
