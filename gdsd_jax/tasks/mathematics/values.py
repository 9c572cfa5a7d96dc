r"""What a short answer is worth, exactly, where it is a number: "288.", "\text{288}", "$1,080".

Texts of more than MOST_CHARACTERS characters are no numbers.
"""

from fractions import Fraction
import re
from typing import NamedTuple

from gdsd_jax.tasks.mathematics import words
from gdsd_jax.tasks.mathematics.exact import EQUALS
from gdsd_jax.tasks.mathematics.writing import MOST_CHARACTERS, cleaned

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{{1,3}}(?![A-Za-z0-9]))?|\.[0-9]+)"
_FRACTION = (
    rf"(?:\\frac\s*\{{\s*(?P<top>[-+]?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>{_DECIMAL})\s*\}}"
    r"|\\frac\s*(?P<top_digit>[0-9])\s*(?P<bottom_digit>[0-9])(?![0-9.]))"
)
_NUMBER = re.compile(
    rf"(?P<whole>[0-9]+)\s*{_FRACTION}|{_FRACTION.replace('P<', 'P<only_')}"
    rf"|(?P<mixed>[0-9]+)\s+(?P<mixed_top>[0-9]+)\s*/\s*(?P<mixed_bottom>[0-9]+)"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})|(?P<plain>{_DECIMAL})"
)
_SIGN_AND_CURRENCY = re.compile(r"(?P<words>.*?)(?P<signs>[-+]?\s*\$?\s*[-+]?)\s*", re.DOTALL)
_POWER = "[²³]?"
_UNIT = re.compile(
    rf"\s*(?P<word>[A-Za-z]+(?:'[a-z]+)?(?:-[A-Za-z]+)*(?:{_POWER}/[A-Za-z]+)?){_POWER}"
    rf"|\s*\\(?:text(?:rm)?|mathrm|mbox)\s*\{{(?P<text>[^{{}}0-9=+*<>\\]*)\}}{_POWER}"
    r"|\s*(?P<mark>[%$.,;:!/'\")*])|\s+"
)
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z}])\s*(?:\^|\*\*)\s*(?:\{[23]\}|[23](?![0-9]))")
_NUMBERED = re.compile(r"^(?:#|[Nn]o\.)\s*(?=[0-9])")
_SPELT_SIGN = re.compile(r"^(?:negative|minus)\s+(?=[0-9.a-z])", re.IGNORECASE)
_ASIDE = re.compile(r"(?P<outside>[^()]*[^()\s])\s*\((?P<inside>[^()]+)\)\s*\.?")
_WRITTEN = rf"(?:{words.SPELT_RUN}|{_DIGITS})"
_TWICE = re.compile(
    rf"(?<![A-Za-z0-9.,/^-])(?P<first>{_WRITTEN})\s*\(\s*(?P<second>{_WRITTEN})\s*\)", re.IGNORECASE
)
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")


class Number(NamedTuple):
    """An exact value, and whether a percent sign follows."""

    value: Fraction
    percent: bool


def number_of(answer: str, loose: bool = False) -> Number | None:
    """The number that an answer is, units and words around it left out; None where it is none.

    Exactly one number may stand in it. Of an equation its right side counts, or the left one of
    5 = x.

    Args:
      answer: as it is written.
      loose: whether words may spell it, and a single letter be a unit, as in 5 g; elsewhere that is
        a variable.
    """
    if len(answer) > MOST_CHARACTERS:
        return None
    answer = _without_aside(_TWICE.sub(_said_once, _side_of(cleaned(answer))))
    if loose:
        answer = _NUMBERED.sub("", _SPELT_SIGN.sub("-", answer))
        sign = "-" if answer.startswith("-") else ""
        answer = sign + words.in_digits(answer.removeprefix("-"))
    answer = _POWER_OF_UNIT.sub("²", answer)  # which power does not matter
    numbers = list(_NUMBER.finditer(answer))
    if len(numbers) != 1:
        return None
    before = _SIGN_AND_CURRENCY.fullmatch(answer[: numbers[0].start()])
    said, signs = before["words"], before["signs"]
    edge = before[0][max(0, len(said) - 1) : len(said) + 1]
    if said and not set(edge) & set(" \n:$("):
        return None  # such as x5, where something is multiplied
    factor, value = _factor_of(answer[numbers[0].end() :], loose), _value_of(numbers[0])
    if factor is None or value is None or not words.may_stand_before(said):
        return None
    if signs.count("-") + signs.count("+") > 1:
        return None
    times, percent = factor
    return Number(value * times * (-1 if "-" in signs else 1), percent)


def same(wanted: Number, number: Number) -> bool:
    """Whether two numbers are equal; a percent sign on one side alone may mean either."""
    if wanted.value == number.value:
        return True
    if wanted.percent and not number.percent:
        return wanted.value == 100 * number.value
    if number.percent and not wanted.percent:
        return 100 * wanted.value == number.value
    return False


def _side_of(answer: str) -> str:
    """What an equation says of its variable; an answer that is none as it is."""
    equals = list(EQUALS.finditer(answer))
    if not equals:
        return answer
    right = answer[equals[-1].end() :].strip()
    if len(equals) == 1 and _VARIABLE.fullmatch(right):
        return answer[: equals[0].start()].strip()
    return right


def _said_once(hit: re.Match) -> str:
    """5 for five (5) and 5 (five); others as they are, for 5 (5) is a product."""
    digits = [text for text in hit.groups() if text[0].isdigit()]
    spelt = [words.spelt_number(text) for text in hit.groups() if not text[0].isdigit()]
    if len(digits) != 1 or _exact(digits[0]) != spelt[0]:
        return hit[0]
    return digits[0]


def _without_aside(answer: str) -> str:
    """An answer without what brackets say again, 5 for 5 (total), five (5) and $5 (5 dollars)."""
    aside = _ASIDE.fullmatch(answer)
    if aside is None:
        return answer
    outside, inside = aside["outside"].strip(), aside["inside"].strip()
    for number, text in ((outside, inside), (inside, outside)):
        spelt = words.spelt_number(text)
        if spelt is None:
            spelt = words.spelt_number(text.rpartition(" ")[0] or text)  # five dollars
        if spelt is not None and re.search("[0-9]", number):
            found = number_of(number, loose=True)
            return number if found is not None and found.value == spelt else answer
    found = [number_of(text, loose=True) for text in (outside, inside)]
    if found[0] is not None and found[0] == found[1] and re.search("[A-Za-z$]", answer):
        return outside  # without a unit it is a product
    is_comment = words.is_words(inside) and words.may_stand_after(inside)
    is_comment &= not words.SEVERAL & set(inside.lower().split())
    return outside if is_comment and len(inside) > 1 else answer


def _factor_of(after: str, letters: bool) -> tuple[int, bool] | None:
    """(factor, whether in percent) of what follows a number; None where it is not plain words."""
    place, percent, said = 0, False, []
    while place < len(after):
        unit = _UNIT.match(after, place)
        if unit is None:
            return None
        if unit["word"] is not None:
            touches = place == 0 and not after[0].isspace()
            parts = re.findall("[A-Za-z']+", unit["word"])
            # beside words a shorter one is no variable: 460 for the CD, 460 T-shirts
            is_said = words.is_prose(said) or ("-" in unit["word"] and words.is_prose(parts))
            if not is_said and not all(
                words.is_unit(part, letters or number > 0) for number, part in enumerate(parts)
            ):
                return None
            if touches and not words.may_touch(parts[0]):
                return None
            said.append(parts[0].lower())
        elif unit["text"] is not None:
            said += words.WORD.findall(unit["text"].lower())
        elif unit["mark"] == "%":
            percent = True
        elif unit["mark"] == "!" and place == 0:
            return None  # a factorial
        elif unit["mark"] == "/" and not re.match(r"\s*(?:[A-Za-z]|\\text)", after[unit.end() :]):
            return None
        place = unit.end()
    if not words.may_stand_after(after):
        return None
    return words.times_of(said), percent or "percent" in said


def _value_of(number: re.Match) -> Fraction | None:
    """The value of a hit of _NUMBER; None for a fraction over zero."""
    parts = {name: text for name, text in number.groupdict().items() if text is not None}
    whole = _exact(parts.get("whole") or parts.get("mixed") or "0")
    if "plain" in parts:
        return _exact(parts["plain"])
    tops = ("top", "top_digit", "only_top", "only_top_digit", "mixed_top", "over")
    bottoms = ("bottom", "bottom_digit", "only_bottom", "only_bottom_digit", "mixed_bottom")
    top = next(parts[name] for name in tops if name in parts)
    bottom = next(parts[name] for name in (*bottoms, "under") if name in parts)
    if _exact(bottom) == 0:
        return None
    return whole + _exact(top) / _exact(bottom)


def _exact(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text.rstrip(".") if "e" not in text.lower() else text.replace(".e", ".0e"))
