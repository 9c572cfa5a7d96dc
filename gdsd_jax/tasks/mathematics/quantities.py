r"""Lists of numbers with units: 20\text{ mph}, 30\text{ mph}, and 2\text{ hours }30\text{ minutes}.

math-verify sees the first number alone where words stand behind it.
"""

import re
from typing import NamedTuple

from gdsd_jax.tasks.mathematics import parts, values, words, writing

_NEXT = re.compile(r"(?<=[A-Za-z.])\s+(?=[-+]?\$?(?:[0-9.]|\\frac))")
_AROUND = re.compile(r"\s*(?P<begin>\\?[(\[{])(?P<inside>[^()\[\]{}]*?)(?P<end>\\?[)\]}])[\s.]*")


class Quantities(NamedTuple):
    """Numbers of a list, in the order that they are written in.

    Attributes:
      brackets: around all of them, "" for none and for those of a set.
      names: of the variables that they are given to, None where there is none.
      numbers: their values.
      units: whether words stand beside a number.
      runs: whether they follow on each other without a separator, as in 5 feet 6 inches.
    """

    brackets: str
    names: list[str | None]
    numbers: list[values.Number]
    units: bool
    runs: bool


def verdict(gold: str, answer: str) -> bool | None:
    """Whether an answer gives the numbers of the gold one; None where the gold answer is no list
    of numbers, or neither units nor the names of variables need a look.

    The order counts in brackets, in one quantity of several units, and where the gold answer names
    several variables and the answer none.

    Args:
      gold: a cleaned right answer.
      answer: the cleaned one to judge.
    """
    wanted, found = _read(gold), _read(answer)
    if wanted is None or len(wanted.numbers) < 2:
        return None
    is_named = len(set(wanted.names)) > 1 and None not in wanted.names
    if found is None or not _are_alike(wanted, found, is_named):
        return False if wanted.units else None
    has_names = any(found.names)
    if not (wanted.units or found.units or (is_named and not has_names)):
        return None  # exact.py and math-verify compare plain lists
    pairs = [list(zip(side.names, side.numbers)) for side in (wanted, found)]
    if is_named and has_names:
        if set(wanted.names) != set(found.names):
            return False
        pairs = [sorted(side, key=lambda pair: (pair[0] or "", pair[1])) for side in pairs]
    elif not (is_named or wanted.brackets or wanted.runs or found.runs):
        pairs = [sorted(side, key=lambda pair: pair[1]) for side in pairs]
    return len(pairs[0]) == len(pairs[1]) and all(
        values.same(one[1], other[1]) for one, other in zip(*pairs)
    )


def _are_alike(wanted: Quantities, found: Quantities, is_named: bool) -> bool:
    """Whether the brackets are the same; x=2, y=3 is as good as (2, 3)."""
    if is_named or (wanted.brackets == "()" and all(found.names)):
        return found.brackets in ("", "()")
    return wanted.brackets == found.brackets


def _read(text: str) -> Quantities | None:
    """The numbers of a list or of a quantity; None where anything else stands in it."""
    text = writing.without_text(text)
    around = _AROUND.fullmatch(text)
    inside = text if around is None else around["inside"]
    names, numbers, units, runs = [], [], False, False
    for part in filter(None, parts.of(inside)):
        name, value = parts.named(part)
        pieces = _NEXT.split(value)
        runs |= len(pieces) > 1
        for piece in pieces:
            number = values.number_of(piece, loose=True)
            if number is None:
                return None
            names.append(name)
            numbers.append(number)
            units |= words.WORD.search(words.COMMAND.sub("", piece)) is not None
    brackets = "" if around is None else (around["begin"] + around["end"]).replace("\\", "")
    return Quantities("" if brackets == "{}" else brackets, names, numbers, units, runs)
