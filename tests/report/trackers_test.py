"""Trackers hold every step once, also of a run that was killed and went on."""

import importlib.util
import json
import os
from pathlib import Path
import signal
import struct
import subprocess
import sys

import pytest

from gdsd_jax import metrics
from gdsd_jax.report import sinks, trackers

ROOT = Path(__file__).resolve().parents[2]
GRADES = {"reward": 1.25, "solved": 0.0, "tests": 0.5}
ANSWERS = [{"question": "Why?\n# no title", "text": "```\n<b>so\ud800", "grades": GRADES}]

PROGRAM = """
import os, pathlib, signal, sys
from gdsd_jax.metrics import MetricsWriter
from gdsd_jax.report import open_sinks

name, workdir, keep, last, end = sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:]
sinks = open_sinks([name], workdir, {"name": "a run", "seed": 7})
writer = MetricsWriter(workdir / "metrics.jsonl", keep=int(keep), sinks=sinks)
for step in range(int(keep), int(last)):
    writer.write("train", step, loss=step / 4, empty=float("nan"))
writer.write("eval", int(last), pass_at_1=0.5)
writer.show(int(last), [{"question": "Why?", "text": "so", "grades": {"tests": 0.5}}])
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
writer.close()
"""


def go(name, workdir, keep, last, end="close"):
    """A process that writes train lines `keep` to `last` and an evaluation."""
    command = [sys.executable, "-c", PROGRAM, name, str(workdir), str(keep), str(last), end]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"WANDB_MODE": "offline"},
    )
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr


def events_of(folder):
    """The events of the files in a folder, in the order in which TensorBoard reads them."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("*tfevents*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            whole = data[at + 12 : at + 12 + size]
            (stated,) = struct.unpack_from("<I", data, at + 12 + size)
            crc = crc32c(whole)
            assert stated == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            found.append(Event.FromString(whole))
            at += 16 + size
    return found


def scalars(folder, tag):
    values = [(event.step, one) for event in events_of(folder) for one in event.summary.value]
    return {step: one.simple_value for step, one in values if one.tag == tag}, len(
        [one for _, one in values if one.tag == tag]
    )


def test_tensorboard_holds_the_rows_of_the_file(tmp_path):
    pytest.importorskip("tensorboardX")
    go("tensorboard", tmp_path, 0, 10, "kill")  # a checkpoint after 5 lines
    go("tensorboard", tmp_path, 5, 6, "kill")
    go("tensorboard", tmp_path, 5, 12)
    folder = tmp_path / "tensorboard"
    assert len(list(folder.iterdir())) == 1, "one file"
    found, count = scalars(folder, "train/loss")
    assert found == {step: step / 4 for step in range(12)} and count == 12, "each step once"
    assert scalars(folder, "train/empty") == ({}, 0), "null is left out"
    version, purge, *_ = events_of(folder)
    assert version.file_version == "brain.Event:2"
    assert purge.step == 0 and purge.session_log.status == purge.session_log.START
    assert scalars(folder, "eval/pass_at_1") == ({12: 0.5}, 1)
    times = [event.wall_time for event in events_of(folder)]
    rows = [row for row in metrics.read_metrics(tmp_path / "metrics.jsonl")]
    assert times[-1] - times[2] == pytest.approx(rows[11]["wall_s"] - rows[0]["wall_s"], abs=0.01)


def test_tensorboard_tells_what_the_numbers_mean(tmp_path):
    """Once, in the form in which it keeps the sentence: class 1 of data is a scalar."""
    pytest.importorskip("tensorboardX")
    (sink,) = sinks.open_sinks(["tensorboard"], tmp_path, {})
    sink.start([])
    for step in (1, 2):
        sink.write({"phase": "train", "step": step, "wall_s": 1.0, "move": 0.5, "mine": 1.0})
        sink.write({"phase": "probe", "step": step, "wall_s": 1.0, "move": 0.25})
        sink.write({"phase": "eval", "step": step, "wall_s": 1.0, "tests": 0.25})
    sink.close()
    values = [one for event in events_of(tmp_path / "tensorboard") for one in event.summary.value]
    told = {one.tag: one.metadata for one in values if one.HasField("metadata")}
    assert len([one for one in values if one.HasField("metadata")]) == len(told) == 7
    assert {one.plugin_data.plugin_name for one in told.values()} == {"scalars"}
    assert all(b"\x20\x01" in one.SerializeToString() for one in told.values())
    said = {tag: one.summary_description for tag, one in told.items()}
    assert said["train/move"].startswith("Mean distance of a score from that before the round")
    assert said["probe/move"].startswith("Mean distance that a round's updates moved")
    assert said["eval/tests"].startswith("A part of the grades")
    assert said["train/mine"].startswith("A number of the run's own objective")
    assert said["train/wall_s"] == "Seconds of running so far, those before a resume included"


def test_tensorboard_goes_on_with_a_run_of_an_earlier_version(tmp_path):
    """That had a folder a phase; what others wrote beside stays."""
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "tensorboard"
    for name in ("train/events.out.tfevents.17", "eval/events.out.tfevents.18", "eval/notes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "events.out.tfevents.17.host").write_text("")
    (tmp_path / "config.json").write_text(json.dumps({"score": "tests"}))
    (tmp_path / "samples").mkdir()
    kept = [{"question": "Why?", "text": "so", "score": 0.5}]
    (tmp_path / "samples" / "000003.json").write_text(json.dumps(kept))
    (sink,) = sinks.open_sinks(["tensorboard"], tmp_path, {})
    sink.start([{"phase": "eval", "step": 3, "wall_s": 1.0, "pass_at_1": 0.5}])
    sink.close()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    (own,) = names - {"eval", "eval/notes", "events.out.tfevents.17.host"}
    (folder / "events.out.tfevents.17.host").unlink()
    assert own.startswith("events.out.tfevents.")
    assert scalars(folder, "eval/pass_at_1") == ({3: 0.5}, 1)
    last = events_of(folder)[-1].summary.value[0].tensor.string_val[0].decode()
    assert last.endswith("    tests 0.50"), "the part has its name, not that of a likelihood"


def test_tensorboard_shows_answers_as_they_are(tmp_path):
    """Also those of a run that goes on, from samples/."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "000003.json").write_text(json.dumps(ANSWERS))
    (sink,) = sinks.open_sinks(["tensorboard"], tmp_path, {})
    sink.start([{"phase": "eval", "step": 3, "wall_s": 1.0, "pass_at_1": 0.5}])
    sink.show(4, ANSWERS)
    sink.close()
    texts = {
        event.step: event.summary.value[0].tensor.string_val[0].decode()
        for event in events_of(tmp_path / "tensorboard")
        if event.summary.value and event.summary.value[0].tag.startswith("eval/answer 1")
    }
    question = "Question\n\n    Why?\n    # no title"
    answer = "Answer at temperature 0, greedy\n\n    ```\n    <b>so?"
    text = f"{question}\n\n{answer}\n\nIts grades\n\n    not solved, reward 1.25, tests 0.50"
    assert texts == {3: text, 4: text}
    nothing = trackers.answer_text({"text": "", "grades": {}})
    assert nothing.count("*none*") == 3, "not a heading below a heading"


def test_tables_have_a_column_a_grade():
    unjudged = {"question": "Where?", "text": "", "grades": {}, "sampled": {"text": "x"}}
    columns, rows = trackers.answer_table([*ANSWERS, unjudged, *ANSWERS * 8])
    assert columns == ["question", "answer, temperature 0", "reward", "solved", "tests"]
    assert rows[0][2:] == [1.25, 0.0, 0.5] and len(rows) == trackers.TEXTS
    assert rows[1] == ["Where?", "", None, None, None]
    assert trackers.answer_table([]) == (["question", "answer, temperature 0"], [])


def test_tensorboard_in_an_object_store(tmp_path, monkeypatch):
    """Nothing can be appended there: whole files come after an evaluation and at the end."""
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(trackers.paths, "is_remote", lambda path: True)
    events = trackers.Events(trackers.epath.Path(tmp_path / "run"))
    events.start([])
    events.write({"phase": "train", "step": 1, "loss": 0.5})
    assert not list(tmp_path.rglob("*tfevents*"))
    events.write({"phase": "eval", "step": 1, "pass_at_1": 0.25})
    folder = tmp_path / "run" / "tensorboard"
    assert scalars(folder, "train/loss") == ({1: 0.5}, 1)
    events.write({"phase": "train", "step": 2, "loss": 0.25})
    events.close()
    found, count = scalars(folder, "train/loss")
    assert found == {1: 0.5, 2: 0.25} and count == 2


def wandb_history(workdir):
    """The rows that the offline runs of a workdir hold, in order, as dicts."""
    from wandb.proto import wandb_internal_pb2

    found, names = [], set()
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        names.add(path.name)
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):  # LevelDB's log: blocks of 32 KiB behind a head
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            if not kind:
                break
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                record = wandb_internal_pb2.Record.FromString(whole)
                if record.history.item:
                    items = [(i.key or "/".join(i.nested_key), i) for i in record.history.item]
                    found.append({key: json.loads(item.value_json) for key, item in items})
                whole = b""
    return found, names


@pytest.mark.slow
def test_wandb_goes_on_with_its_run(tmp_path):
    pytest.importorskip("wandb")
    go("wandb", tmp_path, 0, 10)
    go("wandb", tmp_path, 5, 12)
    rows, names = wandb_history(tmp_path)
    train = [(row["train/step"], row["train/loss"]) for row in rows if "train/step" in row]
    assert train == [(step, step / 4) for step in range(12)]
    assert len(names) == 1 and names == {f"run-{(tmp_path / 'wandb.id').read_text()}.wandb"}
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps)), "a tracker that merges both finds no step again"
    assert any(row.get("eval/answers/_type") == "table-file" for row in rows)


@pytest.mark.slow
def test_mlflow_goes_on_with_its_run(tmp_path):
    pytest.importorskip("mlflow")
    go("mlflow", tmp_path, 0, 10, "kill")
    go("mlflow", tmp_path, 5, 6, "kill")
    go("mlflow", tmp_path, 5, 12)
    (kept,) = tmp_path.glob("mlruns/*/*/metrics/train/loss")
    lines = [line.split() for line in kept.read_text().splitlines()]
    assert [(int(step), float(loss)) for _, loss, step in lines] == [
        (step, step / 4) for step in range(12)
    ]
    run = kept.parents[2]
    assert run.name == (tmp_path / "mlflow.id").read_text()
    assert "so" in (run / "artifacts" / "answers" / "000012.md").read_text()
    assert json.loads((run / "artifacts" / "config.json").read_text())["seed"] == 7


@pytest.mark.parametrize("name, package", sinks.PACKAGES.items())
def test_a_missing_package_is_one_line(name, package, monkeypatch):
    """Told with the other settings, before the run has a workdir."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *more: None if one == package else found(one)
    )
    with pytest.raises(ValueError, match=f"pip install {package}, or leave") as caught:
        sinks.find_sink(name)
    assert "\n" not in str(caught.value)
