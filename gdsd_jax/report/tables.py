"""What finished runs say, side by side: a row for each variant, means and ranges over its seeds."""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import math
import pathlib
import statistics
from typing import NamedTuple

from gdsd_jax import metrics
from gdsd_jax.report.before_after import score_name
from gdsd_jax.report.charts import REWARD, has_any_scale, moving_mean, points

NOTHING = "-"  # a cell without a number


def merit(workdir: pathlib.Path, rounds: int | None = None) -> float:
    """How good a run is at its end or after so many rounds, the more the better: its score, or
    where nothing is graded the nearness to its teacher.

    Raises:
      ValueError: it was not evaluated after so many rounds.
    """
    asked = [row for row in lines_of(workdir, "eval") if rounds in (None, row["step"])]
    if not asked:
        raise ValueError(
            f"{workdir} has no evaluation after {rounds} rounds, it went on without one: give "
            "another --out"
        )
    last = asked[-1]
    score, distance = last.get("mean_reward"), last.get("kl_common")
    if score is not None:
        return score
    return -math.inf if distance is None else -distance


def check_ended(workdirs: Sequence[pathlib.Path], rounds: int) -> None:
    """ValueError where a run has more rounds behind it than are asked for, or fewer."""
    for workdir in workdirs:
        last = lines_of(workdir, "eval")[-1]["step"]
        if last != rounds:
            raise ValueError(f"{workdir} has {last} rounds, not {rounds}: give another --out")


def lines_of(workdir: pathlib.Path, phase: str) -> list[dict]:
    """The lines of a phase in a run so far."""
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    return [row for row in metrics.read_metrics(file) if row["phase"] == phase]


class Run(NamedTuple):
    """A finished run.

    In its lines a number may be missing, or None where nothing was judged.
    """

    score: str  # the task's name of what eval lines call mean_reward
    first: dict  # its evaluation before the rounds
    last: dict  # and after them
    rollouts: list[dict]


def run_of(workdir: pathlib.Path) -> Run:
    """What a workdir says of its run."""
    rows = lines_of(workdir, "eval")
    return Run(score_name(workdir), rows[0], rows[-1], lines_of(workdir, "rollout"))


class Column(NamedTuple):
    """A column of the table."""

    head: str
    cell: Callable[[Sequence[Run]], str]  # of the seeds of a variant
    teacher: Callable[[Sequence[Run]], str] | None = None  # of all runs, in the teacher's row


def score_of(runs: Sequence[Run]) -> str:
    """The name of the score; variants of different tasks may have several."""
    return " / ".join(dict.fromkeys(run.score for run in runs))


def score_in(workdirs: Sequence[pathlib.Path]) -> str:
    """The same of workdirs."""
    return score_of([run_of(workdir) for workdir in workdirs])


def table(workdirs: Mapping[str, Sequence[pathlib.Path]]) -> list[list[str]]:
    """The head, then for each variant what its evaluations say, and a row for a teacher.

    Before and after in the mean, and the gain with its range over the seeds: of the task's score,
    of pass@1, of the reward, and of each other part of its grades. With rewards, the steadiness of
    training besides. Of distilled students the distance to the teacher, forwards a token by the
    schedule and by the threshold, and the tokens of the answers that were trained on.
    """
    runs = {name: [run_of(workdir) for workdir in paths] for name, paths in workdirs.items()}
    everyone = list(itertools.chain.from_iterable(runs.values()))
    is_distilled = all("kl_common" in run.last for run in everyone)
    is_graded = any("pass_at_1" in run.last for run in everyone)
    columns = grade_columns(everyone) if is_graded else []
    if is_graded and not is_distilled:
        columns.append(Column("deepest fall in training", falls))
    if is_distilled:
        columns.append(Column("held-out KL, nats", functools.partial(change, "kl_common", ".3f")))
    if is_distilled or not is_graded:
        columns += [Column("forwards a token", forwards), Column("answer tokens", answer_tokens)]
    found = [["run", *(column.head for column in columns)]]
    for name, seeds in runs.items():
        found.append([name, *(column.cell(seeds) for column in columns)])
    if any("teacher_pass_at_1" in run.last for run in everyone):
        found.append(teacher_row(columns, everyone))
    return found


def grade_columns(runs: Sequence[Run]) -> list[Column]:
    """The score, pass@1, the reward and each other part, each with its gain."""
    score = score_of(runs)
    form = ".3f" if has_any_scale(score) else ".1%"
    measures = [
        ("mean_reward", f"{score}, temperature 1", form),
        ("pass_at_1", "pass@1, temperature 0", ".1%"),
    ]
    evaluations = list(itertools.chain.from_iterable((run.first, run.last) for run in runs))
    named = [REWARD] if any(REWARD in line for line in evaluations) else []
    for name in (*named, *metrics.parts_of(evaluations)):
        if name != score:
            measures.append((name, f"{name}, temperature 1", ".3f"))
    columns = []
    for key, head, form in measures:
        teacher = teacher_pass_at_1 if key == "pass_at_1" else None
        columns.append(Column(head, functools.partial(change, key, form), teacher))
        columns.append(Column("gain", functools.partial(gain, key)))
    return columns


def teacher_row(columns: Sequence[Column], runs: Sequence[Run]) -> list[str]:
    """What is known of the teacher."""
    cells = [NOTHING if column.teacher is None else column.teacher(runs) for column in columns]
    return ["teacher", *cells]


def pairs_of(key: str, runs: Sequence[Run]) -> list[tuple[float, float]]:
    """(before, after) of a number, of the runs that have both."""
    pairs = [(run.first.get(key), run.last.get(key)) for run in runs]
    return [pair for pair in pairs if None not in pair]


def change(key: str, form: str, runs: Sequence[Run]) -> str:
    """The means over the seeds, before and after."""
    pairs = pairs_of(key, runs)
    if not pairs:
        return NOTHING
    return " → ".join(format(statistics.mean(values), form) for values in zip(*pairs))


def gain(key: str, runs: Sequence[Run]) -> str:
    """After minus before."""
    return spread([after - before for before, after in pairs_of(key, runs)], "+.3f")


def spread(values: Sequence[float], form: str) -> str:
    """Mean and range."""
    if not values:
        return NOTHING
    mean, low, high = (
        format(value, form) for value in (statistics.mean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def falls(runs: Sequence[Run]) -> str:
    """How unsteady the training was."""
    return spread([unsteadiness(run) for run in runs], ".3f")


def unsteadiness(run: Run) -> float:
    """How far the training curve, the score in means of 5 rounds, once lay below its best so far,
    in units of the score."""
    _, values = points(run.rollouts, "rollout", run.score)
    curve = moving_mean(values, 2)
    best_so_far = itertools.accumulate(curve, max)
    return max((best - value for best, value in zip(best_so_far, curve)), default=0.0)


def forwards(runs: Sequence[Run]) -> str:
    """At the end, by the schedule and by the threshold."""
    means = []
    for key in ("forwards_per_token", "threshold_forwards_per_token"):
        values = [run.last[key] for run in runs if run.last.get(key) is not None]
        if values:
            means.append(f"{statistics.mean(values):.2f}")
    return " / ".join(means) or NOTHING


def answer_tokens(runs: Sequence[Run]) -> str:
    """Tokens of the completions of all rounds."""
    return f"{statistics.mean(sum(row['tokens'] for row in run.rollouts) for run in runs):,.0f}"


def teacher_pass_at_1(runs: Sequence[Run]) -> str:
    """Problems that the teachers solve."""
    key = "teacher_pass_at_1"
    values = [run.last[key] for run in runs if run.last.get(key) is not None]
    return f"{statistics.mean(values):.1%}" if values else NOTHING


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table for a README."""
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in table)
    return "\n".join([head, "| --- " * len(table[0]) + "|", *rows]) + "\n"
