"""The held-out answers that a run keeps in samples/, as its page shows them.

samples/ROUND.json is a list with an entry a problem: `question`, `text` (the answer at temperature
0) with its `score` and `grades` (reward, solved and each part by name; empty where it was not
judged), `sampled` (`text` and `grades` of an answer at temperature 1), and of some `teacher` (its
text) and `order` ([text, pass] of each position). All but question and text may be missing.
"""

from collections.abc import Mapping, Sequence
import math
import os
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import json_files

Kept = Sequence[Mapping[str, Any]]  # what one file of samples/ holds
COLD, WARM = "temperature 0", "temperature 1"
SHADES = 10  # colours of the passes in which an answer was unmasked


class Answer(NamedTuple):
    """One answer to a problem."""

    name: str  # "before", "after" or "teacher"
    kind: str  # COLD or WARM
    text: str
    grades: list[tuple[str, str]]  # (name, value as text)
    look: str  # CSS class: "good", "bad", or none where nobody knows


class Rank(NamedTuple):
    """What a problem can be sorted by, at one temperature."""

    reward: float | None  # of the newest answer
    gain: float | None  # that less the reward before
    disagreement: float  # 0..1, how far the parts of its grades are apart, beside those of others


class Problem(NamedTuple):
    """A problem with all its answers."""

    number: int
    question: str
    answers: list[Answer]
    ranks: list[Rank]  # at COLD, then at WARM


class Cell(NamedTuple):
    """A position of an answer, and the pass in which it was unmasked."""

    text: str
    number: int  # of the pass, from 1 on
    shade: int  # 0 first to SHADES - 1 last


class Order(NamedTuple):
    """The order in which an answer was unmasked."""

    question: str
    cells: list[Cell]
    passes: int


def read(workdir: str | os.PathLike) -> tuple[Kept, Kept]:
    """(the answers of the first evaluation, those of the newest one).

    Raises:
      ValueError: a file that is damaged; names it.
    """
    files = sorted((epath.Path(workdir) / "samples").glob("*.json"))
    if not files:
        return [], []
    found = []
    for file in files[:1] + files[1:][-1:]:
        try:
            kept = json_files.parse(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from None
        if not isinstance(kept, list) or not all(isinstance(one, dict) for one in kept):
            raise ValueError(f"{file} is no list of answers")
        found.append(kept)
    return found[0], found[1] if len(found) > 1 else []


def problems_of(before: Kept, after: Kept, score: str) -> list[Problem]:
    """The problems with their answers before and after; `after` is empty in a run's beginning."""
    newest = after or before
    kinds = (COLD, WARM)
    apart = [disagreements([grades_at(kept, kind) for kept in newest]) for kind in kinds]
    problems = []
    for place, now in enumerate(newest):
        then = before[place] if place < len(before) else None
        answers = []
        for name, kept in (("before", then), ("after", now if after else None)):
            if kept is not None:
                answers += answers_of(name, kept, score)
        if now.get("teacher") is not None:
            answers.append(Answer("teacher", COLD, now["teacher"], [], ""))
        ranks = [
            Rank(*reward_and_gain(then if after else None, now, kind), found[place])
            for kind, found in zip(kinds, apart)
        ]
        problems.append(Problem(place + 1, now.get("question", ""), answers, ranks))
    return problems


def grades_at(kept: Mapping[str, Any], kind: str) -> Mapping[str, float]:
    """The grades of an entry's answer at a temperature; empty where there is none."""
    answer = kept if kind == COLD else kept.get("sampled") or {}
    return answer.get("grades") or {}


def reward_and_gain(
    then: Mapping[str, Any] | None, now: Mapping[str, Any], kind: str
) -> tuple[float | None, float | None]:
    """The reward now, and what it is more than the one before; None where nobody knows."""
    before, after = (grades_at(kept or {}, kind).get("reward") for kept in (then, now))
    if not known(after):
        return None, None
    return after, after - before if known(before) else None


def answers_of(name: str, kept: Mapping[str, Any], score: str) -> list[Answer]:
    """The greedy answer of an entry and the sampled one."""
    grades = kept.get("grades") or {}
    if not grades and known(kept.get("score")):  # of earlier versions
        grades = {score: kept["score"]}
    found = [graded(name, COLD, kept["text"], grades)]
    if "sampled" in kept:
        found.append(graded(name, WARM, kept["sampled"]["text"], kept["sampled"]["grades"]))
    return found


def graded(name: str, kind: str, text: str, grades: Mapping[str, float]) -> Answer:
    """An answer with its grades as text; it looks good where it is solved."""
    shown = [(part, told(value)) for part, value in grades.items() if known(value)]
    look = ""
    if "solved" in grades:
        look = "good" if grades["solved"] else "bad"
        shown = [pair for pair in shown if pair[0] != "solved"]
        shown.insert(0, ("solved" if grades["solved"] else "not solved", ""))
    return Answer(name, kind, text, shown, look)


def told(value: float) -> str:
    """A grade with two digits behind the point, where it has any."""
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def disagreements(grades: Sequence[Mapping[str, float]]) -> list[float]:
    """How far the parts of each answer's grades are apart, 0..1.

    Parts have scales of their own: each is spread over 0..1 between its least and its greatest
    value here. The distance is that of the greatest part from the least.
    """
    spread: list[list[float]] = [[] for _ in grades]
    names = dict.fromkeys(name for one in grades for name in one)
    for name in names.keys() - {"reward", "solved"}:
        values = [one[name] for one in grades if known(one.get(name))]
        low, high = min(values, default=0.0), max(values, default=0.0)
        for one, places in zip(grades, spread):
            if high > low and known(one.get(name)):
                places.append((one[name] - low) / (high - low))
    return [max(places) - min(places) if len(places) > 1 else 0.0 for places in spread]


def orders_of(kept: Kept) -> list[Order]:
    """The answers whose order is known and says something: those of several tokens."""
    found = []
    for one in kept:
        if len(one.get("order") or ()) > 1:
            passes = max(1, *(number for _, number in one["order"]))
            cells = [
                Cell(text, number, min((number - 1) * SHADES // passes, SHADES - 1))
                for text, number in one["order"]
                if number > 0
            ]
            found.append(Order(one.get("question", ""), cells, passes))
    return found


def answer_lines(workdir: str | os.PathLike, count: int) -> list[str]:
    """The first held-out questions of a run with its answers so far, a line each: before, now, and
    the teacher's where there is one."""
    before, after = read(workdir)
    shown = []
    for old, new in zip(before[:count], after or before):
        texts = {"before": old["text"], "after": new["text"], "teacher": new.get("teacher")}
        shown.append(old["question"])
        shown += [f"  {name:7} {text!r}" for name, text in texts.items() if text is not None]
    return shown
