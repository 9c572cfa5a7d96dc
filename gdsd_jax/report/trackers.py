"""Sinks of trackers: TensorBoard, Weights & Biases, MLflow. Each package is imported by its own.

A tracker has one axis of steps for a name, and the phases of a run have several. So each phase is a
run of TensorBoard, and a folder of names, such as `train/loss`, in the others.
"""

from collections.abc import Mapping, Sequence
import json
import os
import tempfile
import time
from typing import Any
import uuid

from etils import epath

from gdsd_jax import paths
from gdsd_jax.metrics import PHASES, Sink

PROJECT = "gdsd_jax"  # where the trackers file the runs, unless their own variables say otherwise
TEXTS = 8  # answers of an evaluation that are shown as text


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by name, but for its step; null is left out."""
    left_out = ("phase", "step")
    return {key: value for key, value in row.items() if key not in left_out and value is not None}


def answer_text(answer: Mapping[str, Any]) -> str:
    """An answer below its question in Markdown; both are indented, which is code there, so that
    nothing in them is read as Markdown."""
    score = answer.get("score")
    told = "" if score is None else f"score {score:.3f}"
    parts = (answer.get("question", ""), answer["text"])
    question, text = ("\n".join(f"    {line}" for line in part.split("\n")) for part in parts)
    return f"{question}\n\n{told}\n\n{text}"


# ---------------------------------------------------------------- TensorBoard


class Events:
    """WORKDIR/tensorboard, a folder a phase with one file of events, the rows in metrics.jsonl.

    A run that goes on begins its files with the rows that stay. Their first event takes back what a
    TensorBoard that is looking has read before. Object stores cannot append: there the files are
    written on the local disk and copied after an eval row, by `close`, and otherwise every
    `REWRITE_S` seconds.
    """

    REWRITE_S = 30.0

    def __init__(self, workdir: epath.Path):
        """Makes no file: `start` does."""
        self.workdir, self.folder = workdir, workdir / "tensorboard"
        self.files: dict[str, tuple[epath.Path, Any]] = {}  # phase -> (local path, writer)
        self.local = self.beside = None
        if paths.is_remote(workdir):
            self.beside = tempfile.TemporaryDirectory(prefix="tensorboard")
            self.local = epath.Path(self.beside.name)
        self.began = self.copied = time.time()

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for old in sorted(self.folder.glob("*/events.*")):
            old.unlink()
        self.began = time.time() - max((row.get("wall_s") or 0.0 for row in rows), default=0.0)
        for row in rows:
            self.add(row)
            kept = self.workdir / "samples" / f"{row['step']:06}.json"
            if row["phase"] == "eval" and kept.exists():
                self.show(row["step"], json.loads(kept.read_text()), row.get("wall_s"))
        self.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        self.add(row)
        if self.local is None or row["phase"] == "eval":
            self.flush()
        elif time.time() - self.copied > self.REWRITE_S:
            self.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """All numbers of a row as one event."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=key, simple_value=value) for key, value in numbers_of(row).items()
        ]
        self.put(row["phase"], row["step"], row.get("wall_s"), summary=Summary(value=values))

    def show(
        self, number: int, answers: Sequence[Mapping[str, Any]], wall_s: float | None = None
    ) -> None:
        from tensorboardX.summary import text

        for place, answer in enumerate(answers[:TEXTS], 1):
            summary = text(f"answer {place}", answer_text(answer).encode(errors="replace").decode())
            self.put("eval", number, wall_s, summary=summary)
        self.flush()

    def put(self, phase: str, step: int, wall_s: float | None, **what: Any) -> None:
        """Writes an event; `wall_s` None is now."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        if phase not in self.files:
            path = (self.local or self.folder) / phase / f"events.out.tfevents.{time.time_ns()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = RecordWriter(os.fspath(path))
            self.files[phase] = path, writer
            log = SessionLog(status=SessionLog.START)
            for first in ({"file_version": "brain.Event:2"}, {"session_log": log}):
                writer.write(Event(wall_time=self.began, step=0, **first).SerializeToString())
        at = time.time() if wall_s is None else self.began + wall_s
        _, writer = self.files[phase]
        writer.write(Event(wall_time=at, step=step, **what).SerializeToString())

    def flush(self) -> None:
        for phase, (path, writer) in self.files.items():
            writer.flush()
            if self.local is not None:
                (self.folder / phase).mkdir(parents=True, exist_ok=True)
                paths.write_whole(self.folder / phase / path.name, path.read_bytes())
        self.copied = time.time()

    def close(self) -> None:
        self.flush()
        for _, writer in self.files.values():
            writer.close()
        if self.beside is not None:
            self.beside.cleanup()


def tensorboard(workdir: epath.Path, settings: Mapping[str, Any]) -> Sink:
    """`tensorboard --logdir WORKDIR/tensorboard` shows curves and answers."""
    del settings
    events = Events(workdir)
    return Sink(events.write, events.close, start=events.start, show=events.show)


# ---------------------------------------------------------------- trackers that keep runs by an id


def kept_id(workdir: epath.Path, tracker: str) -> str | None:
    """What WORKDIR/TRACKER.id holds; None where there is none, or where no run goes on."""
    file = workdir / f"{tracker}.id"
    goes_on = file.exists() and (workdir / "metrics.jsonl").exists()
    return file.read_text().strip() if goes_on else None


def keep_id(workdir: epath.Path, tracker: str, identity: str) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    paths.write_whole(workdir / f"{tracker}.id", identity.encode())


def wandb(workdir: epath.Path, settings: Mapping[str, Any]) -> Sink:
    """A run of Weights & Biases, the same one when the run goes on.

    Its variables hold, such as WANDB_MODE=offline and WANDB_PROJECT.
    """
    import wandb as package

    identity = kept_id(workdir, "wandb") or uuid.uuid4().hex
    folder = tempfile.gettempdir() if paths.is_remote(workdir) else os.fspath(workdir)
    os.makedirs(folder, exist_ok=True)
    run = package.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=settings.get("name"),
        id=identity,
        resume="allow",
        dir=folder,
        config=dict(settings),
        settings=package.Settings(silent=True, console="off"),
    )
    keep_id(workdir, "wandb", identity)
    for phase in PHASES:
        run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    last = 0

    def log(phase: str, step: int, numbers: Mapping[str, Any]) -> None:
        # steps of its own that never go back, also where an earlier process cannot be asked
        nonlocal last
        last = max(last + 1, time.time_ns() // 1_000_000)
        named = {f"{phase}/{key}": value for key, value in numbers.items()}
        run.log({f"{phase}/step": step, **named}, step=last)

    def write(row: Mapping[str, Any]) -> None:
        log(row["phase"], row["step"], numbers_of(row))

    def show(number: int, answers: Sequence[Mapping[str, Any]]) -> None:
        table = package.Table(columns=["question", "answer", "score"])
        for answer in answers[:TEXTS]:
            table.add_data(answer.get("question", ""), answer["text"], answer.get("score"))
        log("eval", number, {"answers": table})

    return Sink(write, run.finish, show=show)


def mlflow(workdir: epath.Path, settings: Mapping[str, Any]) -> Sink:
    """A run of MLflow, the same one when the run goes on; in WORKDIR/mlruns, unless
    MLFLOW_TRACKING_URI says otherwise."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address is None and paths.is_remote(workdir):
        raise ValueError("it keeps no runs in an object store: set MLFLOW_TRACKING_URI")
    if address is None:  # newer versions ask to be told that files are meant
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        address = f"file://{workdir.absolute() / 'mlruns'}"
    client = MlflowClient(address)
    identity = kept_id(workdir, "mlflow")
    if identity is None:
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(project)
        experiment = client.create_experiment(project) if found is None else found.experiment_id
        identity = client.create_run(experiment, run_name=settings.get("name")).info.run_id
        client.log_dict(identity, dict(settings), "config.json")
        keep_id(workdir, "mlflow", identity)
    else:
        client.update_run(identity, status="RUNNING")

    def write(row: Mapping[str, Any]) -> None:
        at = int(time.time() * 1000)
        metrics = [
            Metric(f"{row['phase']}/{key}", value, at, row["step"])
            for key, value in numbers_of(row).items()
        ]
        client.log_batch(identity, metrics)

    def show(number: int, answers: Sequence[Mapping[str, Any]]) -> None:
        texts = "\n\n---\n\n".join(answer_text(answer) for answer in answers[:TEXTS])
        client.log_text(identity, texts, f"answers/{number:06}.md")

    return Sink(write, lambda: client.set_terminated(identity), show=show)
