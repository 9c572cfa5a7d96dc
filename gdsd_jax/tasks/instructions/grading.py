"""Grades answers by the share of their constraints that they satisfy.

N answers. Work is linear in the length of a text, whatever it holds.
"""

from collections.abc import Sequence
import json
import re

import numpy as np

from gdsd_jax.tasks import answer_tags
from gdsd_jax.tasks.instructions import constraints, released
from gdsd_jax.tasks.repeating import is_repeating
from gdsd_jax.tasks.task import Grades, Record, RewardConfig

_WORD = re.compile(r"[^\W_]")
_FENCED = re.compile(r"```[A-Za-z]*\s(.*)```", re.DOTALL)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>|<(?:mask|unk|s|bos)>|\[(?:MASK|PAD|UNK)\]")
OWN = {"followed": 1.0}


def grade(records: Sequence[Record], texts: Sequence[str], reward: RewardConfig) -> Grades:
    """The grades of N answers; never fails, whatever the texts hold.

    Part "followed" is the share of a record's constraints that its answer satisfies, "all" whether
    it satisfies them all, which is solved. The reward is "followed".

    Mended: an answer counts as it stands, up to an end token, which the paper calls strict. One
    without a word, or that repeats itself (`is_repeating`), satisfies nothing.

    Released: the checks of the paper's code, in its loose form. A constraint is also satisfied
    where it is so without the first line, without the last, without both, and each of these without
    the stars of markup. An empty answer satisfies nothing; one that repeats itself counts like any
    other.

    A record that asks for a language gets no verdict.

    Args:
      records: of each answer, with "constraints".
      texts: N answers.
      reward: which rule, and the weights of its parts.
    """
    find = _loose if reward.variant == "released" else _strict
    points_Nx2 = np.zeros((len(texts), 2), np.int64)
    judged_N = np.ones(len(texts), bool)
    for row, (record, text) in enumerate(zip(records, texts)):
        asked = record["constraints"]
        judged_N[row] = all(constraint["id"] != constraints.LANGUAGE for constraint in asked)
        points_Nx2[row] = (sum(find(text, asked)), len(asked))
    met_N, asked_N = points_Nx2[:, 0], points_Nx2[:, 1]
    all_N = met_N == asked_N
    parts = {
        "followed": (met_N / np.maximum(asked_N, 1)).astype(np.float32),
        "all": all_N.astype(np.float32),
    }
    return Grades(reward.total(parts, OWN), all_N, parts, judged_N, points_Nx2)


def _strict(text: str, asked: Sequence[Record]) -> list[bool]:
    """Whether each constraint is satisfied by the text as it stands."""
    text = answer_tags.until_end(text)
    if not _WORD.search(_SPECIAL.sub("", text)) or is_repeating(_said(text)):
        return [False] * len(asked)
    return [constraints.satisfied(text, constraint) for constraint in asked]


def _said(text: str) -> str:
    """What a text says: of JSON, fenced or not, whose names come again with every row, the values
    alone."""
    fenced = _FENCED.fullmatch(text.strip())
    try:
        found = json.loads(text if fenced is None else fenced[1])
    except (ValueError, RecursionError):
        return text
    values, waiting = [], [found]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
        else:
            values.append(str(part))
    return " ".join(values)


def _loose(text: str, asked: Sequence[Record]) -> list[bool]:
    """Whether each constraint is satisfied by one of the text's variants."""
    variants = [variant for variant in variants_of(text) if variant.strip()]
    return [
        any(released.satisfied(variant, constraint) for variant in variants) for constraint in asked
    ]


def variants_of(text: str) -> list[str]:
    """The text; without its first line, its last, and both; and each of these without stars; each
    of them once."""
    lines = text.split("\n")
    cut = [lines, lines[1:], lines[:-1], lines[1:-1]]
    whole = ["\n".join(part).strip() for part in cut]
    whole[0] = text
    return list(dict.fromkeys(whole + [variant.replace("*", "") for variant in whole]))
