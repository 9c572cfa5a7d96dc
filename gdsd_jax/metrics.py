"""What a run says about itself: `metrics.jsonl`, one JSON object a line, and the progress line in
the terminal."""

from collections.abc import Callable
import json
import math
import numbers
import os
import time
from typing import Any

from etils import epath

PHASES = ("sft", "rollout", "train", "eval")
SHOWN = {  # how a round's line puts its numbers
    "reward": "reward {:6.3f}",
    "tests": "tests {:6.1%}",
    "kl": "KL {:6.3f} nats a token",
    "tokens_per_s": "{:9,.0f} tokens/s",
}


class MetricsWriter:
    """Appends lines `{"phase", "step", "wall_s", ...numbers}`; `wall_s` counts seconds of running,
    resumes included.

    On a local disk every line is one write, so a killed process leaves whole lines but perhaps the
    last. Object stores
    cannot append: there the file is rewritten after an eval line, by `cursor` and `close`, and else
      every `REWRITE_S`.
    """

    REWRITE_S = 30.0

    def __init__(
        self,
        path: str | os.PathLike,
        keep: int = 0,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Opens the file and cuts it to its first lines.

        Args:
          path: local path or gs:// address; the folder is made if need be.
          keep: lines to keep, a `cursor()` that was saved; 0 starts afresh. If fewer are there, all
            are kept.
          enabled: False counts lines without touching the file, for every process but the first.
          clock: seconds, from any origin.
        """
        self._path = epath.Path(path)
        self._remote = "://" in os.fspath(path)
        self._clock = clock
        self._count = keep
        self._lines: list[str] = []  # all of the file, held only for object stores
        self._file = None
        self._enabled = enabled
        self._start = self._written = clock()
        if not enabled:
            return
        kept = _whole_lines(self._path)[:keep] if self._path.exists() else []
        self._count = len(kept)
        self._start -= next(
            (wall for line in reversed(kept) if (wall := json.loads(line).get("wall_s"))), 0.0
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._remote:
            self._lines = kept
            self._rewrite()
        else:
            self._file = open(self._path, "ab", buffering=0)
            os.ftruncate(self._file.fileno(), sum(len(line.encode()) + 1 for line in kept))

    def write(self, phase: str, step: int, **values: Any) -> None:
        """Adds a line.

        Args:
          phase: one of `PHASES`.
          step: round of a rollout or evaluation, optimizer step of an update.
          **values: numbers or arrays of one element; NaN and infinity, which JSON does not know,
            become null.

        Raises:
          ValueError: unknown phase.
          TypeError: a value that is no number; names its key.
        """
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}, known: {', '.join(PHASES)}")
        self._count += 1
        if not self._enabled:
            return
        row = {"phase": phase, "step": int(step), "wall_s": round(self._clock() - self._start, 3)}
        line = json.dumps(
            row | {key: _number(key, value) for key, value in values.items()}, allow_nan=False
        )
        if self._file:
            self._file.write(line.encode() + b"\n")
            return
        self._lines.append(line)
        if phase == "eval" or self._clock() - self._written > self.REWRITE_S:
            self._rewrite()

    def cursor(self) -> int:
        """Number of lines, all of them safe on disk: what goes into a checkpoint and comes back as
        `keep`."""
        if self._file:
            os.fsync(self._file.fileno())
        elif self._enabled:
            self._rewrite()
        return self._count

    def close(self) -> None:
        """Writes what is still held back. Further calls of `write` are errors."""
        if self._file:
            self._file.close()
        elif self._enabled:
            self._rewrite()

    def _rewrite(self) -> None:
        self._path.write_text("".join(line + "\n" for line in self._lines))
        self._written = self._clock()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics file in order; a torn last line is left out, null stays None.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not JSON; names file and line.
    """
    rows = []
    for number, line in enumerate(_whole_lines(epath.Path(path)), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def round_line(round: int, rounds: int, seconds_left: float = math.nan, **numbers: float) -> str:
    """One line about a finished round, as wide for every round with the same numbers.

    Args:
      round: how many rounds are done, of `rounds`.
      seconds_left: expected.
      **numbers: those of `SHOWN` in its order, then others by name.
    """
    shown = {name: SHOWN[name].format(numbers[name]) for name in SHOWN if name in numbers}
    others = [f"{name} {value:8.4g}" for name, value in numbers.items() if name not in shown]
    width = len(str(rounds))
    return " | ".join(
        [
            f"round {round:>{width}}/{rounds}",
            *shown.values(),
            *others,
            f"{duration(seconds_left):>8} left",
        ]
    )


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
    """Seconds left, from the mean of the rounds so far."""

    def __init__(self, rounds: int):
        self.began, self.rounds, self.done = time.monotonic(), rounds, 0

    def left(self) -> float:
        self.done += 1
        return (time.monotonic() - self.began) / self.done * (self.rounds - self.done)


def _whole_lines(path: epath.Path) -> list[str]:
    """Lines that end; what follows the last newline was torn by a kill."""
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


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
