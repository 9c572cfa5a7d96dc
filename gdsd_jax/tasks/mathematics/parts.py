r"""Answers of several parts, such as x=2 or x=3: what each gives its variable, and \pm."""

import re

from gdsd_jax.tasks.mathematics import exact, values, words, writing

_SEPARATOR = re.compile(
    r"[;&\n]|,(?![0-9]{3}(?![0-9]))|\\\\|\\(?:lor|land|vee|wedge)(?![A-Za-z])|\b(?:or|and)\b"
    r"|\\text\s*\{\s*[,;]\s*\}"
)
_BRACKETS = ("()", "[]", "{}")
_CONCLUSION = re.compile(
    r"\b(?:so|thus|hence|therefore)\b|[\u21d2\u2234]|=>"
    r"|\\(?:implies|therefore|(?:Long)?[rR]ightarrow)(?![A-Za-z])"
)
_CHOICE = re.compile(r"\bor\b|\\(?:lor|vee)(?![A-Za-z])")
_LEFT_OUT = words.DENIED | {"extraneous", "inadmissible", "reject"}
_SYMBOL = re.compile(
    r"(?:\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z])(?:_\{?\w+\}?|[0-9\u2080-\u2089]+)?(?:\(\w+\))?$"
)
# only unknowns: a_1 and a_2 are other numbers, as of a sequence
_ROOT = re.compile(r"^([xyzt])_?\{?[0-9\u2080-\u2089]\}?$")
_BOTH_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


def of(text: str) -> list[str]:
    """What stands between commas, "or", "and" and the like, outside of brackets."""
    found, begin = [], 0
    for hit in _SEPARATOR.finditer(text):
        before = text[: hit.start()]
        if all(before.count(opens) == before.count(closes) for opens, closes in _BRACKETS):
            found.append(before[begin:].strip())
            begin = hit.end()
    return [*found, text[begin:].strip()]


def contradict(text: str, numbered: bool) -> bool:
    """Whether one variable gets two values, as in x=2 or x=3.

    A bare number, as in 2 or x=3, is a value of every variable. What stands before "so" is a step,
    and a value that is said to be wrong does not count.

    Args:
      text: without commands around words.
      numbered: whether x_1 and x_2 are one variable, of which an equation has two roots.
    """
    text = _CONCLUSION.split(text)[-1]
    if "=" not in text:
        return False
    is_choice = _CHOICE.search(text) is not None
    bare, first = [], {}  # values without a name, and the first one of each name
    for part in of(text):
        name, value = named(part)
        if _LEFT_OUT & set(map(str.lower, words.WORD.findall(part))):
            continue
        if numbered and name is not None:
            name = _ROOT.sub(r"\1", name)
        if name is None:
            bare.append(value)
        elif is_choice or not _is_prose(name):  # total = 3; total = 3 + 4 may be steps
            if _differ(first.setdefault(name, value), value):
                return True
    numbers = [value for value in bare if exact.rational_of(writing.as_latex(value)) is not None]
    return bool(numbers) and any(_differ(numbers[0], value) for value in first.values())


def written_out(formula: str) -> str:
    r"""The values of a formula or list in LaTeX, of \pm both: +2, -2 for x=\pm 2."""
    found = []
    for part in of(writing.without_text(formula)):
        value = exact.EQUALS.split(part)[-1].strip()
        both = len(_BOTH_SIGNS.findall(value)) == 1  # of several it is open which go together
        found += [_BOTH_SIGNS.sub(sign, value) for sign in "+-"] if both else [value]
    return ", ".join(found)


def has_both_signs(formula: str) -> bool:
    return _BOTH_SIGNS.search(formula) is not None


def named(part: str) -> tuple[str | None, str]:
    """(name, value) of an equation; the name is None where it is none, or one of numbers."""
    sides = [side.strip() for side in exact.EQUALS.split(part)]
    name, value = sides[0], sides[-1]
    if len(sides) == 1:
        return None, value
    if len(sides) == 2 and _SYMBOL.fullmatch(value):
        name, value = value, name  # 2 = x
    symbol = _SYMBOL.search(name)
    before = "" if symbol is None else name[: symbol.start()].strip(" .,:")
    if symbol is not None and (not before or words.is_words(before)):
        name = symbol[0]  # of "either x"
    name = "".join(name.split())
    return name if re.search("[A-Za-z]", name) else None, value


def _is_prose(name: str) -> bool:
    return words.is_prose(words.WORD.findall(words.COMMAND.sub(" ", name)))


def _differ(one: str, other: str) -> bool:
    """Whether two texts are constants that are not equal."""
    sums = [_constant_of(text) for text in (one, other)]
    return None not in sums and sums[0] != sums[1]


def _constant_of(text: str) -> exact.Sum | None:
    number = values.number_of(text, loose=True)
    if number is None:
        found = exact.sum_of(writing.as_latex(text))
    else:
        found = exact.sum_of(str(number.value / 100 if number.percent else number.value))
    return found if found is not None and exact.is_constant(found) else None
