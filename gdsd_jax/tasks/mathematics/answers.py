r"""Finds the final answer in a text: in <answer> tags, in \boxed{}, or behind ####.

Work is linear in the length of the text, whatever it holds.
"""

import re
from typing import NamedTuple

from gdsd_jax.tasks import answer_tags

_BARE_BOXED = re.compile(r"\\boxed\s*([^\s{$\\]+)")
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_HASHES = "####"


class Found(NamedTuple):
    r"""What a text says in the end.

    Attributes:
      answer: the final answer as it is written, None = there is none.
      boxed: whether it stands in a \boxed{}.
      xml: whether the text is <reasoning> and then <answer>, both closed, and nothing else.
    """

    answer: str | None
    boxed: bool
    xml: bool


def find(text: str) -> Found:
    r"""The final answer of a text, as our own rule reads it.

    What follows an end token is no part of the text. The answer stands in the last <answer> tags
    (an open tag goes to the end), and there in the last \boxed{}, if there is one; without tags in
    the last \boxed{} of the text; else behind the last ####, in the same line.
    """
    text = answer_tags.until_end(text)
    tagged = answer_tags.tagged_of(text)
    boxed = answer_tags.last_boxed(text if tagged is None else tagged)
    answer = tagged if boxed is None else boxed
    if answer is None and _HASHES in text:
        answer = text.rpartition(_HASHES)[2].lstrip().partition("\n")[0]
    if answer is not None:
        answer = answer.strip() or None
    return Found(answer, boxed is not None and answer is not None, is_xml(text))


def is_xml(text: str) -> bool:
    """Whether a text is a reasoning and then an answer in tags, with nothing around them."""
    if not all(text.count(tag) == 1 for tag in _TAGS):
        return False
    begin, middle, answer, end = (text.index(tag) for tag in _TAGS)
    if not begin < middle < answer < end:
        return False
    between = text[middle + len(_TAGS[1]) : answer]
    outside = text[:begin] + between + text[end + len(_TAGS[3]) :]
    return not outside.strip()


def of_solution(solution: str) -> str | None:
    r"""The final answer of a solution that a file gives; None where it has none.

    Besides \boxed{5}, a short answer may stand without braces: \boxed 5.
    """
    boxed = answer_tags.last_boxed(solution)
    if boxed is None:
        bare = _BARE_BOXED.findall(solution)
        boxed = bare[-1].rstrip(".,") if bare else None
    return boxed.strip() or None if boxed is not None else None
