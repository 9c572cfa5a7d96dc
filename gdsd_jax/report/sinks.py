"""Sinks: where the rows of metrics.jsonl go besides, such as one CSV table a phase.

A sink of your own is a file that defines SINK, an opener like those of `SINKS`. It gets each row
once the row is in metrics.jsonl, in the order of the file, and in one process of a run only.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import importlib.util
import io
import os
import time
from typing import Any

from etils import epath

from gdsd_jax import paths
from gdsd_jax.extensions import load
from gdsd_jax.metrics import PHASES, Sink
from gdsd_jax.report import trackers

Opener = Callable[[epath.Path, Mapping[str, Any]], Sink]  # (workdir, settings of the run) -> Sink


class SinkError(ValueError):
    """A sink that does not open."""


def find_sink(name: str) -> Opener:
    """The opener of a sink of ours, or of a .py file.

    Raises:
      ValueError: an unknown name, a file without SINK, or a package that is not there; one line.
    """
    opener = load(name, SINKS, "SINK", what="sink")
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise SinkError(
            f"sink {name!r} needs a package that is not there: pip install {package}, or leave the "
            "sink out"
        )
    return opener


def open_sinks(
    names: Sequence[str], workdir: str | os.PathLike, settings: Mapping[str, Any]
) -> list[Sink]:
    """The sinks of a run; call it before metrics.jsonl is opened and cut.

    Args:
      names: keys of `SINKS`, or paths of .py files that define SINK.
      workdir: local folder or gs:// address; it need not be there yet.
      settings: the run's settings, nested dicts; passed on to each opener.

    Raises:
      SinkError: a repeated name, or a sink that does not open; one line.
      ValueError: as `find_sink`.
    """
    workdir = epath.Path(workdir)
    sinks: list[Sink] = []
    for place, name in enumerate(names):
        if name in names[:place]:
            raise SinkError(f"sink {name!r} is named twice: name it once")
        opener = find_sink(name)
        try:
            sink = opener(workdir, settings)
        except Exception as error:
            for opened in sinks:
                opened.close()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SinkError(
                f"sink {name!r} does not open, mend it or leave it out: {reason}"
            ) from error
        if not isinstance(sink, Sink):
            raise SinkError(f"sink {name!r}: SINK returns {sink!r}, it must return a report.Sink")
        sinks.append(sink._replace(name=name))
    return sinks


class Table:
    """The rows of one phase, one for each step; new keys become new columns on the right."""

    def __init__(self, path: epath.Path):
        self.path = path
        self.columns: list[str] = []
        self.rows: dict[int, dict[str, Any]] = {}  # step -> {column: number, text, or None}

    def add(self, row: Mapping[str, Any]) -> bool:
        """Adds a row; returns whether there are new columns."""
        self.rows[row["step"]] = {key: value for key, value in row.items() if key != "phase"}
        new = [key for key in self.rows[row["step"]] if key not in self.columns]
        self.columns += new
        return bool(new)

    def text(self, steps: Sequence[int]) -> str:
        """The lines of these steps; null is an empty cell."""
        file = io.StringIO()
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writerows(self.rows[step] for step in steps)
        return file.getvalue()

    def save(self) -> None:
        """Writes the whole file, or leaves the old one."""
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(self.columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(self.path, (head.getvalue() + self.text(sorted(self.rows))).encode())


class Tables:
    """WORKDIR/sft.csv, rollout.csv, train.csv, probe.csv, eval.csv: the rows of metrics.jsonl.

    On a local disk each row is appended. Object stores cannot append: there the tables are
    rewritten after an eval row, by `close`, and otherwise every `REWRITE_S` seconds.
    """

    REWRITE_S = 30.0

    def __init__(self, workdir: epath.Path, clock: Callable[[], float] = time.monotonic):
        """Neither makes nor changes a file: `start` does.

        Raises:
          ValueError: a file with the name of a table is none.
        """
        self.remote = paths.is_remote(workdir)
        self.clock = clock
        self.saved = clock()
        self.tables = {phase: Table(workdir / f"{phase}.csv") for phase in PHASES}
        self.unsaved: set[str] = set()  # phases
        for path in (table.path for table in self.tables.values()):
            head = path.read_text().partition("\n")[0] if path.exists() else "step"
            if "step" not in head.split(","):
                raise ValueError(f"{path} has no column step, it is no table of a run: move it")

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begins with these rows; what else the files hold is gone."""
        for table in self.tables.values():
            table.path.unlink(missing_ok=True)
        for row in rows:
            self.tables[row["phase"]].add(row)
            self.unsaved.add(row["phase"])
        self.save()

    def write(self, row: Mapping[str, Any]) -> None:
        phase, table = row["phase"], self.tables[row["phase"]]
        grown = table.add(row)
        if self.remote:
            self.unsaved.add(phase)
            if phase == "eval" or self.clock() - self.saved > self.REWRITE_S:
                self.save()
        elif grown:
            table.save()
        else:
            with table.path.open("a") as file:
                file.write(table.text([row["step"]]))

    def save(self) -> None:
        for phase in sorted(self.unsaved):
            self.tables[phase].save()
        self.unsaved.clear()
        self.saved = self.clock()


def csv_tables(workdir: epath.Path, settings: Mapping[str, Any]) -> Sink:
    """One CSV table a phase, beside metrics.jsonl."""
    del settings
    tables = Tables(workdir)
    return Sink(tables.write, tables.save, start=tables.start)


SINKS: dict[str, Opener] = {
    "csv": csv_tables,
    "tensorboard": trackers.tensorboard,
    "wandb": trackers.wandb,
    "mlflow": trackers.mlflow,
}
# what those of ours import, each only when it is named
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
