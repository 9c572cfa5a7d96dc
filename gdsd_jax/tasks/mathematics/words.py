"""Words around and in place of numbers: which leave a number as it is, and which spell one."""

from fractions import Fraction
import re

WORD = re.compile(r"[A-Za-z]+")
COMMAND = re.compile(r"\\[A-Za-z]+")  # of LaTeX
_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
_ABBREVIATIONS = re.compile("[A-Z]{2,4}s")  # such as CDs
_WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z .,'\-]*")
UNITS = frozenset(
    "mm cm dm km ft in yd mi lb lbs oz mg kg ml cl dl hr hrs min sec ms mph kmh kph mpg gal qt pt "
    "usd eur gb mb kb hz khz rpm pcs pts btu kwh yr yrs wk wks sq cu dr tsp tbsp th st nd rd am pm "
    "um ug us rs chf pa kpa mpa kn kj mj kw mw ev mol to is of by an on at it he we up so gbp jpy "
    "cny krw nzd hkd sgd pln dkk be as my me if he no".split()
)
# units of one letter; of k, M, B and T many read thousands and more, and x, n or t are variables
_LETTERS = frozenset("ghmsdlLJNWVACF")

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SPELT = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_TIMES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
}
# parts of one: (one of them, several) -> how many make one
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    name + ending: value
    for value, name in (
        *((3, "third"), (4, "fourth"), (5, "fifth"), (8, "eighth"), (9, "ninth"), (12, "twelfth")),
        *((SPELT[word], f"{word}th") for word in (*_ONES[6:8], *_ONES[10:12], *_ONES[13:])),
        *((SPELT[word], f"{word[:-1]}ieth") for word in _TENS),
        *((100, "hundredth"), (1000, "thousandth"), (10**6, "millionth"), (10**9, "billionth")),
    )
    for ending in ("", "s")
}
_ONE_PART = {name for name in _PARTS if name == "half" or not name.endswith("s")}

# what says that a number is not the answer
DENIED = frozenset(
    "not no nor neither never wrong incorrect incorrectly false untrue mistaken invalid impossible "
    "cannot unlikely hardly barely scarcely except excepting but fails too unequal exclude ignore "
    "ignoring".split()
)
# what makes other numbers, or several, of one; of a formula too
_CHANGED = frozenset(
    "or least most than between half twice thrice double triple quadruple quintuple approximately "
    "approx roughly around about circa nearly almost".split()
)
_FUNCTIONS = frozenset("pi tau sqrt root log ln exp sin cos tan infinity plus minus times".split())
_NOT_BEFORE = (DENIED | _CHANGED | _FUNCTIONS) | frozenset(
    "over under above below negative square cube without excluding besides".split()
)
_NOT_AFTER = (DENIED | _CHANGED | _FUNCTIONS) | frozenset(
    "squared cubed factorial mod modulo choose radian radians hundreds thousands millions billions "
    "trillions lakhs crores binary octal hexadecimal".split()
)
_NOT_AFTER -= frozenset("no neither around about between double triple than times".split())
_NOT_NEXT = frozenset(
    "point score scores gross grand tens dozens quintillion sextillion septillion "
    "octillion nonillion decillion googol mil thou fold halved doubled tripled max rad".split()
)
# in a formula they are a part of it, or a unit
_OF_FORMULAS = (_FUNCTIONS - {"plus", "minus", "times"}) | {
    "radian",
    "radians",
    "rad",
    "max",
    "mod",
}
_MORE = frozenset("more less fewer greater larger smaller higher lower negative".split())
# of these words math-verify sees nothing, whatever they say: 5 \\text{ or more}
SEVERAL = DENIED | _CHANGED | set(SPELT)
_OF = re.compile(
    r"\b(?:multiple|factor|divisor|power|inverse|reciprocal|opposite|complement|conjugate|negation"
    r"|double|factorial|logarithm|percent|fraction|part|digit"
    r"|divisible|coprime|prime|close|next|up|far|short|out|anything|everything|all|different"
    rf"|distinct|apart|other|{'|'.join(_ONE_PART)})"
    r"s?\s+(?:of|by|to|but|from)\b(?:\s+(?:the|number|an?)\b)*[\s$:(]*$"
    # one in 7, two and 7
    rf"|\b(?:{'|'.join([*SPELT, *_TIMES])})[\s,-]+(?:(?:out|in|of|over|by|per|to|and|every)\b\s*)*$"
    r"|\b(?:modulo|mod)\W*$",
    re.IGNORECASE,
)
_REFUSED = (
    r"(?:excluded|rejected|eliminated|discarded|omitted|refuted|disproved|disproven|ruled\s+out"
    r"|crossed\s+out)\b"
)
_REFUSED_BEFORE = re.compile(rf"^\W*{_REFUSED}|{_REFUSED}\W*$", re.IGNORECASE)
_REFUSED_AFTER = re.compile(
    rf"^\W*(?:(?:is|was|are|were|be|been|being|has|have|must|should|to|can|gets?|got)\s+)*"
    rf"(?:{_REFUSED}|out\b(?!\s+of\b))",
    re.IGNORECASE,
)
_PART_AFTER = re.compile(
    rf"^\W*(?:{'|'.join(_PARTS)})\b|\b(?:{'|'.join(_PARTS.keys() - _ONE_PART)})\b"
    rf"|\b(?:and|an?|{'|'.join(SPELT)})[\s-]+(?:{'|'.join(_ONE_PART)})\b"
    rf"|\btimes\s+(?:{'|'.join([*SPELT, *_TIMES])}|pi|itself|that|this|it|larger|[a-z])\b"
    rf"|\bper\s+(?:mille|{'|'.join(_TIMES)})\b",
    re.IGNORECASE,
)
_VARIABLE_IS = re.compile(r"\b[A-Za-z]\s+(?=(?:is|equals|was)(?:\s|$))")

_SPELT_WORD = rf"(?:{'|'.join([*SPELT, *_TIMES])})\b"
SPELT_RUN = rf"{_SPELT_WORD}(?:(?:\s+and\s+|\s+|-){_SPELT_WORD})*"
_GOES_ON = re.compile(
    rf"\s*(?:/|:|-|,|over|to|by|and|out\s+of|of|in)\s*{_SPELT_WORD}", re.IGNORECASE
)
_SPELT_BEGIN = re.compile(SPELT_RUN, re.IGNORECASE)
_COUNT = rf"(?:[0-9]+\b|{SPELT_RUN})"
_SPELT_PART = re.compile(
    rf"(?:(?P<whole>{_COUNT})(?:\s+and\s+|-and-))?"
    rf"(?:(?P<top>an?\b|{_COUNT})(?:\s+|-))?(?P<part>{'|'.join(sorted(_PARTS)[::-1])})\b",
    re.IGNORECASE,
)


def spelt_number(text: str) -> int | None:
    """The number that words such as "two hundred and five" spell; None where they spell none."""
    total, part = 0, None
    for word in re.split(r"\s+and\s+|\s+|-", text.strip(" .").lower()):
        if word in SPELT:
            room = 100 if part is None or part % 100 == 0 else 10 if part % 10 == 0 else 0
            if SPELT[word] >= room or (part is not None and part % 100 == 10):
                return None
            part = (part or 0) + SPELT[word]
        elif word == "hundred":
            part = 100 * (1 if part is None else part)
        elif word in _TIMES:
            total, part = total + _TIMES[word] * (1 if part is None else part), None
        else:
            return None
    return total + (part or 0)


def in_digits(answer: str) -> str:
    r"""An answer that begins with a spelt number, with that in digits: "two thirds of it" becomes
    "\frac{2}{3} of it"; any other as it is."""
    begin = _SPELT_PART.match(answer)
    value = None if begin is None else _value_of(begin)
    if begin is None and not re.search("[0-9]", answer):
        begin = _SPELT_BEGIN.match(answer)
        value = None if begin is None else spelt_number(begin[0])
    if value is None:
        return answer
    rest = answer[begin.end() :]
    if isinstance(value, Fraction):
        if re.search("[0-9]", rest) or _SPELT_BEGIN.search(rest):
            return answer  # of another number
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}{rest}"
    return answer if _GOES_ON.match(rest) else f"{value}{rest}"


def _value_of(hit: re.Match) -> Fraction | None:
    """The value of a hit of _SPELT_PART; None for an ordinal, as in "third"."""
    whole, top, part = hit["whole"], hit["top"], hit["part"].lower()
    if top is None:
        return Fraction(1, 2) if part == "half" and whole is None else None
    counts = [
        1 if text.lower() in ("a", "an") else int(text) if text.isdigit() else spelt_number(text)
        for text in (top, whole or "0")
    ]
    if None in counts or (counts[0] == 1) != (part in _ONE_PART):
        return None
    return counts[1] + Fraction(counts[0], _PARTS[part])


def may_stand_before(words: str) -> bool:
    """Whether a text is plain words, that leave a number behind them as it is."""
    if re.search(r"[^A-Za-z\s.,:;'\"()]", words) or words.count("(") != words.count(")"):
        return False
    words = _VARIABLE_IS.sub("", words)
    if _OF.search(words) or _REFUSED_BEFORE.search(words):
        return False
    found = WORD.findall(words)
    plain = all(is_word(word) for word in found) or is_prose(found)
    return plain and not _NOT_BEFORE & set(map(str.lower, found))


def may_stand_after(words: str) -> bool:
    """Whether words leave a number before them as it is."""
    found = list(map(str.lower, WORD.findall(words)))
    if _NOT_AFTER & set(found) or _NOT_NEXT & set(found[:1]):
        return False
    return not _REFUSED_AFTER.search(words) and not _PART_AFTER.search(words)


def may_stand_behind_formula(words: str, said: set[str]) -> bool:
    """Whether words leave a formula before them as it is; those that are `said` of it do."""
    found = [word for word in map(str.lower, WORD.findall(words)) if word not in said]
    kept = [word for word in found if word not in _OF_FORMULAS]
    is_other = times_of(kept) > 1 or _MORE & set(kept)
    return not is_other and may_stand_after(" ".join(kept))


def times_of(words: list[str]) -> int:
    """What the words behind a number multiply it by: 100,000 of "hundred thousand dollars"."""
    times = 1
    for word in words:
        if word not in _TIMES:
            break
        times *= _TIMES[word]
    return times


def is_word(word: str) -> bool:
    """Whether letters are a word or a unit, rather than a product of variables."""
    lower = word.lower()
    if lower in UNITS or lower == "a":
        return True
    return len(word) > 2 and _VOWEL.search(word) is not None and lower != "xyz"


def is_prose(words: list[str]) -> bool:
    """Whether there is a longer word, beside which shorter ones, such as Mr, are no variables."""
    return any(len(word) > 2 and is_word(word) for word in words)


def is_words(text: str) -> bool:
    """Whether a text is plain words, or one letter."""
    if len(text) == 1:
        return text.isascii() and text.isalpha()
    return _WORDS_ONLY.fullmatch(text) is not None and all(map(is_word, WORD.findall(text)))


def is_unit(word: str, letters: bool) -> bool:
    """Whether a word may follow a number and leave it as it is; a single letter, if it is a
    unit's and letters may be units."""
    is_plural = _ABBREVIATIONS.fullmatch(word) is not None
    return is_word(word) or is_plural or (letters and word in _LETTERS)


def may_touch(word: str) -> bool:
    """Whether a word may follow a number without a space; xy and abc would be products."""
    return word.lower() in UNITS or len(word) > 3 or word in _LETTERS
