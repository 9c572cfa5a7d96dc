"""Whether an answer is the gold one, as far as that is seen without algebra."""

import re

from gdsd_jax.tasks.mathematics import values

_BASE = re.compile(r"(?<=[0-9])\s*_\s*\{?\s*([0-9]+)")
_OF_MATHEMATICS = re.compile(r"[\\^_+\-*/()\[\]{}=<>|!√π∞×÷·]")
_NEARLY = re.compile(r"\\(?:approx|simeq|sim|cong|doteq)(?![A-Za-z])|[≈≃∼≅]|^[\s$]*(?:\\\()?\s*~")
_HIGH = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"  # digits of powers
_RAISED = re.compile(f"[{_HIGH}]+")
_DIGITS = str.maketrans(_HIGH, "0123456789")
_ROOT = re.compile("\u221a\\s*([0-9]+|[a-z])")
_POWERS = re.compile(r"(?<=[0-9A-Za-z)}])\s*\*\*\s*(-?[0-9.]+|[A-Za-z](?![A-Za-z]))")


def decide(gold: str, answer: str) -> bool | None:
    """Whether an answer is the gold one, where that is seen at once; None = it takes algebra.

    Numbers are compared exactly. A percent sign on one side alone may mean either: 50% is 50 and
    it is 0.5. Without numbers on both sides only equal texts, and words, are decided.

    Args:
      gold: the right answer.
      answer: the one to judge.
    """
    if max(len(gold), len(answer)) > values.MOST_CHARACTERS:
        return gold == answer
    if not _NEARLY.search(gold):
        answer = _NEARLY.split(answer)[0]  # of 22/7 \approx 3.14 the exact side
    gold_text, text = values.cleaned(gold), values.cleaned(answer)
    if not text:
        return False
    if _without_spaces(gold_text) == _without_spaces(text):
        return True
    sides = [values.number_of(side) for side in text.split("=")]
    if len(sides) > 1 and None not in sides and len({side.value for side in sides}) > 1:
        return False  # 4 = 5
    number = values.number_of(answer, loose=True)
    wanted = None if "=" in gold_text else values.number_of(gold)
    if number is not None and wanted is not None:
        return _same(wanted, number)
    if values.is_words(gold_text) and values.is_words(text):
        return len(text) > 2 and gold_text.strip(" .").casefold() == text.strip(" .").casefold()
    words = [word.lower() for word in values.WORD.findall(re.sub(r"\\[A-Za-z]+", " ", text))]
    if wanted is not None and (not _OF_MATHEMATICS.search(text) or values.SEVERAL & set(words)):
        return False
    if _is_other(gold_text, text):
        return False
    is_prose = sum(len(word) > 2 for word in words) > 4
    return False if is_prose or not _is_balanced(text) else None


def _is_other(gold: str, answer: str) -> bool:
    """Whether two texts differ in what math-verify does not see: bases, brackets, large letters."""
    if set(_BASE.findall(gold)) - {"10"} != set(_BASE.findall(answer)) - {"10"}:
        return True
    forms = _form_of(gold), _form_of(answer)
    if None not in forms and forms[0] != forms[1]:
        return True
    wanted, found = _variables_of(gold), _variables_of(answer)
    return any(letter.swapcase() in wanted - found for letter in found - wanted)


def _form_of(text: str) -> str | None:
    """The brackets around a list, "" for none and for those of a set; None where it is no list."""
    text = re.split(r"=|\\in(?![A-Za-z])", text)[-1].strip(" .").replace("\\", "")
    depth, commas, closes = 0, set(), []  # depths of commas, places where all brackets are closed
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == ",":
            commas.add(depth)
        elif sign in ")]}" and depth == 0:
            closes.append(place)
    if text[:1] in ("(", "[", "{") and closes[:1] == [len(text) - 1] and 1 in commas:
        return "" if text[0] == "{" else text[0] + text[-1]
    return "" if 0 in commas else None


def _variables_of(text: str) -> set[str]:
    """The letters that are no part of commands or words."""
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    return {
        letter
        for word in values.WORD.findall(text)
        if len(word) < 3 or not values.is_word(word)
        for letter in word
    }


def _same(wanted: values.Number, number: values.Number) -> bool:
    if wanted.value == number.value:
        return True
    if wanted.percent and not number.percent:
        return wanted.value == 100 * number.value
    if number.percent and not wanted.percent:
        return 100 * wanted.value == number.value
    return False


def _without_spaces(text: str) -> str:
    """A text without spaces, but for those that keep digits or letters apart."""
    return re.sub(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])", "", text)


def _is_balanced(text: str) -> bool:
    """Whether braces open and close in pairs."""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False
    return depth == 0


def as_latex(answer: str) -> str:
    """An answer that is no number as math-verify understands it: powers by ^, no approximation."""
    answer = _NEARLY.split(answer.translate(values.WIDE))[0] or answer
    answer = answer.rstrip().removesuffix(".")
    answer = _RAISED.sub(lambda hit: f"^{{{hit[0].translate(_DIGITS)}}}", answer)
    answer = _ROOT.sub(r"\\sqrt{\1}", answer).replace("\u00d7", r"\times ")
    return _POWERS.sub(r"^{\1}", answer)
