r"""Grades expressions by whether they use the numbers and reach the target: our rule or a released.

N answers. Work is linear in the length of a text, whatever it holds, and an expression of more than
`expressions.MOST_CHARACTERS` characters has no value.
"""

from collections.abc import Sequence
from fractions import Fraction
import itertools
import re

import numpy as np

from gdsd_jax.tasks import answer_tags
from gdsd_jax.tasks.countdown import expressions
from gdsd_jax.tasks.task import Grades, Record, RewardConfig

ANSWERED = 0.1  # reward of an answer that is wrong
MENDED = {"correct": 1 - ANSWERED, "format": ANSWERED}
RELEASED = {"tagged": 1 - ANSWERED, "format": ANSWERED}
MOST_CHARACTERS = 8 * expressions.MOST_CHARACTERS  # of an answer
NEAR = Fraction(1, 100_000)  # the released rules take a value this near for the target

_SAME = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∙": "*", "•": "*", "✕": "*", "✖": "*", "＊": "*", "∗": "*"}
    | {"÷": "/", "∕": "/", "／": "/", "−": "-", "–": "-", "—": "-", "－": "-", "＋": "+", "＝": "="}
    | {"[": "(", "{": "(", "（": "(", "]": ")", "}": ")", "）": ")"}
    | dict.fromkeys("$`\u00a0\u2007\u2009\u202f", " ")
)
_WORDS = {r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\*": "*", r"\div": "/"}
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|([0-9]))"  # of one digit also without braces: \frac42
_FRACTION = re.compile(rf"\\[dtc]?frac(?![A-Za-z]){_ARGUMENT}{_ARGUMENT}")
# of LaTeX what changes no value: display, sizes of brackets, fonts, spaces
_LATEX = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad|text(?:bf|rm|it)?|math(?:rm|bf)|mbox"
    r"|boxed|checkmark)(?![A-Za-z])|\\[,;:! ()\[\]\\]"
)
_BOLD = re.compile(r"(?:^|(?<==))\s*\*\*|\*\*\s*(?=$|=)")
_NAMED = re.compile(
    r"(?:(?:and|so|thus|hence|therefore|finally|then|now)\b[\s,.:\u2026]*){0,3}"
    r"(?:(?:we|you|i)\s+(?:can\s+)?(?:have|get|obtain|find|use|write)\b[\s:]*"
    r"|(?:it|this|that)\s+is\b[\s:]*)?"
    r"(?:(?:the|my|our|an?|one|final|correct|possible|valid|arithmetic|mathematical)\s+)*"
    r"(?:(?:answer|solution|expression|equation|result)(?:\s+is)?\s*:?|(?:python|text|math)\s)?"
    r"\s*(?:(?:[a-z]|target|answer|result|expression|solution)\s*=(?!=))?",
    re.IGNORECASE,
)
# what says = in words, or by an arrow
_EQUALS_IN_WORDS = re.compile(
    r"[.,]?\s*(?:\b(?:and|so|which|this|that|it)\s+)*\b(?:equals|is\s+equal\s+to)\b\s*(?=[-0-9(])"
    r"|=>|[\u2192\u21d2]|\\(?:to|[rR]ightarrow|implies)(?![A-Za-z])",
    re.IGNORECASE,
)
_PRODUCT = re.compile(r"(?<=[0-9)])\s*(?=\(\s*[-+0-9(])|(?<=\))\s*(?=[0-9])")
_EQUAL_SIGN = re.compile(r"(?<![!<>~])=")
_ASIDE_IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*(\([^{}()]*\))\s*\}")
_EQUAL_ASIDE = re.compile(r"\(\s*=\s*([^()=]+)\)")
_PLAIN = re.compile(r"\(?\s*-?[0-9]+\s*\)?")
_TIMES = re.compile(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(])")
# what may be said of a side, or makes no other number of it
_SAID_AFTER = re.compile(
    r"\s*\(?\b(?:exactly|correct|right|indeed|true)\)?[.!]*$|(?<=[0-9])\.0+$|(?<=[0-9])!+$"
    r"|,?\s*\(?\b(?:which\s+)?(?:(?:is|matches|reaches|hits)\s+)?(?:(?:the|our)\s+)?"
    r"(?:target|goal)(?:\s+(?:number|value))?(?:\s+(?:reached|met|achieved|hit))?\)?[.!]*$"
    r"|,?\s*\(?\busing\s+(?:each|every|all|the)(?:\s+(?:of|the|given|numbers?))*"
    r"(?:\s+(?:exactly|only))?(?:\s+once)?\)?[.!]*$"
    r"|\s*[\u2713\u2714\u2705]$",
    re.IGNORECASE,
)
_RELEASED_WORDS = {r"\div": "/", r"\times": "*", r"\cdot": "*"}
_EQUALS = re.compile(r"=(?=[0-9. ])")
_OF_EXPRESSION = frozenset("0123456789+-*/() ")


def grade(records: Sequence[Record], texts: Sequence[str], reward: RewardConfig) -> Grades:
    r"""The grades of N answers, parts of 0 or 1; never fails, whatever the texts hold.

    Mended: part "format" says whether there is an answer, in tags or \boxed{}, and "correct"
    whether it uses each number once, with + - * / alone, and is exactly the target; what it says
    to be equal to that must be so. The reward is 1 for a correct answer, 0.1 for another one, 0 for
    none.

    Released (diffu-GRPO's code, which GDSD took over): "correct" as its evaluation says, "tagged"
    whether the expression in the last tags is, as its reward says, "format" whether there are tags.
    The reward is 1, 0.1 or 0 by "tagged" and "format". Decimal points, powers and whole divisions
    pass both, as long as the same digits are there.

    Args:
      records: of each answer, with "numbers" and "target".
      texts: N answers.
      reward: which rule, and the weights of its parts.
    """
    if reward.variant == "released":
        rule, names, own = _released, ("correct", "format", "tagged"), RELEASED
    else:
        rule, names, own = _mended, ("correct", "format"), MENDED
    found = [rule(record, text) for record, text in zip(records, texts)]
    columns = np.array(found, np.float32).reshape(-1, len(names))
    parts = {name: columns[:, place] for place, name in enumerate(names)}
    return Grades(reward.total(parts, own), parts["correct"] == 1, parts)


# ---------------------------------------------------------------- mended


def _mended(record: Record, text: str) -> tuple[bool, bool]:
    """(correct, format)"""
    answer = answer_of(text)
    return answer is not None and is_right(record, answer), answer is not None


def is_right(record: Record, equation: str) -> bool:
    """Whether all sides of an equation are exactly the record's target, and one of them has its
    numbers, each once.

    An expression alone is one side. Steps between are sides too: 4*5+3 = 20+3 = 23.
    """
    sides = [_SAID_AFTER.sub("", side.strip()).strip() for side in _EQUAL_SIGN.split(equation)]
    found = [expressions.evaluate(side) for side in sides if side]
    if any(side is None or side.value != record["target"] for side in found):
        return False
    wanted = sorted(record["numbers"])
    return any(sorted(side.numbers) == wanted for side in found)


def answer_of(text: str) -> str | None:
    r"""The equation or expression of an answer, in ASCII; None where nothing is answered.

    It stands in the last tags (an open one goes to the end of the text), and there in the last
    \boxed{}, if there is one; without tags in the last \boxed{} of the text. What follows an end
    token is no part of the text.
    """
    text = answer_tags.until_end(text)
    tagged = answer_tags.tagged_of(text)
    boxed = answer_tags.last_boxed(text if tagged is None else tagged)
    # of an equation's end in a box the whole equation counts
    answer = tagged if boxed is None or (tagged and _PLAIN.fullmatch(boxed)) else boxed
    return None if answer is None or not answer.strip() else in_ascii(answer[:MOST_CHARACTERS])


def in_ascii(answer: str) -> str:
    """An answer with + - * / and round brackets for LaTeX's, printed and other signs.

    Without emphasis, a name before it, and a full stop.
    """
    for _ in range(4):  # fractions within fractions
        answer = _FRACTION.sub(_divided, answer)
    answer = _ASIDE_IN_TEXT.sub(r" \1", answer)
    answer = _EQUALS_IN_WORDS.sub("=", re.sub(r"</?[a-z]{1,12}>", " ", answer))
    answer = _replaced(_LATEX.sub(" ", answer), _WORDS).translate(_SAME)
    answer = _EQUAL_ASIDE.sub(r"= \1", answer)
    answer = _BOLD.sub("", " ".join(answer.split())).strip()
    named = _NAMED.match(answer)
    answer = answer if named is None else answer[named.end() :]
    answer = _BOLD.sub("", answer.strip()).strip(" *_\"'\u201c\u201d\u2018\u2019").rstrip(".; ")
    if answer.startswith("(") and answer.endswith(")") and "=" in answer:
        answer = answer[1:-1]  # \text{...} around all of it
    return _PRODUCT.sub("*", _TIMES.sub("*", answer.strip()))


def _divided(fraction: re.Match) -> str:
    """A hit of _FRACTION as (top)/(bottom), in brackets."""
    top, top_digit, bottom, bottom_digit = fraction.groups(default="")
    return f"(({top or top_digit})/({bottom or bottom_digit}))"


def _replaced(text: str, others: dict[str, str]) -> str:
    for old, new in others.items():
        text = text.replace(old, new)
    return text


# ---------------------------------------------------------------- released


def _released(record: Record, text: str) -> tuple[bool, bool, bool]:
    """(correct as evaluated, format, correct as rewarded)"""
    tagged = answer_tags.last_of(text)
    rewarded = tagged is not None and _reaches(record, tagged)
    return _reaches(record, evaluated_answer(text)), tagged is not None, rewarded


def evaluated_answer(text: str) -> str:
    r"""What the released evaluation takes for the expression.

    The last \boxed{}, or the first tags, or else the whole text; with LaTeX's signs replaced. Where
    an equation "... = number" stands in it, the first one's left side alone.
    """
    boxed = _released_boxed(text)
    if boxed is None:
        tagged = answer_tags.first_of(text)
        boxed = text if tagged is None else tagged.strip()
    equation = _replaced(boxed, _RELEASED_WORDS)
    for equals in _EQUALS.finditer(equation):
        end = equals.start()
        if end and equation[end - 1] in _OF_EXPRESSION:
            before = itertools.takewhile(_OF_EXPRESSION.__contains__, reversed(equation[:end]))
            return equation[end - sum(1 for _ in before) : end].strip()
    return equation


def _released_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{}; of "\boxed ", which goes to the next dollar, before it."""
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    begin = text.rfind(r"\boxed")
    end = None if begin < 0 else answer_tags.end_of_braces(text, begin, escapes=False)
    if end is None or not text.startswith(r"\boxed{", begin):
        return None
    return text[begin + len(r"\boxed{") : end]


def _reaches(record: Record, expression: str) -> bool:
    """Whether the expression has the digits of the numbers and a value near the target."""
    numbers = record["numbers"]
    digits = [hit[0] for hit in itertools.islice(re.finditer(r"\d+", expression), len(numbers) + 1)]
    if len(digits) != len(numbers) or max(map(len, digits)) > expressions.MOST_CHARACTERS:
        return False
    if sorted(map(int, digits)) != sorted(numbers):
        return False
    found = expressions.evaluate(expression, released=True)
    return found is not None and abs(found.value - record["target"]) < NEAR
