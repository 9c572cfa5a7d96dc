r"""What a short answer is worth, exactly, where it is a number: "288.", "\text{288}", "$1,080".

Texts of more than MOST_CHARACTERS characters are no numbers.
"""

from fractions import Fraction
import re
from typing import NamedTuple

MOST_CHARACTERS = 400

WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width characters
_SIGNS = str.maketrans(
    WIDE
    | {
        "−": "-",
        "–": "-",
        "—": "-",
        "∕": "/",
        "\u2044": "/",
        "’": "'",
        "‘": "'",
        "Ω": " ohm",
        "。": ".",
        "µ": "u",
        "μ": "u",
    }
    | dict.fromkeys("“”„«»", '"')
    | dict.fromkeys("£€¥₹₩¢", "$")
    | {"\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u202f": " ", "\u200b": ""}
)


def _by_commas(hit: re.Match) -> str:
    """1 080 000 as 1,080,000."""
    return hit[1].replace(" ", ",")


def _repeating(hit: re.Match) -> str:
    r"""0.1\overline{6} as a fraction."""
    whole, once, again = hit[1] or "0", hit[2], hit[3] or hit[4]
    bottom = (10 ** len(again) - 1) * 10 ** len(once)
    top = int(whole + once + again) - int(whole + once)
    return rf"\frac{{{top}}}{{{bottom}}}"


# In this order. A space that is printed between three digits is a separator.
_CLEANED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?<=[0-9])(?:\\[,!]|\{,\}|[\u00a0\u2009\u202f'\u2019])(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\[!,]|</?[a-z]{1,6}>|\s*[\u2713\u2714\u2705]$", ""),
        (r"(?i)(?<=[0-9\s])([ap])\.\s?m\b\.?", r"\1m"),
        (r"\\[;: ]|~|\\q?quad(?![A-Za-z])", " "),
        # thousands apart by a plain space, but for mixed numbers such as 1 100/3
        (r"(?<![0-9.,])([0-9]{1,3}(?: [0-9]{3})+)(?![0-9]|\s*[/\\])", _by_commas),
        (r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*(?:\{([0-9]+)\}|([0-9]))", _repeating),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\displaystyle(?![A-Za-z])", ""),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°|\\degrees?(?![A-Za-z])", " degrees"),
        (r"\\([$%])", r"\1"),
    )
)
_AROUND = (
    *(("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__")),
    *(("*", "*"), ("_", "_"), ("```", "```"), ("`", "`"), ("``", "''"), ('"', '"'), ("'", "'")),
)
_WRAPPED = re.compile(
    r"(?:\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox|underline)|\\?boxed)\s*\{([^{}]*)\}"
)
_EQUALS = re.compile(r"(?<![<>!=\\])=(?!=)")

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
    rf"\s*(?P<word>[A-Za-z]+(?:'[a-z]+)?(?:{_POWER}/[A-Za-z]+)?){_POWER}"
    rf"|\s*\\(?:text(?:rm)?|mathrm|mbox)\s*\{{(?P<text>[^{{}}0-9=+*<>\\]*)\}}{_POWER}"
    r"|\s*(?P<mark>[%$.,;:!/'\")*])|\s+"
)
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z}])\s*(?:\^|\*\*)\s*(?:\{[23]\}|[23](?![0-9]))")
_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]+")
_UNITS = frozenset(
    "mm cm dm km ft in yd mi lb lbs oz mg kg ml cl dl hr hrs min sec ms mph kmh kph mpg gal qt pt "
    "usd eur gb mb kb hz khz rpm pcs pts btu kwh yr yrs wk wks sq cu dr tsp tbsp th st nd rd am pm "
    "um ug us rs chf pa kpa mpa kn kj mj kw mw ev mol to is of by an on at it he we up so "
    "my".split()
)
# units of one letter; of k, M, B and T many read thousands and more, and x, n or t are variables
_LETTERS = frozenset("ghmsdlLJNWVACF")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELT = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_TIMES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
# words that make another number, or several, of what stands beside them
_NOT_BEFORE = frozenset(
    "or not no nor neither never least most than between over under above below negative minus "
    "plus square root sqrt cube log ln exp sin cos tan pi times half about except without "
    "approximately approx roughly around circa nearly almost".split()
)
_NOT_AFTER = frozenset(
    "or nor half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths pi "
    "tau sqrt root squared cubed factorial mod log sin cos tan infinity plus minus times "
    "trillion choose approximately approx roughly not never incorrect wrong false hundredths "
    "thousandths millionths billionths".split()
)
# of these words math-verify sees nothing, whatever they say: 5 \\text{ or more}
SEVERAL = frozenset(
    "or nor not no never least most than about between half approximately approx roughly around "
    "circa nearly almost".split()
) | set(_SPELT)
_SPELT_WORD = rf"(?:{'|'.join([*_SPELT, *_TIMES])})"
_SPELT_BEGIN = re.compile(rf"{_SPELT_WORD}(?:(?:\s+and\s+|\s+|-){_SPELT_WORD})*\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?:#|[Nn]o\.)\s*(?=[0-9])")
_SPELT_SIGN = re.compile(r"^(?:negative|minus)\s+(?=[0-9.a-z])", re.IGNORECASE)
_ASIDE = re.compile(r"(?P<outside>[^()]*[^()\s])\s*\((?P<inside>[^()]+)\)\s*\.?")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
_WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z .,'\-]*")


class Number(NamedTuple):
    """An exact value, and whether a percent sign follows."""

    value: Fraction
    percent: bool


def cleaned(answer: str) -> str:
    r"""An answer without what changes nothing: signs of mathematics mode, \left, thin spaces.

    Also without \text{} around the whole of it.
    """
    answer = answer.strip()
    for pattern, new in _CLEANED[:1]:
        answer = pattern.sub(new, answer)
    answer = answer.translate(_SIGNS)
    for pattern, new in _CLEANED[1:]:
        answer = pattern.sub(new, answer)
    for _ in range(4):  # such as $\text{$5$}$
        inner = _unwrapped(answer.strip())
        if inner == answer:
            break
        answer = inner
    return answer


def _unwrapped(answer: str) -> str:
    """An answer without one pair of what stands around all of it."""
    for begin, end in _AROUND:
        inner = answer[len(begin) : len(answer) - len(end)]
        is_around = answer.startswith(begin) and answer.endswith(end)
        if is_around and len(answer) > len(begin) + len(end) and begin not in inner:
            return inner.strip()
    wrapped = _WRAPPED.fullmatch(answer)
    return answer if wrapped is None else wrapped[1].strip()


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
    answer = _without_aside(_side_of(cleaned(answer)))
    if loose:
        answer = _NUMBERED.sub("", _SPELT_SIGN.sub("-", answer))
    begin = _SPELT_BEGIN.match(answer.lstrip("-")) if loose else None
    if begin is not None and not re.search("[0-9]", answer):
        spelt, sign = spelt_number(begin[0]), "-" if answer.startswith("-") else ""
        rest = answer.lstrip("-")[begin.end() :]
        answer = answer if spelt is None else f"{sign}{spelt}{rest}"
    answer = _POWER_OF_UNIT.sub("²", answer)  # which power does not matter
    numbers = list(_NUMBER.finditer(answer))
    if len(numbers) != 1:
        return None
    before = _SIGN_AND_CURRENCY.fullmatch(answer[: numbers[0].start()])
    words, signs = before["words"], before["signs"]
    edge = before[0][max(0, len(words) - 1) : len(words) + 1]
    if words and not set(edge) & set(" \n:$("):
        return None  # such as x5, where something is multiplied
    factor, value = _factor_of(answer[numbers[0].end() :], loose), _value_of(numbers[0])
    if factor is None or value is None or not _may_stand_before(words):
        return None
    if signs.count("-") + signs.count("+") > 1:
        return None
    times, percent = factor
    return Number(value * times * (-1 if "-" in signs else 1), percent)


def _side_of(answer: str) -> str:
    """What an equation says of its variable; an answer that is none as it is."""
    equals = list(_EQUALS.finditer(answer))
    if not equals:
        return answer
    right = answer[equals[-1].end() :].strip()
    if len(equals) == 1 and _VARIABLE.fullmatch(right):
        return answer[: equals[0].start()].strip()
    return right


def _without_aside(answer: str) -> str:
    """An answer without what brackets say again, 5 for 5 (total) and for five (5)."""
    aside = _ASIDE.fullmatch(answer)
    if aside is None:
        return answer
    outside, inside = aside["outside"].strip(), aside["inside"].strip()
    for number, words in ((outside, inside), (inside, outside)):
        spelt = spelt_number(words)
        if spelt is not None and re.search("[0-9]", number):
            found = number_of(number, loose=True)
            return number if found is not None and found.value == spelt else answer
    is_comment = is_words(inside) and not (_NOT_AFTER | SEVERAL) & set(inside.lower().split())
    return outside if is_comment and len(inside) > 1 else answer


def spelt_number(text: str) -> int | None:
    """The number that words such as "two hundred and five" spell; None where they spell none."""
    total, part = 0, None
    for word in re.split(r"\s+and\s+|\s+|-", text.strip(" .").lower()):
        if word in _SPELT:
            room = 100 if part is None or part % 100 == 0 else 10 if part % 10 == 0 else 0
            if _SPELT[word] >= room or (part is not None and part % 100 == 10):
                return None
            part = (part or 0) + _SPELT[word]
        elif word == "hundred":
            part = 100 * (1 if part is None else part)
        elif word in _TIMES:
            total, part = total + _TIMES[word] * (1 if part is None else part), None
        else:
            return None
    return total + (part or 0)


def _may_stand_before(words: str) -> bool:
    """Whether a text is plain words, that leave a number as it is."""
    if re.search(r"[^A-Za-z\s.,:;'\"()]", words) or words.count("(") != words.count(")"):
        return False
    found = WORD.findall(words)
    return all(is_word(word) for word in found) and not _NOT_BEFORE & set(map(str.lower, found))


def is_word(word: str) -> bool:
    """Whether letters are a word or a unit, rather than a product of variables."""
    lower = word.lower()
    if lower in _UNITS or lower == "a":
        return True
    return len(word) > 2 and _VOWEL.search(word) is not None and lower != "xyz"


def is_words(text: str) -> bool:
    """Whether a text is plain words, or one letter."""
    if len(text) == 1:
        return text.isascii() and text.isalpha()
    return _WORDS_ONLY.fullmatch(text) is not None and all(map(is_word, WORD.findall(text)))


def _factor_of(after: str, letters: bool) -> tuple[int, bool] | None:
    """(factor, whether in percent) of what follows a number; None where it is not plain words."""
    place, times, percent, words = 0, 1, False, []
    while place < len(after):
        unit = _UNIT.match(after, place)
        if unit is None:
            return None
        if unit["word"] is not None:
            touches = place == 0 and not after[0].isspace()
            parts = re.findall("[A-Za-z']+", unit["word"])
            if not all(_is_unit(part, letters or number > 0) for number, part in enumerate(parts)):
                return None
            if touches and not _may_touch(parts[0]):
                return None
            words.append(parts[0].lower())
        elif unit["text"] is not None:
            words += WORD.findall(unit["text"].lower())
        elif unit["mark"] == "%":
            percent = True
        elif unit["mark"] == "!" and place == 0:
            return None  # a factorial
        elif unit["mark"] == "/" and not re.match(r"\s*(?:[A-Za-z]|\\text)", after[unit.end() :]):
            return None
        place = unit.end()
    if _NOT_AFTER & set(words):
        return None
    if words and words[0] in _TIMES:
        times = _TIMES[words[0]]
    return times, percent or "percent" in words


def _is_unit(word: str, letters: bool) -> bool:
    """Whether a word may follow a number and leave it as it is; a single letter, if it is a
    unit's and letters may be units."""
    return is_word(word) or (letters and word in _LETTERS)


def _may_touch(word: str) -> bool:
    """Whether a word may follow a number without a space; xy and abc would be products."""
    return word.lower() in _UNITS or len(word) > 3 or word in _LETTERS


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
