"""The checks of the paper's code (arXiv 2311.07911) that differ from ours in `constraints.py`.

They take more: a number alone is JSON, a line of dashes an item of a list. Time is linear in the
text.
"""

from collections.abc import Callable, Mapping
import json
import re
import types

from gdsd_jax.tasks.instructions import constraints
from gdsd_jax.tasks.instructions.constraints import Arguments

_DASHED = re.compile(r"^[^\S\n]*+-", re.MULTILINE)
_STARRED = re.compile(r"^[^\S\n]*+\*[^*].*", re.MULTILINE)
_LIGHT = re.compile(r"\*([^\n*]*)\*")
_BOLD = re.compile(r"\*\*([^\n*]*)\*\*")
_FENCE = re.compile(r"```(?:json|Json|JSON)?")
_ENDS_WORD = re.compile("[.,?!'\"]")
_MARKERS = {"p.s.": re.compile(r"p\.\s?s\."), "p.p.s": re.compile(r"p\.\s?p\.\s?s")}


def satisfied(text: str, constraint: Arguments) -> bool:
    """As `constraints.satisfied`, by the paper's rule."""
    check = CHECKS.get(constraint["id"])
    return constraints.satisfied(text, constraint) if check is None else check(text, constraint)


def _first_word(text: str, given: Arguments) -> bool:
    """Empty paragraphs are not counted, but have a place among the others."""
    parts = [part.strip() for part in text.split("\n\n")]
    count, number = sum(map(bool, parts)), given["nth_paragraph"]
    if count != given["num_paragraphs"] or not 1 <= number <= count or not parts[number - 1]:
        return False
    word = parts[number - 1].split(maxsplit=1)[0].lstrip("'").lstrip('"')
    return _ENDS_WORD.split(word, maxsplit=1)[0].lower() == given["first_word"].lower()


def _placeholders(text: str, given: Arguments) -> bool:
    return constraints.count_placeholders(text, empty=True) >= given["num_placeholders"]


def _postscript(text: str, given: Arguments) -> bool:
    """Nothing needs to follow the marker, and it may be the end of a word."""
    return _MARKERS[given["postscript_marker"].strip().lower()].search(text.lower()) is not None


def _bullets(text: str, given: Arguments) -> bool:
    return len(_STARRED.findall(text)) + len(_DASHED.findall(text)) == given["num_bullets"]


def _choice(text: str, given: Arguments) -> bool:
    return any(choice in text for choice in constraints.CHOICES)


def _highlights(text: str, given: Arguments) -> bool:
    """What stands between two stars counts, and once more what stands between pairs of them."""
    found = _LIGHT.findall(text) + _BOLD.findall(text)
    return sum(bool(piece.strip()) for piece in found) >= given["num_highlights"]


def _json(text: str, given: Arguments) -> bool:
    """Any value of JSON."""
    text = text.strip()
    fence = _FENCE.match(text)
    text = text if fence is None else text[fence.end() :]
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _quotation(text: str, given: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Callable[[str, Arguments], bool]] = types.MappingProxyType(
    {
        "length_constraints:nth_paragraph_first_word": _first_word,
        "detectable_content:number_placeholders": _placeholders,
        "detectable_content:postscript": _postscript,
        "detectable_format:number_bullet_lists": _bullets,
        "detectable_format:constrained_response": _choice,
        "detectable_format:number_highlighted_sections": _highlights,
        "detectable_format:json_format": _json,
        "startend:quotation": _quotation,
    }
)
