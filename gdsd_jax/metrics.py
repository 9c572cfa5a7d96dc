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
import types
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import paths

PHASES = ("sft", "rollout", "train", "probe", "eval")

# What every key means, one sentence each, by phase. A part of a task's grades has any other name;
# it stands in rollout and eval lines as its mean over the judged answers.
MEANINGS: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        "every line": {
            "phase": "sft, rollout, train, probe or eval",
            "step": "the round of a rollout, probe or evaluation, the optimizer step of the others",
            "wall_s": "seconds of running so far, those before a resume included",
        },
        "sft": {
            "loss": "mean loss of the answers that are learnt since the line before, nats a token",
            "heldout_loss": "the same loss of held-out answers, nats a token",
            "skipped": "how many steps since the line before were not finite and changed nothing, "
            "with not_finite=skip alone",
        },
        "rollout": {
            "reward": "mean of what the updates raise, by the run's own reward.weights",
            "solved": "share of the judged answers that are solved",
            "judged": "share of the answers that got a verdict; left out where all did",
            "length": "mean tokens of a completion, through its end token",
            "tokens": "tokens of all completions of the round",
            "tokens_per_s": "completion tokens a second in the rollout",
            "rollout_s": "seconds until the completions were there",
            "reward_s": "seconds of grading after that",
            "distinct": "share of different texts in a prompt's group",
            "flat_groups": "share of the groups whose judged rewards are all equal",
            "repetition": "share of runs of four tokens that came before in their completion",
            "drift_mean": "mean distance of the recorded log-probabilities from those of a full "
            "forward, nats a token",
            "drift_max": "the largest such distance of any token, nats",
        },
        "train": {
            "loss": "the objective that is made small",
            "grad_norm": "norm of the gradient before it is clipped",
            "update_s": "seconds of an optimizer step",
            "kl": "divergence from the reference or the teacher, nats",
            "score": "mean score of the completions, their estimated log-likelihood, nats a token",
            "trust": "share of the completions at the edge of the trust region",
            "skipped": "1 where the step was not finite and changed nothing, else 0, with "
            "not_finite=skip alone",
        },
        "objective": {
            "kl_max": "the largest divergence of any completion, nats",
            "move": "mean distance of a score from that before the round's updates, nats a token",
            "move_max": "the largest such distance of any completion, nats a token",
            "target": "mean distance by which the advantages ask the scores to move, nats a token",
            "residual": "mean distance of the moves, within the trust region, from their targets",
            "move_share": "share of the targets that the moves, within the trust region, have made",
            "residual_share": "what is left to the targets, a share of them",
            "clipped": "share of all scores, or tokens, outside of the trust region",
            "centred_score": "mean score after its centre is taken away, nats a token",
            "centred_score_max": "the largest such score of any completion, nats a token",
            "score_noise": "spread of a completion's score over its masked views, nats a token",
            "slope": "mean steepness of the loss in a completion's score",
            "slope_spread": "spread of that slope over the completions",
            "slope_snr": "mean of the slope over its spread, a ratio of signal to noise",
            "eubo": "mean upper estimate of the completions' log-likelihood, nats a token",
            "effective": "share of the completions that carry the weight of their group",
            "masked": "mean tokens of a completion that are scored",
        },
        "probe": {
            "move": "mean distance that a round's updates moved a completion's ELBO, nats a token",
            "target": "mean distance that the advantages ask of it, by one nat per unit of "
            "advantage where the objective does not say how far, nats a token",
            "move_share": "share of the targets that the moves have made",
            "ess": "effective share of the completions under weights exp(move of the whole ELBO)",
            "mismatch_gap": "mean of the ELBO less the likelihood of the rollout's own commits, "
            "before the updates, nats a token",
            "mismatch_corr": "correlation of the two inside groups, each a token",
            "mismatch_signs": "share of those whose ELBO moved whose likelihood moved alike",
            "mismatch_elbo_var": "variance inside groups of the ELBO a token, before the updates",
            "mismatch_trajectory_var": "the same of the likelihood",
            "mismatch_cov": "covariance of the two inside groups",
        },
        "eval": {
            "pass_at_1": "share of the problems that are solved, temperature 0",
            "mean_reward": "mean of the task's own score, 0..1 (the part that the task names), "
            "temperature 1; of a task that names none the reward",
            "reward": "mean of the reward as in rollout lines, temperature 1",
            "solved": "share of the judged answers that are solved, temperature 1",
            "problems": "how many problems were asked",
            "forwards_per_token": "forwards of the model a token, temperature 0",
            "looping": "share of the answers that repeat themselves, temperature 0",
            "kl": "forward KL to the teacher at states of the student's answers, nats a masked "
            "token",
            "kl_common": "forward KL to the teacher at states of the teacher's answers, nats a "
            "masked token",
            "teacher_nats": "-log-probability of the student's answers by the teacher, nats a "
            "token",
            "teacher_pass_at_1": "share of the problems that the teacher solves, temperature 0",
            "threshold_pass_at_1": "share of the problems that are solved where confident tokens "
            "are committed early",
            "threshold_forwards_per_token": "forwards of the model a token where confident tokens "
            "are committed early",
        },
        "terminal": {
            "round": "how many rounds are done",
            "rounds": "of how many",
            "seconds_left": "seconds that are expected to be left",
        },
    }
)
# An objective's own keys stand in train lines alone, the probe's in its own, where no part of a
# task's grades does.
APART = ("objective", "probe")
RESERVED = frozenset(
    name for place, names in MEANINGS.items() if place not in APART for name in names
)
RESERVED_PREFIXES = ("drift_", "teacher_", "threshold_", "pass_at_")


def meaning_of(phase: str, key: str) -> str:
    """What a key of a line of that phase says, one sentence; "" for a part of the grades."""
    places = (phase, "objective", "every line") if phase == "train" else (phase, "every line")
    return next((MEANINGS[place][key] for place in places if key in MEANINGS[place]), "")


def is_reserved(name: str) -> bool:
    """Whether the loop uses this key itself, so that no part of a task's grades may have it."""
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)


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
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), begin)
            raise OSError(error.errno, error.strerror, str(self._path)) from None

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
            self._sent = json.loads(self._sent_path.read_text())
        for row in _parsed(self._path, lines):
            self._sent[row["phase"]] = max(row["step"], self._sent.get(row["phase"], row["step"]))
        if len(lines) > self._keep:
            paths.write_whole(self._sent_path, json.dumps(self._sent).encode())


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics file in order; a torn last line is left out, null stays None.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is no row as `MetricsWriter` writes them; names file and line.
    """
    path = epath.Path(path)
    return _parsed(path, _whole_lines(path))


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
    """Seconds left, from the mean of the rounds so far."""

    def __init__(self, rounds: int):
        self.began, self.rounds, self.done = time.monotonic(), rounds, 0

    def left(self) -> float:
        self.done += 1
        return (time.monotonic() - self.began) / self.done * (self.rounds - self.done)


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
            raise ValueError(f"{path}, line {number} has no phase and step: {line[:60]}")
        rows.append(row)
    return rows


def is_row(row: Any) -> bool:
    """Whether it has what every line has."""
    return isinstance(row, dict) and row.get("phase") in PHASES and type(row.get("step")) is int


def _last_wall(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of running that the last row with such an entry tells; 0 where there is none."""
    for row in reversed(rows):
        if row.get("wall_s"):
            return row["wall_s"]
    return 0.0


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
