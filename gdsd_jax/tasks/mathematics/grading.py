"""Grades answers of mathematics by our own rule, the same for all tasks, or by a task's published.

N answers.
"""

from collections.abc import Callable, Mapping, Sequence
import types
from typing import NamedTuple

import numpy as np

from gdsd_jax.tasks.mathematics import answers, released, values, verdicts
from gdsd_jax.tasks.mathematics.checker import Checker
from gdsd_jax.tasks.task import Grades, Record, RewardConfig

ANSWERED = 0.1  # reward of an answer that is wrong
MENDED = types.MappingProxyType({"correct": 1 - ANSWERED, "format": ANSWERED})
PARTS = ("correct", "format", "boxed", "xml")


class Rule(NamedTuple):
    """A published rule.

    Attributes:
      parts: the names of what it counts.
      weights: of the parts that its reward is made of.
      of: (record, text) -> the parts.
    """

    parts: tuple[str, ...]
    weights: Mapping[str, float]
    of: Callable[[Record, str], tuple[float, ...]]


def grade(
    records: Sequence[Record],
    texts: Sequence[str],
    reward: RewardConfig,
    checker: Checker,
    rule: Rule,
) -> Grades:
    r"""The grades of N answers; never fails, whatever the texts hold.

    Mended: part "correct" says whether the final answer is the record's, as `Checker.equal` finds,
    and "format" whether there is one. The reward is 1 for a right answer, 0.1 for another one, 0
    for none. "boxed" and "xml", as in `answers.Found`, count nothing unless they get a weight. A
    row whose comparison was lost twice is not judged.

    Released: the parts and the reward of `rule`, whose "correct" is what its evaluation says.

    Args:
      records: of each answer, with "answer".
      texts: N answers.
      reward: which rule, and the weights of its parts.
      checker: compares answers; the released rules do without.
      rule: the published one.

    Raises:
      judges.JudgesError: math-verify cannot be started.
    """
    if reward.variant == "released":
        found = [rule.of(record, text) for record, text in zip(records, texts)]
        parts = _columns(found, rule.parts)
        return Grades(reward.total(parts, rule.weights), parts["correct"] == 1, parts)
    ends = [answers.find(text) for text in texts]
    judged = judge(records, ends, checker)
    found = [
        (verdict is True, end.answer is not None, end.boxed, end.xml)
        for verdict, end in zip(judged, ends)
    ]
    parts = _columns(found, PARTS)
    judged_N = np.array([verdict is not None for verdict in judged], bool)
    return Grades(reward.total(parts, MENDED), parts["correct"] == 1, parts, judged_N)


def judge(
    records: Sequence[Record], ends: Sequence[answers.Found], checker: Checker
) -> list[bool | None]:
    """Whether each end of a text has its record's answer, and not a formula of the question that
    equals it; None where no verdict was possible."""
    rows = [row for row, end in enumerate(ends) if end.answer is not None]
    found: list[bool | None] = [False] * len(ends)
    pairs = [(records[row]["answer"], ends[row].answer) for row in rows]
    for row, pair, verdict in zip(rows, pairs, checker.equal(pairs)):
        is_copied = verdict is True and verdicts.is_copied(records[row].get("question", ""), *pair)
        found[row] = verdict and not is_copied
    return found


def _columns(found: Sequence[tuple], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    columns = np.array(found, np.float32).reshape(-1, len(names))
    return {name: columns[:, place] for place, name in enumerate(names)}


def _gsm8k(record: Record, text: str) -> tuple[float, ...]:
    gold = values.number_of(record["answer"])
    said = released.tagged_answer(text)
    return (
        gold is not None and released.number_of(text) == float(gold.value),
        said == record["answer"],
        said.isdigit(),
        released.has_soft_form(text),
        released.has_strict_form(text),
        released.xml_count(text),
    )


def _math(record: Record, text: str) -> tuple[float, ...]:
    rewarded = released.rewarded_answer(text)
    return (
        released.is_same(released.evaluated_answer(text), record["answer"]),
        released.is_same(rewarded, record["answer"], fails=False),
        "<answer>" in text,
        1.0 if r"\boxed" in released.behind_tag(text) else 0.5,
    )


# GDSD's gsm8k_xml: the answer exactly as in the file, a whole number, three readings of the tags
GSM8K = Rule(
    ("correct", "exact", "integer", "soft", "strict", "xmlcount"),
    types.MappingProxyType(
        {"exact": 2.0, "integer": 0.5, "soft": 0.5, "strict": 0.5, "xmlcount": 1.0}
    ),
    _gsm8k,
)
# GDSD's math_xml: the answer, an answer tag, and \boxed{} behind it (without it half of that)
MATH = Rule(
    ("correct", "exact", "tagged", "boxed"),
    types.MappingProxyType({"exact": 2.0, "tagged": 0.5, "boxed": 0.5}),
    _math,
)
