"""Grades answers to puzzles by their cells: by our rule, or by the released ones.

N answers. Work is linear in the length of a text, whatever it holds.
"""

from collections.abc import Sequence
import re

import numpy as np

from gdsd_jax.tasks import answer_tags
from gdsd_jax.tasks.sudoku import problems, reading
from gdsd_jax.tasks.task import Grades, Record, RewardConfig

MENDED = {"cells": 1.0}
RELEASED = {"tagged": 1.0}

_FENCED = re.compile(r"```([\d\s]+)```")
_END = re.compile(r"<\|eot_id\|>|<\|endoftext\|>|</answer>")
_END_AFTER = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")
_BEFORE_TAG = re.compile(r"(\d{16})\s*</answer>")
_ALONE = re.compile(r"\b(\d{16})\b")


def grade(records: Sequence[Record], texts: Sequence[str], reward: RewardConfig) -> Grades:
    """The grades of N answers; never fails, whatever the texts hold.

    Mended: part "cells" is the share of empty cells that are right, part "format" whether tags hold
    a grid; the reward is "cells". Each given cell that an answer changes takes a right one away.
    Of several solutions of a puzzle the one that is nearest to the answer counts.

    Released (diffu-GRPO's code, which GDSD took over): "cells" as its evaluation counts them,
    "tagged" as its reward counts them, "format" whether there are tags; the reward is "tagged".
    Both compare with the record's solution alone and do not look at given cells.

    Args:
      records: of each answer, with "puzzle" and "solution".
      texts: N answers.
      reward: which rule, and the weights of its parts.
    """
    if reward.variant == "released":
        found = [_released(record, text) for record, text in zip(records, texts)]
        names, own = ("cells", "format", "tagged"), RELEASED
    else:
        found = [_mended(record, text) for record, text in zip(records, texts)]
        names, own = ("cells", "format"), MENDED
    points_Nx2 = np.array([points for points, _ in found], np.int64).reshape(-1, 2)
    right_N, empty_N = points_Nx2[:, 0], points_Nx2[:, 1]
    columns = np.array([rest for _, rest in found], np.float32).reshape(-1, len(names) - 1)
    # a puzzle without empty cells asks for nothing
    shares_N = np.where(empty_N > 0, right_N / np.maximum(empty_N, 1), 1.0)
    parts = {"cells": shares_N.astype(np.float32)}
    parts |= {name: columns[:, place] for place, name in enumerate(names[1:])}
    return Grades(reward.total(parts, own), right_N == empty_N, parts, points_Nx2=points_Nx2)


# ---------------------------------------------------------------- mended


def _mended(record: Record, text: str) -> tuple[tuple[int, int], tuple[float]]:
    """((cells right, empty cells), ("format",))."""
    puzzle = record["puzzle"]
    empty = puzzle.count("0")
    answer, in_tags = answer_of(text)
    if answer is None:
        return (0, empty), (0.0,)
    given_16, said_16 = problems.digits_of(puzzle), problems.digits_of(answer)
    equal_Sx16 = problems.completions(puzzle) == said_16
    right = int(equal_Sx16[:, given_16 == 0].sum(axis=1).max())
    changed = int(np.sum((given_16 != 0) & (said_16 != given_16)))
    return (max(0, right - changed), empty), (float(in_tags),)


def answer_of(text: str) -> tuple[str | None, bool]:
    """(16 digits or None, whether the last answer tags hold them).

    Tags hold 16 digits and no other ones, or a grid as `reading.grid_of` finds it; without tags the
    last grid of the text counts. What follows an end token is no part of it.
    """
    text = answer_tags.until_end(text)
    tagged = answer_tags.last_of(text)
    if tagged is None:
        return reading.grid_of(text), False
    digits = "".join(sign for sign in tagged if "0" <= sign <= "9")
    answer = digits if len(digits) == reading.CELLS else reading.grid_of(tagged)
    return answer, answer is not None


# ---------------------------------------------------------------- released


def _released(record: Record, text: str) -> tuple[tuple[int, int], tuple[float, float]]:
    """((cells right as evaluated, empty cells), ("format", "tagged"))."""
    empty = record["puzzle"].count("0")
    tagged = answer_tags.last_of(text)
    digits = "" if tagged is None else "".join(filter(str.isdigit, tagged))
    share = _compared(record, digits) / empty if empty else 1.0
    points = _compared(record, evaluated_answer(text)), empty
    return points, (float(tagged is not None), share)


def evaluated_answer(text: str) -> str:
    """What the released evaluation takes for the answer, without white space; "" = nothing.

    The first of five places that holds anything: a fence of digits behind <answer>; what stands
    behind <answer>, up to its end; what stands behind </answer>; 16 digits before </answer>; 16
    digits on their own.
    """
    for find in (_fenced, _in_tags, _after_tags, _before_end, _alone):
        found = find(text).strip()
        if found:
            return re.sub(r"\s", "", found)
    return ""


def _fenced(text: str) -> str:
    begin = text.find("<answer>")
    found = _FENCED.search(text, begin + len("<answer>")) if begin >= 0 else None
    return "" if found is None else found[1]


def _in_tags(text: str) -> str:
    begin = text.find("<answer>")
    end = _END.search(text, begin + len("<answer>")) if begin >= 0 else None
    return "" if end is None else text[begin + len("<answer>") : end.start()]


def _after_tags(text: str) -> str:
    begin = text.find("</answer>")
    if begin < 0:
        return ""
    begin += len("</answer>")
    end = _END_AFTER.search(text, begin)
    return text[begin:] if end is None else text[begin : end.start()]


def _before_end(text: str) -> str:
    found = _BEFORE_TAG.search(text)
    return "" if found is None else found[1]


def _alone(text: str) -> str:
    found = _ALONE.search(text)
    return "" if found is None else found[1]


def _compared(record: Record, answer: str) -> int:
    """How many empty cells of the puzzle have the solution's digit.

    The answer is cut at 16 characters, or filled up with zeros; an empty one has nothing right.
    """
    signs = answer[: reading.CELLS].ljust(reading.CELLS, "0")
    cells = zip(record["puzzle"], signs, record["solution"])
    return sum(given == "0" and said == right for given, said, right in cells)
