"""The variants of an experiment side by side: what each gains on held-out problems over the models
that it started from, and which of them differ.

S seeds, N problems.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any, NamedTuple

import numpy as np

from gdsd_jax.evaluation import comparison, intervals
from gdsd_jax.evaluation.comparison import File, check_alike, tables_of
from gdsd_jax.evaluation.figures import chances_of, grouped, ratios_of
from gdsd_jax.evaluation.intervals import Ratio
from gdsd_jax.report.charts import has_any_scale

MEASURES = {  # and pass@k of the most k
    "kl_common": "held-out KL, nats",
    "mean_reward": "sampled",
    "pass_at_1": "greedy pass@1",
}


class Arm(NamedTuple):
    """Evaluations of a variant: a file for each seed, before and after."""

    before: Sequence[File]
    after: Sequence[File]


class Gain(NamedTuple):
    """A number of a variant in the mean over seeds and problems, its interval's ends, and how many
    problems, or clusters, it changed for."""

    before: float
    after: float
    low: float
    high: float
    changed: int


class Numbers(NamedTuple):
    """By measure, sums over seeds and problems, [S, N] each."""

    before: dict[str, Ratio]
    after: dict[str, Ratio]


def read(
    paths: Mapping[str, tuple[Sequence[str | os.PathLike], Sequence[str | os.PathLike]]],
) -> dict[str, Arm]:
    """The arms by name, of the (before, after) files of each; a file of several arms is read once.

    Raises:
      ValueError: a file that is none, other tasks or rules; one line.
    """
    several = dict.fromkeys(path for sides in paths.values() for side in sides for path in side)
    files = {path: comparison.read(path) for path in several}
    first, *others = files.values()
    for file in others:
        check_alike(first, file)
    return {
        name: Arm(*([files[path] for path in side] for side in sides))
        for name, sides in paths.items()
    }


def values_of(arms: Mapping[str, Arm], column: str) -> list[Any]:
    """`values_in` of the problems' records."""
    keys = dict.fromkeys(key for arm in arms.values() for file in arm.after for key in file.keys)
    records = [record for record in map(json.loads, keys) if isinstance(record, dict)]
    return values_in(records, column)


def values_in(records: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """The values that records have in a column.

    Raises:
      ValueError: no record has the column; one line names those there are.
    """
    found = {json.dumps(record[column]): record[column] for record in records if column in record}
    if not found:
        names = ", ".join(sorted({name for record in records for name in record}))
        raise ValueError(f"no held-out problem has a column {column!r}: choose one of {names}")
    return [found[text] for text in sorted(found)]


def numbers_of(arms: Mapping[str, Arm], only: Mapping[str, Any]) -> dict[str, Numbers]:
    """What the files of each variant say of the problems that all files have.

    Args:
      arms: by name.
      only: column of the problems' records -> its value; others are left out.

    Raises:
      ValueError: no such problem; one line.
    """
    everyone = [file for arm in arms.values() for side in arm for file in side]
    common = set.intersection(*(set(file.keys) for file in everyone))
    keys = [key for key in dict.fromkeys(everyone[0].keys) if key in common and fits(key, only)]
    if not keys:
        said = ", ".join(f"{name}={value!r}" for name, value in only.items())
        raise ValueError(f"no held-out problem {f'with {said} ' if said else ''}is in all files")
    places = {key: place for place, key in enumerate(keys)}
    return {name: Numbers(*(stacked(side, places) for side in arm)) for name, arm in arms.items()}


def fits(key: str, only: Mapping[str, Any]) -> bool:
    """Whether a problem's record has these values."""
    record = json.loads(key)
    return all(isinstance(record, dict) and record.get(name) == only[name] for name in only)


def stacked(files: Sequence[File], places: Mapping[str, int]) -> dict[str, Ratio]:
    """The measures of the seeds' first generation length, [S, N] each."""
    seeds = []
    for file in files:
        items = next(iter(grouped(file.items, "gen_length").values()))
        greedy, sampled = tables_of(file, items, places)
        own = ratios_of(greedy, sampled, file.manifest["score"])
        found = {name: own[name] for name in MEASURES if name in own}
        chances = chances_of(sampled) if sampled.grades is not None else {}
        if len(chances) > 1:
            found[f"pass@{max(chances)}"] = chances[max(chances)]
        seeds.append(found)
    shared = [name for name in seeds[0] if all(name in one for one in seeds)]
    return {name: side_by_side([one[name] for one in seeds]) for name in shared}


def side_by_side(seeds: Sequence[Ratio]) -> Ratio:
    """The sums [S, N] of ratios over the same problems."""
    tops, bottoms, clusters = zip(*seeds)
    return Ratio(np.stack(tops), np.stack(bottoms), clusters[0])


def differences(before: Mapping[str, Ratio], after: Mapping[str, Ratio]) -> dict[str, Gain]:
    """From one to the other by measure, with the crossed bootstrap's interval, over the problems of
    which both tell in all seeds: where seeds have other problems, quotients of resamples are of no
    use."""
    found = {}
    for name in before:
        if name not in after:
            continue
        both_N = np.all((before[name].bottom_N > 0) & (after[name].bottom_N > 0), axis=0)
        pair = [
            Ratio(*(np.where(both_N, sums, 0) for sums in one[:2]), one.cluster_N)
            for one in intervals.alike(before[name], after[name])
        ]
        span = intervals.crossed_interval(*pair)
        if span is not None:
            found[name] = Gain(pair[0].value, pair[1].value, *span, intervals.changed(*pair))
    return found


def table(arms: Mapping[str, Arm], score: str, only: Mapping[str, Any]) -> list[list[str]]:
    """The head, then for each variant its numbers before and after, the gain, and how it differs
    from the first variant; the latter in words where its interval leaves out 0.

    Measures that a variant lacks are left out.

    Args, Raises: of `numbers_of`; `score` names the measure of sampled answers.
    """
    numbers = numbers_of(arms, only)
    first, *others = numbers
    gains = {arm: differences(*own) for arm, own in numbers.items()}
    beside = {arm: differences(numbers[first].after, numbers[arm].after) for arm in others}
    measured = [*gains.values(), *beside.values()]
    measures = [name for name in gains[first] if all(name in one for one in measured)]
    head = ["run"]
    for name in measures:
        label = f"{score}, sampled" if name == "mean_reward" else MEASURES.get(name, name)
        head += [label, "gain"] + ([f"against {first}"] if others else [])
    rows = [head]
    for arm, gained in gains.items():
        row = [arm]
        for name in measures:
            one, form = gained[name], form_of(name, score)
            row += [f"{one.before:{form}} → {one.after:{form}}", told(one, form)]
            if others:
                row.append("-" if arm == first else verdict(beside[arm][name], form))
        rows.append(row)
    return rows


def form_of(name: str, score: str) -> str:
    """How a measure is written; a score that is no part's may have any scale."""
    free = name == "kl_common" or (name == "mean_reward" and has_any_scale(score))
    return ".3f" if free else ".1%"


def told(one: Gain, form: str) -> str:
    """A difference with its interval, of shares in points."""
    ends = (one.after - one.before, one.low, one.high)
    if form.endswith("%"):
        return "{:+.1f} points ({:+.1f} to {:+.1f})".format(*(100 * end for end in ends))
    return "{} ({} to {})".format(*(f"{end:+{form}}" for end in ends))


def verdict(one: Gain, form: str) -> str:
    """A difference with its interval and in words."""
    said = intervals.verdict(one.after - one.before, one.low, one.high, one.changed)
    return f"{told(one, form)}: {said}"
