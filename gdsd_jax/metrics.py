"""What a run says about itself: `metrics.jsonl`, one JSON object a line, and the progress line in
the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import json
import math
import numbers
import os
import sys
import time
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import json_files, paths, version
from gdsd_jax.meanings import is_reserved

FORMAT, FORMAT_KEY = 1, "metrics_format"  # of metrics.jsonl and samples/; config.json says it
PHASES = ("sft", "rollout", "train", "probe", "eval")
LARGEST = 1e300  # of what a line may hold: charts take differences and powers


def parts_of(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the grades' parts in rollout and eval lines, in the order in which they appear."""
    names: dict[str, None] = {}  # a dict keeps the order, a set would not
    for row in rows:
        if row.get("phase") in ("rollout", "eval"):
            names |= {name: None for name in row if not is_reserved(name)}
    return tuple(names)


class Sink(NamedTuple):
    """Where the rows of metrics.jsonl go besides, such as tables or a web page.

    Attributes:
      write: takes one row, as it stands in metrics.jsonl.
      close: called once, when the run ends.
      name: for messages.
      start: of a sink that can begin again, such as a file: takes the rows of earlier processes
        that stay, and `write` then gets every row. None: the sink cannot take anything back, so it
        gets no step that an earlier process has given to it.
      show: takes a round and the answers of its evaluation, as samples/ROUND.json holds them. None:
        the sink shows no texts.
    """

    write: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]
    name: str = "of no name"
    start: Callable[[Sequence[Mapping[str, Any]]], None] | None = None
    show: Callable[[int, Sequence[Mapping[str, Any]]], None] | None = None


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class MetricsWriter:
    """Appends lines `{"phase", "step", "wall_s", ...numbers}` and gives the same rows to sinks.

    `wall_s` counts seconds of running, those before a resume included.

    On a local disk every line is one write: a killed process leaves whole lines, only the last may
    be torn. Object stores cannot append. There the file is rewritten after an eval line, by
    `cursor` and `close`, and otherwise every `REWRITE_S` seconds.

    A sink gets a row once the row is in the file. After a resume a sink without `start` does not
    get again what an earlier process has given to it. For that PATH.sent keeps, for each phase, the
    last step of the lines that were cut away. A sink that raises is named in one line, closed, and
    gets no more.
    """

    REWRITE_S = 30.0

    def __init__(
        self,
        path: str | os.PathLike,
        keep: int = 0,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sinks: Sequence[Sink] = (),
        say: Callable[[str], None] = to_stderr,
    ):
        """Neither reads nor changes any file: `open` does.

        Args:
          path: local path or gs:// address; the folder is made if need be.
          keep: lines to keep, a `cursor()` that was saved; 0 starts afresh. If fewer are there, all
            are kept, and a line says so.
          enabled: False counts lines without touching file and sinks, for every process but the
            first.
          clock: seconds, from any origin.
          sinks: get every row; closed by `close`.
          say: takes the line about lines that are lost, or a sink that fails.
        """
        self._path = epath.Path(path)
        self._sent_path = self._path.with_name(f"{self._path.name}.sent")
        self._remote = paths.is_remote(path)
        self._clock = clock
        self._keep = keep
        self._count = keep
        self._lines: list[str] = []  # all of the file, held only for object stores
        self._file = None
        self._enabled = enabled
        self._sinks = list(sinks) if enabled else []
        self._say = say
        self._waiting: list[dict[str, Any]] = []  # rows that are not in the file yet
        self._sent: dict[str, int] = {}  # phase -> last step that sinks got before this process
        self._opened = self._closed = False
        self._start = self._written = clock()

    def open(self) -> None:
        """Makes the file, or cuts it to its first `keep` lines.

        Works once. The first `write` or `cursor` calls it too.

        Raises:
          ValueError: a line that is read is no row; names file and line.
        """
        if self._opened or not self._enabled:
            return
        lines = _whole_lines(self._path) if self._path.exists() else []
        kept = lines[: self._keep]
        if len(kept) < self._keep:
            lost = self._keep - len(kept)
            self._say(f"{self._path}: {lost} of {self._keep} lines of this run are not there")
        rows = _parsed(self._path, kept)
        self._start -= _last_wall(rows)
        if lines:
            self._remember_sent(lines)
        else:
            self._sent_path.unlink(missing_ok=True)  # of another run
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._count = len(kept)
        if self._remote:
            self._lines = kept
            self._rewrite()
        else:
            self._file = open(self._path, "ab", buffering=0)
            os.ftruncate(self._file.fileno(), sum(len(line.encode()) + 1 for line in kept))
        self._opened = True
        for sink in tuple(self._sinks):
            if sink.start is not None:
                self._give(sink, sink.start, rows)

    def write(self, phase: str, step: int, /, **values: Any) -> None:
        """Adds a line.

        Args:
          phase: one of `PHASES`.
          step: round of a rollout or evaluation, optimizer step of an update.
          **values: numbers or arrays of one element; NaN and infinity, which JSON does not know,
            become null.

        Raises:
          ValueError: unknown phase, or the writer is closed.
          OSError: the disk is full; names the file, which holds the lines before.
          TypeError: a value that is no number; names its key.
        """
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}, known: {', '.join(PHASES)}")
        if self._closed:
            raise ValueError(f"{self._path} is closed: write before close()")
        if not self._enabled:
            self._count += 1
            return
        self.open()
        row = {"phase": phase, "step": int(step), "wall_s": round(self._clock() - self._start, 3)}
        row |= {key: _number(key, value) for key, value in values.items()}
        line = json.dumps(row, allow_nan=False)
        self._count += 1
        self._waiting.append(row)
        if self._file:
            self._append(line.encode() + b"\n")
            self._send()
            return
        self._lines.append(line)
        if phase == "eval" or self._clock() - self._written > self.REWRITE_S:
            self._rewrite()

    def cursor(self) -> int:
        """Number of lines, all of them safe on disk.

        It goes into a checkpoint and comes back as `keep`.
        """
        self.open()
        if self._file:
            os.fsync(self._file.fileno())
        elif self._enabled:
            self._rewrite()
        return self._count

    def close(self) -> None:
        """Writes what is still held back, then closes file and sinks.

        A file that was never opened stays as it is. Further calls of `write` are errors.
        """
        if self._closed:
            return
        if self._file:
            self._file.close()
        elif self._opened:
            self._rewrite()
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._say(f"the sink {sink.name} fails while it closes: {_reason(error)}")
        self._closed = True

    def _append(self, data: bytes) -> None:
        """Raises OSError with the file's name, such as on a full disk; what was written of the line
        is cut off again, so that no other line can follow it."""
        begin = os.fstat(self._file.fileno()).st_size
        with paths.naming(self._path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                os.ftruncate(self._file.fileno(), begin)
                raise

    def _rewrite(self) -> None:
        self._path.write_text("".join(line + "\n" for line in self._lines))
        self._written = self._clock()
        self._send()

    def show(self, number: int, answers: Sequence[Mapping[str, Any]]) -> None:
        """Gives the sinks that show texts the answers of the evaluation after `number` rounds."""
        for sink in tuple(self._sinks):
            if sink.show is not None and not self._has(sink, "eval", number):
                self._give(sink, sink.show, number, answers)

    def _send(self) -> None:
        """Gives the sinks the rows that are in the file now."""
        rows, self._waiting = self._waiting, []
        for row in rows:
            for sink in tuple(self._sinks):
                if not self._has(sink, row["phase"], row["step"]):
                    self._give(sink, sink.write, dict(row))

    def _has(self, sink: Sink, phase: str, step: int) -> bool:
        """Whether the sink has this step from an earlier process and cannot take it back."""
        return sink.start is None and step <= self._sent.get(phase, -math.inf)

    def _give(self, sink: Sink, call: Callable[..., None], *given: Any) -> None:
        """Calls a sink; one that raises is told and left out."""
        try:
            call(*given)
        except Exception as error:
            self._sinks.remove(sink)
            self._say(f"the sink {sink.name} fails, it gets no more rows: {_reason(error)}")
            with contextlib.suppress(Exception):
                sink.close()

    def _remember_sent(self, lines: Sequence[str]) -> None:
        """Finds what sinks got from earlier processes.

        That is every line of the file. What will be cut away must still be known after the next
        kill, so it is saved before the cut.
        """
        if not self._sinks:
            return
        if self._sent_path.exists():
            self._sent = _sent_steps(self._sent_path)
        for row in _parsed(self._path, lines):
            self._sent[row["phase"]] = max(row["step"], self._sent.get(row["phase"], row["step"]))
        if len(lines) > self._keep:
            paths.write_whole(self._sent_path, json.dumps(self._sent).encode())


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics file in order; a torn last line is left out, null stays None.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is no row as `MetricsWriter` writes them; names file and line. Or the
        config.json beside it says that a later version wrote it.
    """
    path = epath.Path(path)
    config = path.with_name("config.json")
    if config.exists():
        _check_format(config)
    return _parsed(path, _whole_lines(path))


def _check_format(config: epath.Path) -> None:
    """ValueError where a run's config.json says that its metrics are of a later version; who needs
    its settings tells what else is wrong with it."""
    try:
        entries = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(entries, dict):
        version.format_of(entries, FORMAT, str(config), FORMAT_KEY)


def round_line(round: int, rounds: int, seconds_left: float = math.nan, **values: float) -> str:
    """One line about a finished round, as wide for every round with the same numbers.

    Args:
      round: how many rounds are done, of `rounds`.
      seconds_left: expected.
      **values: numbers of a rollout line: the reward, the parts of the grades, `kl` (nats a token),
        `tokens_per_s`, and others, which are shown in this order.
    """
    parts = [name for name in values if not is_reserved(name)]
    fields = [f"{name} {values[name]:6.3f}" for name in ("reward", *parts) if name in values]
    if "kl" in values:
        fields.append(f"KL {values['kl']:6.3f} nats a token")
    if "tokens_per_s" in values:
        fields.append(f"{values['tokens_per_s']:9,.0f} tokens/s")
    others = values.keys() - {"reward", *parts, "kl", "tokens_per_s"}
    fields += [f"{name} {value:8.4g}" for name, value in values.items() if name in others]
    width = len(str(rounds))
    begin, end = f"round {round:>{width}}/{rounds}", f"{duration(seconds_left):>8} left"
    return " | ".join([begin, *fields, end])


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3:07`, `2:03:07`, `3 d 04 h`; `-` for NaN and infinity."""
    if not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole} s"
    if hours < 1:
        return f"{minutes}:{whole % 60:02}"
    if hours < 48:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02}"
    return f"{hours // 24} d {hours % 24:02} h"


class Pace:
    """Seconds left of what takes many like steps, from the mean of those so far, but for the ones
    before `left` is first asked: they compile.

    Args:
      count: of all steps.
      done: those of them that are done already.
      clock: seconds.
    """

    def __init__(self, count: int, done: int = 0, clock: Callable[[], float] = time.monotonic):
        self.clock, self.count = clock, count
        self.began, self.since, self.settled = clock(), done, False

    def left(self, done: int) -> float:
        """After `done` steps, more than at the last call; at the first, as if all took as long."""
        now = self.clock()
        mean = (now - self.began) / (done - self.since)
        if not self.settled:
            self.began, self.since, self.settled = now, done, True
        return mean * (self.count - done)


def _whole_lines(path: epath.Path) -> list[str]:
    """Lines that end; what follows the last newline was torn by a kill."""
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


def _parsed(path: epath.Path, lines: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file's lines; ValueError names file and line."""
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not is_row(row):
            raise ValueError(f"{path}, line {number} is none of a run: {line[:60]}")
        rows.append(row)
    return rows


def is_row(row: Any) -> bool:
    """Whether it is what every line is: a phase, a step, and numbers or null."""
    if not isinstance(row, dict) or row.get("phase") not in PHASES:
        return False
    numbers_of = [value for name, value in row.items() if name != "phase" and value is not None]
    finite = all(type(x) in (int, float) and abs(x) < LARGEST for x in numbers_of)
    return finite and type(row.get("step")) is int and row["step"] >= 0


def _last_wall(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of running that the last row with such an entry tells; 0 where there is none."""
    for row in reversed(rows):
        if row.get("wall_s"):
            return row["wall_s"]
    return 0.0


def _sent_steps(path: epath.Path) -> dict[str, int]:
    """{phase: last step that sinks got}, as `MetricsWriter` keeps it; ValueError names the file."""
    found = json_files.read_object(path, "delete it, the sinks may get some rows twice then")
    wrong = [name for name, step in found.items() if name not in PHASES or type(step) is not int]
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0]!r} is no phase with a step: delete it, the sinks may get some rows "
            "twice then"
        )
    return found


def _reason(error: Exception) -> str:
    """The error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _number(key: str, value: Any) -> int | float | None:
    """A JSON number, or None for NaN and infinity."""
    try:
        value = value.item() if hasattr(value, "item") else value
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metric {key!r} is an array of shape {value.shape}, not a number"
        ) from error
    if not isinstance(value, numbers.Real):
        raise TypeError(f"metric {key!r} is {value!r}, not a number")
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None
