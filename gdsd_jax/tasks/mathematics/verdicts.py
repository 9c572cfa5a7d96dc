"""Whether an answer is the gold one, as far as that is seen without algebra."""

import re

from gdsd_jax.tasks.mathematics import (
    exact,
    parts,
    quantities,
    sentences,
    values,
    words,
    writing,
)

_BASE = re.compile(r"(?<=[0-9])\s*_\s*\{?\s*([0-9]+)")
_OF_MATHEMATICS = re.compile(r"[\\^_+\-*/()\[\]{}=<>|!√π∞×÷·⁰¹²³⁴-⁹]")
_WORDS_BETWEEN = re.compile(
    r"[0-9].*\\(?:text|mathrm|mbox)[a-z]*\s*\{[^{}]*[A-Za-z][^{}]*\}.*[0-9]"
)
_POWER_OF_TEXT = re.compile(
    r"(?P<unit>\\(?:text(?:rm)?|mathrm|mbox)\s*\{(?P<words>[^{}]*)\})"
    r"\s*(?:\^|\*\*)[\s{]*(?:\\text\s*\{)?\s*-?[0-9](?![0-9])[\s}]{0,3}"
)
_SIGN = re.compile(r"\\[A-Za-z]+|[0-9]+|[A-Za-z]")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}")
_MAY_BE_SEVERAL = re.compile(r"[,=]|\\(?:text|mathrm|mbox|pm|mp)|\u00b1")
_WORDS_BEHIND = re.compile(r"[A-Za-z\s.,;:'\"()$-]*\Z")
_LETTER = (
    r"(?:(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)\s*(?:is\s+)?:?\s*){0,2}"
    r"(?:\\text(?:bf|rm)?\s*\{\s*)?\(?\s*([A-J])\s*"
)
_CHOICE = re.compile(_LETTER + r"[).:]?\s*\}?\s*\)?\.?", re.IGNORECASE)
_BEFORE_OPTION = re.compile(  # as in "C. Paris"; a product is none
    _LETTER + r"[).:](?:\s|\\[ ,;]|\})+(?=[\w$(]|\\(?:text|mathrm|d?frac|sqrt|\$))",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z'])")


def decide(gold: str, answer: str) -> bool | None:
    """Whether an answer is the gold one, where that is seen at once; None = it takes algebra.

    Numbers are compared exactly. A percent sign on one side alone may mean either: 50% is 50 and
    it is 0.5. Without numbers on both sides only equal texts, and words, are decided.

    Args:
      gold: the right answer.
      answer: the one to judge.
    """
    if max(len(gold), len(answer)) > writing.MOST_CHARACTERS:
        return gold == answer
    if not writing.is_near(gold):
        answer = writing.exact_side(answer)
    gold_text, text = sentences.alike(writing.cleaned(gold), writing.cleaned(answer))
    if not text:
        return False
    if _without_spaces(gold_text) == _without_spaces(text):
        return True
    wanted = None if "=" in gold_text else values.number_of(gold)
    if _has_wrong_equation(gold_text, text, wanted is not None):
        return False
    listed = quantities.verdict(gold_text, text)
    if listed is not None:
        return listed
    if wanted is not None:
        text = sentences.steps_of(text)[-1]
    plain = writing.without_text(text)
    number = values.number_of(plain, loose=True)
    if number is not None and wanted is not None:
        return values.same(wanted, number)
    if not _MAY_BE_SEVERAL.search(gold_text) and "=" not in text and _has_words_between(text):
        return False  # 12 \text{ cm} \times 5 \text{ cm}: math-verify sees the first number alone
    choices = choice_of(gold_text), choice_of(text)
    if None not in choices:
        return choices[0] == choices[1]
    if words.is_words(gold_text) and words.is_words(text):
        return len(text) > 2 and gold_text.strip(" .").casefold() == text.strip(" .").casefold()
    if _has_other_words(gold_text, text, wanted is not None) or _is_other(gold_text, text):
        return False
    if not _is_balanced(text):
        return False
    if number is not None and not number.percent:  # the units say nothing to a formula
        text = rf"\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"
    formulas = [writing.as_latex(gold_text), writing.as_latex(text)]
    if any(map(parts.has_both_signs, formulas)):
        formulas = list(map(parts.written_out, formulas))
    verdict = exact.verdict(*formulas)
    return False if verdict is None and any(map(exact.is_vast, formulas)) else verdict


def is_copied(question: str, gold: str, answer: str) -> bool:
    """Whether an answer is a formula of the question, and not the gold one however it is written:
    what was to be worked out equals what comes of it. Numbers, with or without units, choices,
    lists and equations are no such formulas."""
    asked, wanted, text = map(writing.cleaned, (question, gold, answer))
    said = _without_spaces(text)
    if said not in _without_spaces(asked) or _signs_of(text) == _signs_of(wanted):
        return False
    if "=" in said or choice_of(text) is not None or _form_of(text) is not None:
        return False
    is_number = values.number_of(writing.without_text(text), loose=True) is not None
    return not is_number and _OF_MATHEMATICS.search(said) is not None


def _has_other_words(gold: str, answer: str, is_number: bool) -> bool:
    """Whether words of an answer deny it, make another value of it, or are prose."""
    said, plain = _words_of(answer), writing.without_text(answer)
    if is_number and (not _OF_MATHEMATICS.search(plain) or words.SEVERAL & set(said)):
        return True
    if words.DENIED & set(said) - set(_words_of(gold)) or _is_changed(gold, plain):
        return True
    return sum(len(word) > 2 for word in said) > 4


def _has_wrong_equation(gold: str, answer: str, is_number: bool) -> bool:
    """Whether one of the equations in an answer is false, or they give one variable two values
    though the gold answer, a number or a point, has a single one."""
    plain = writing.without_text(answer)
    form = _form_of(gold)
    is_single = is_number or form not in (None, "")
    if is_single and parts.contradict(plain, numbered=is_number):
        return True
    if is_number:
        equations = sentences.steps_of(answer)
        if sentences.MODULO.search(equations[-1]):
            return True
    elif form is not None or len(parts.of(writing.without_text(gold))) > 1:
        equations = parts.of(plain)  # x=2 and x=3, where both are wanted
    else:
        equations = [answer]
    return any("=" in equation and _is_false(equation) for equation in equations)


def _has_words_between(text: str) -> bool:
    r"""Whether words in \text{} stand between two numbers; the power of a unit is none."""
    return _WORDS_BETWEEN.search(_POWER_OF_TEXT.sub(_without_power, text)) is not None


def _without_power(hit: re.Match) -> str:
    """The unit of a hit of _POWER_OF_TEXT; all of it where letters are no unit, as of x^2."""
    said = words.WORD.findall(hit["words"])
    return hit["unit"] if all(words.is_unit(word, letters=True) for word in said) else hit[0]


def _is_false(text: str) -> bool:
    """Whether an equation is one of numbers that differ, as in 4 = 5 and 3 + 5 = 7."""
    sides = [_number_of(side) for side in exact.EQUALS.split(text)]
    numbers = [side for side in sides if side is not None]
    return any(not values.same(numbers[0], number) for number in numbers)


def _number_of(side: str) -> values.Number | None:
    """The number that a side of an equation is, or that its sum is."""
    number = values.number_of(side)
    if number is None and any(sign.isdigit() for sign in side):
        value = exact.rational_of(writing.as_latex(side.replace("$", "")))
        number = None if value is None else values.Number(value, percent=False)
    return number


def _words_of(text: str) -> list[str]:
    """The words of a text, in small letters, without commands."""
    return [word.lower() for word in words.WORD.findall(words.COMMAND.sub(" ", text))]


def _is_changed(gold: str, plain: str) -> bool:
    """Whether words behind a formula make another value of it: 2 pi or more, x + 1 squared.

    In a list "or" is a separator.
    """
    wanted = writing.without_text(gold)
    if len(parts.of(wanted)) > 1 or _form_of(gold) is not None or parts.has_both_signs(gold):
        return False
    behind = _WORDS_BEHIND.search(words.COMMAND.sub(" ", plain))[0]
    said = set(_words_of(wanted)) | ({"negative"} if "-" in wanted else set())
    return not words.may_stand_behind_formula(behind, said)


def choice_of(text: str) -> str | None:
    """The letter of "(C)", "C)", "option C" and "C. Paris", in capitals; None where a text is
    none, or names several."""
    found = _CHOICE.fullmatch(text)
    if found is None:
        found = _BEFORE_OPTION.match(text)
        if found is not None and _LONE_LETTER.search(text, found.end()):
            return None
    return None if found is None or not found[1].isupper() else found[1]


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


def _signs_of(text: str) -> list[str]:
    """The commands, numbers and letters of a formula in the order of their names, without units."""
    return sorted(_SIGN.findall(_TEXT.sub(" ", text)))


def _variables_of(text: str) -> set[str]:
    """The letters that are no part of commands or words."""
    text = words.COMMAND.sub(" ", _TEXT.sub(" ", text))
    return {
        letter
        for word in words.WORD.findall(text)
        if len(word) < 3 or not words.is_word(word)
        for letter in word
    }


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
