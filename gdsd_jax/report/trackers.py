"""Sinks of trackers: TensorBoard, Weights & Biases, MLflow. Each package is imported by its own.

A tracker has one axis of steps for a name, and the phases of a run have several. So a name begins
with its phase, such as `train/loss`, and no chart mixes the numbers of two phases.
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
from gdsd_jax.meanings import sentence_of
from gdsd_jax.metrics import PHASES, Sink
from gdsd_jax.report.answers import COLD, Kept, answers_of, grades_at
from gdsd_jax.report.before_after import score_name
from gdsd_jax.report.charts import REWARD, sentence

PROJECT = "gdsd_jax"  # where the trackers file the runs, unless their own variables say otherwise
TEXTS = 8  # answers of an evaluation that are shown as text
GREEDY = f"Answer at {COLD}, greedy"


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by name, but for its step; null is left out."""
    left_out = ("phase", "step")
    return {key: value for key, value in row.items() if key not in left_out and value is not None}


def answer_text(kept: Mapping[str, Any], score: str = REWARD) -> str:
    """The greedy answer of an entry of samples/ below its question and its grades, in Markdown; all
    of what others wrote is indented, which is code there, so that nothing is read as Markdown.

    Args:
      kept: the entry.
      score: the name of its grade where an earlier version kept one alone.
    """
    greedy = answers_of("", kept, score)[0]
    grades = [f"{name} {value}".strip() for name, value in greedy.grades]
    question, text, told = (
        "\n".join(f"    {line}" for line in part.split("\n")) if part else "*none*"
        for part in (kept.get("question", ""), greedy.text, ", ".join(grades))
    )
    return f"Question\n\n{question}\n\n{GREEDY}\n\n{text}\n\nIts grades\n\n{told}"


def answer_table(answers: Kept) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows) of the first questions, their greedy answers, and a column a grade."""
    shown = [(answer, grades_at(answer, COLD)) for answer in answers[:TEXTS]]
    names = list(dict.fromkeys(name for _, grades in shown for name in grades))
    rows = [
        [answer.get("question", ""), answer["text"], *(grades.get(name) for name in names)]
        for answer, grades in shown
    ]
    return ["question", f"answer, {COLD}", *names], rows


# ---------------------------------------------------------------- TensorBoard


class Events:
    """WORKDIR/tensorboard, one file of events with the rows in metrics.jsonl.

    A run that goes on begins the file with the rows that stay. Its first event takes back what a
    TensorBoard that is looking has read before. Object stores cannot append: there the file is
    written on the local disk and copied after an eval row, by `close`, and otherwise every
    `REWRITE_S` seconds.
    """

    REWRITE_S = 30.0

    def __init__(self, workdir: epath.Path):
        """Makes no file: `start` does."""
        self.workdir, self.folder = workdir, workdir / "tensorboard"
        self.path = self.writer = None  # of the file, on the local disk
        self.told: set[str] = set()  # tags whose meaning is in the file
        self.beside = None
        if paths.is_remote(workdir):
            self.beside = tempfile.TemporaryDirectory(prefix="tensorboard")
        self.began = self.copied = time.time()

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.clear()
        score = score_name(self.workdir)
        self.began = time.time() - max((row.get("wall_s") or 0.0 for row in rows), default=0.0)
        for row in rows:
            self.add(row)
            kept = self.workdir / "samples" / f"{row['step']:06}.json"
            if row["phase"] == "eval" and kept.exists():
                answers = json.loads(kept.read_text())
                self.add_answers(row["step"], answers, row.get("wall_s"), score)
        self.flush()

    def clear(self) -> None:
        """Takes the files of earlier processes away; earlier versions had a folder a phase."""
        folders = [self.folder / phase for phase in PHASES]
        for folder in (self.folder, *folders):
            for old in sorted(folder.glob("events.out.tfevents.*")):
                if old.suffix[1:].isdigit():  # others name the host, and are not ours
                    old.unlink()
        if self.beside is None:  # in an object store a folder goes with its last file
            for folder in folders:
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()

    def write(self, row: Mapping[str, Any]) -> None:
        self.add(row)
        if self.beside is None or row["phase"] == "eval":
            self.flush()
        elif time.time() - self.copied > self.REWRITE_S:
            self.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """All numbers of a row as one event."""
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary()
        for key, number in numbers_of(row).items():
            tag = f"{row['phase']}/{key}"
            value = summary.value.add(tag=tag, simple_value=number)
            if tag not in self.told:
                self.told.add(tag)
                value.metadata.CopyFrom(metadata_of(sentence(sentence_of(row["phase"], key))))
        self.put(row["step"], row.get("wall_s"), summary)

    def show(self, number: int, answers: Kept) -> None:
        self.add_answers(number, answers)
        self.flush()

    def add_answers(
        self, number: int, answers: Kept, wall_s: float | None = None, score: str = REWARD
    ) -> None:
        """The first answers of the evaluation after `number` rounds, as texts."""
        from tensorboardX.summary import text

        for place, answer in enumerate(answers[:TEXTS], 1):
            said = answer_text(answer, score).encode(errors="replace").decode()
            self.put(number, wall_s, text(f"eval/answer {place}", said))

    def put(self, step: int, wall_s: float | None, summary: Any) -> None:
        """Writes an event; `wall_s` None is now."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        if self.writer is None:
            folder = self.folder if self.beside is None else epath.Path(self.beside.name)
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / f"events.out.tfevents.{time.time_ns()}"
            self.writer = RecordWriter(os.fspath(self.path))
            log = SessionLog(status=SessionLog.START)
            for first in ({"file_version": "brain.Event:2"}, {"session_log": log}):
                event = Event(wall_time=self.began, step=0, **first)
                self.writer.write(event.SerializeToString())
        at = time.time() if wall_s is None else self.began + wall_s
        self.writer.write(Event(wall_time=at, step=step, summary=summary).SerializeToString())

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()
            if self.beside is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                paths.write_whole(self.folder / self.path.name, self.path.read_bytes())
        self.copied = time.time()

    def close(self) -> None:
        self.flush()
        if self.writer is not None:
            self.writer.close()
        if self.beside is not None:
            self.beside.cleanup()


def metadata_of(description: str):
    """What TensorBoard tells of a tag, with its first number."""
    from tensorboardX.proto.summary_pb2 import SummaryMetadata

    # Field 4, the class of the data, is 1, a scalar. tensorboardX does not know the field, and
    # TensorBoard drops a description that comes without it.
    metadata = SummaryMetadata.FromString(b"\x20\x01")
    metadata.plugin_data.plugin_name = "scalars"
    metadata.summary_description = description
    return metadata


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

    def show(number: int, answers: Kept) -> None:
        columns, rows = answer_table(answers)
        log("eval", number, {"answers": package.Table(columns=columns, data=rows)})

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

    def show(number: int, answers: Kept) -> None:
        texts = "\n\n---\n\n".join(answer_text(answer) for answer in answers[:TEXTS])
        client.log_text(identity, texts, f"answers/{number:06}.md")

    return Sink(write, lambda: client.set_terminated(identity), show=show)
