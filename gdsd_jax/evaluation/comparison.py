"""Two files of evaluations, problem by problem: what differs, and whether chance explains it."""

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from gdsd_jax.evaluation import intervals, rescoring
from gdsd_jax.evaluation.answers import Table
from gdsd_jax.evaluation.figures import Item, grouped, parts_ratios, ratios_of, sets_of
from gdsd_jax.evaluation.intervals import Ratio

NAMES = {"pass_at_1": "pass@1"}
DISTANCES = ("kl_common", "kl", "teacher_nats")  # of students of one teacher alone
SAMPLED = ("mean_reward", "reward", "solved")  # and the parts: of answers at one temperature alone


class File(NamedTuple):
    """What a comparison reads of a file."""

    path: str
    manifest: Mapping[str, Any]
    keys: list[str]  # of its problems, in the order of its prompts
    items: list[Item]


def read(path: str | os.PathLike) -> File:
    """A file of launch/eval.py; ValueError in one line where it is none."""
    content = rescoring.read_own(path)
    if not content[rescoring.OWN]:
        raise ValueError(f"{path}: no answers to compare")
    check_graded(content[rescoring.OWN], path)
    keys = [key_of(prompt) for prompt in content["prompts"]]
    return File(str(path), content["manifest"], keys, content[rescoring.OWN])


def check_graded(items: Sequence[Item], path: str | os.PathLike) -> None:
    """ValueError where answers have no grades, though their task grades."""
    for place, item in enumerate(items):
        grades = item.get("grades", "")
        distance = item.get("distance") or {}
        known = distance.values() if isinstance(distance, dict) else [distance]
        if not all(value is None or _is_number(value) for value in known):
            raise ValueError(
                f"{path}: {rescoring.OWN}[{place}]: its distance holds no numbers: evaluate again"
            )
        numbers = grades.values() if isinstance(grades, dict) else ()
        is_one = {"reward", "solved"} <= grades.keys() if isinstance(grades, dict) else False
        if (grades is not None and not is_one) or not all(map(_is_number, numbers)):
            raise ValueError(
                f"{path}: {rescoring.OWN}[{place}]: not an answer with grades: grade the file with "
                "--rescore first"
            )
    if all(item["grades"] is None and item.get("points") is not None for item in items):
        raise ValueError(f"{path}: none of its answers has a verdict, nothing to compare")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def key_of(prompt: Mapping[str, Any]) -> str:
    """By which a problem is known in several files: its record, or else what is asked."""
    known = prompt["messages"] if prompt["record"] is None else prompt["record"]
    return json.dumps(known, sort_keys=True)


def compare(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """The differences of two files' numbers, second minus first, over the problems of both.

    Lengths that both have are compared one by one; where they share none, the first of each.

    Raises:
      ValueError: a file that is none, other tasks, rules or problems; one line says which.
    """
    before, after = map(read, paths)
    check_alike(before, after)
    if not set(before.keys) & set(after.keys):
        raise ValueError(
            f"{before.path} and {after.path} have no problem in common: give evaluations of the "
            "same problems"
        )
    lengths = [grouped(file.items, "gen_length") for file in (before, after)]
    shared = [length for length in lengths[0] if length in lengths[1]]
    pairs = [(length, length) for length in shared] or [tuple(next(iter(one)) for one in lengths)]
    comparisons = [
        {"gen_lengths": [first, second]}
        | of_items(before, lengths[0][first], after, lengths[1][second])
        for first, second in pairs
    ]
    if not any(one["differences"] or one["parts"] for one in comparisons):
        raise ValueError(
            f"{before.path} and {after.path}: no answers to the same problem have grades in both: "
            "grade them with --rescore first"
        )
    return {
        "before": before.path,
        "after": after.path,
        "problems": [len(before.keys), len(after.keys)],
        "common": len(set(before.keys) & set(after.keys)),
        "score": after.manifest["score"],
        "temperatures": temperatures(before, after),
        "intervals": intervals.stated(any("cluster" in one for one in before.items + after.items)),
        "comparisons": comparisons,
    }


def check_alike(before: File, after: File) -> None:
    """ValueError where the files are of other tasks, or their answers graded by other rules."""
    wanted, found = (file.manifest["settings"] for file in (before, after))
    if PurePath(wanted["task"]).name != PurePath(found["task"]).name:
        raise ValueError(
            f"{before.path} is of task {wanted['task']}, {after.path} of {found['task']}: give "
            "evaluations of one task"
        )
    if wanted.get("reward") != found.get("reward"):
        raise ValueError(
            f"{before.path} is graded by reward={wanted.get('reward')}, {after.path} by "
            f"{found.get('reward')}: rescore one of them by the other's rule with --rescore"
        )


def of_items(before: File, old: Sequence[Item], after: File, new: Sequence[Item]) -> dict[str, Any]:
    """{"differences", "parts"} of some answers of both files, over the problems that both of these
    have."""
    keys = {after.keys[item["problem"]] for item in new}
    places: dict[str, int] = {}  # problems that are the same become one
    for item in old:
        key = before.keys[item["problem"]]
        if key in keys:
            places.setdefault(key, len(places))
    numbers = [ratios(before, old, places), ratios(after, new, places)]
    own, parts = (differences(*pair) for pair in zip(*numbers))
    if before.manifest.get("teacher") != after.manifest.get("teacher"):
        own = {name: one for name, one in own.items() if name not in DISTANCES}
    if before.manifest["score"] != after.manifest["score"]:
        own.pop("mean_reward", None)  # of two parts
    if are_apart(temperatures(before, after)):
        own, parts = {name: one for name, one in own.items() if name not in SAMPLED}, {}
    return {"differences": own, "parts": parts}


def temperatures(*files: File) -> list[float | None]:
    """Of the sampled answers of each; None where they were not asked for here."""
    return [file.manifest.get("sampled", {}).get("temperature") for file in files]


def are_apart(known: Sequence[float | None]) -> bool:
    """Whether temperatures differ, as far as they are known."""
    return len({one for one in known if one is not None}) > 1


def ratios(
    file: File, items: Sequence[Item], places: Mapping[str, int]
) -> tuple[dict[str, Ratio], dict[str, Ratio]]:
    """The means of a file's answers and of their parts, by name, over the problems that have
    places, in their order."""
    greedy, sampled = tables_of(file, items, places)
    names = file.manifest["parts"]
    return ratios_of(greedy, sampled, file.manifest["score"]), parts_ratios(sampled, names)


def tables_of(file: File, items: Sequence[Item], places: Mapping[str, int]) -> tuple[Table, Table]:
    """(greedy, sampled) answers of a file to the problems that have places, in their order."""
    inside = []
    for item in items:
        place = places.get(file.keys[item["problem"]])
        if place is not None:
            inside.append({**item, "problem": place})
    inside.sort(key=lambda item: item["problem"])
    greedy, sampled, _ = sets_of(inside, file.manifest["parts"])
    return greedy, sampled


def differences(before: Mapping[str, Ratio], after: Mapping[str, Ratio]) -> dict[str, Any]:
    """By name: both values, their difference and its interval, over what both have judged."""
    found = {}
    for name in before:
        if name not in after:
            continue
        both_N = (before[name].bottom_N > 0) & (after[name].bottom_N > 0)
        if not both_N.any():
            continue
        pair = [only(one, both_N) for one in intervals.alike(before[name], after[name])]
        (low, high), changed = intervals.paired_interval(*pair), intervals.changed(*pair)
        found[name] = {
            "before": pair[0].value,
            "after": pair[1].value,
            "difference": pair[1].value - pair[0].value,
            "interval": [low, high],
            "problems": int(np.sum(both_N)),
            "independent": pair[1].independent,
            "changed": changed,
            "shown": intervals.is_shown(low, high, changed),
        }
    return found


def only(ratio: Ratio, chosen_N: np.ndarray) -> Ratio:
    """The sums of some problems."""
    return Ratio(*(None if values_N is None else values_N[chosen_N] for values_N in ratio))


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """What the terminal shows of a comparison."""
    lines = [
        f"{found['before']} -> {found['after']}: {found['common']} problems in common, of "
        f"{found['problems'][0]} and {found['problems'][1]}"
    ]
    if are_apart(found["temperatures"]):
        first, second = found["temperatures"]
        lines.append(f"sampled answers are not compared: temperatures {first:g} and {second:g}")
    for comparison in found["comparisons"]:
        first, second = comparison["gen_lengths"]
        if first is not None or second is not None:
            same = first == second
            lines.append(f"gen_length {first}" if same else f"gen_length {first} -> {second}")
        shown = {NAMES.get(name, name): one for name, one in comparison["differences"].items()}
        shown |= {f"part {name}": one for name, one in comparison["parts"].items()}
        # the same number under its own name
        same = "reward" if found["score"] == "reward" else f"part {found['score']}"
        if shown.get("mean_reward") == shown.get(same):
            shown.pop(same, None)
        for name, one in shown.items():
            is_part = name == "mean_reward" and same != "reward"
            label = f"{name} ({found['score']})" if is_part else name
            lines.append(f"{label} {told(one)}")
    return lines


def told(one: Mapping[str, Any]) -> str:
    """A difference in words."""
    low, high = one["interval"]
    said = intervals.verdict(one["difference"], low, high, one["changed"])
    problems = f"{one['problems']} problems"
    if one["independent"] < one["problems"]:
        problems += f" of {one['independent']} clusters"
    return (
        f"{one['before']:.3f} -> {one['after']:.3f}, {one['difference']:+.3f} "
        f"({intervals.LEVEL:.0%} {low:+.3f} to {high:+.3f}, {problems}): {said}"
    )
