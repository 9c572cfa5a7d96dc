r"""The published rules: GDSD's rewards (arXiv 2605.29398) and diffu-GRPO's evaluation (2504.12216).

GDSD trains on rewards `gsm8k_xml` and `math_xml`, and its evaluation took over diffu-GRPO's. Their
mistakes are kept: the first number of the first \boxed{} counts, "1,080" is 1, and two answers of
MATH are equal where some rules of spelling make them the same text. Work is linear in the length of
a text.
"""

from collections.abc import Iterator
import re

from gdsd_jax.tasks import answer_tags

_NUMBER = re.compile(r"-?\d+\.?\d*")
_REASONED = re.compile(r"</reasoning>\s*<answer>")
_BOXED = r"\boxed{"
_DROPPED = (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
_FRACTION, _ROOT, _UNIT = r"\frac", r"\sqrt", r"\text{ "


class _Unreadable(Exception):
    """The published code fails on a text, which is then compared as it is written."""


# ---------------------------------------------------------------- GSM8K


def number_of(text: str) -> float | None:
    r"""The number that the evaluation of GSM8K takes for the answer; None where it finds none.

    The first \boxed{} in one line that holds a number decides, or else the first answer tags, where
    the last number counts.
    """
    for content in _boxed_in_lines(text):
        content = content.strip()
        if content.strip("."):
            value = _float(content, last=False)
            if value is not None:
                return value
    tagged = answer_tags.first_of(text)
    return None if tagged is None else _float(tagged.strip(), last=True)


def _boxed_in_lines(text: str) -> Iterator[str]:
    r"""What stands between each "\boxed{" and the next "}" of its line."""
    for line in text.split("\n"):
        place = line.find(_BOXED)
        while place >= 0:
            begin = place + len(_BOXED)
            end = line.find("}", begin)
            if end < 0:
                break
            yield line[begin:end]
            place = line.find(_BOXED, end)


def _float(text: str, last: bool) -> float | None:
    """A text as a float, or its first or last number; None where it has none."""
    try:
        return float(text)
    except ValueError:
        numbers = _NUMBER.findall(text)
    return float(numbers[-1 if last else 0]) if numbers else None


def tagged_answer(text: str) -> str:
    """What GDSD's reward of GSM8K compares: from the last <answer> to the next </answer>.

    All of the text without tags.
    """
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()


def xml_count(text: str) -> float:
    """The published count of tags in lines of their own, 0.125 each.

    What follows "<answer>" and "</answer>" takes 0.001 a character away; it may be negative.
    """
    count = 0.125 * (text.count("<reasoning>\n") == 1)
    count += 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        count += 0.125 - 0.001 * len(text.partition("\n<answer>\n")[2])
    if text.count("\n</answer>") == 1:
        count += 0.125 - 0.001 * (len(text.partition("\n</answer>")[2]) - 1)
    return count


def has_soft_form(text: str) -> bool:
    """Whether a text begins with a reasoning and later an answer follows on one, in tags."""
    if not text.startswith("<reasoning>"):
        return False
    answer = _REASONED.search(text, len("<reasoning>"))
    return answer is not None and text.find("</answer>", answer.end()) >= 0


def has_strict_form(text: str) -> bool:
    """Whether a text is a reasoning and an answer, in tags that have lines of their own."""
    begin, end = "<reasoning>\n", "\n</answer>\n"
    text = text[:-1] if text.endswith(end + "\n") else text  # the end may have a further line
    if not text.startswith(begin) or not text.endswith(end):
        return False
    middle = "\n</reasoning>\n<answer>\n"
    place = text.find(middle, len(begin))
    return 0 <= place <= len(text) - len(middle) - len(end)


# ---------------------------------------------------------------- MATH


def evaluated_answer(text: str) -> str | None:
    r"""What the evaluation of MATH takes for the answer: the last \boxed{}, or all of the text.

    The first answer tags where that is empty, or an open \boxed{}.
    """
    found = boxed_answer(text)
    if found:
        return found
    tagged = answer_tags.first_of(text)
    return found if tagged is None else tagged.strip()


def rewarded_answer(text: str) -> str | None:
    r"""What GDSD's reward of MATH compares: the last \boxed{} behind the first <answer>."""
    return boxed_answer(behind_tag(text))


def behind_tag(text: str) -> str:
    """What stands from the first <answer> to the next </answer>; all of the text without one."""
    _, tag, after = text.partition("<answer>")
    return after.partition("</answer>")[0] if tag else text


def boxed_answer(text: str) -> str | None:
    r"""What the last \boxed{} holds, or \fbox{} without one; all of the text without both.

    None where it is open. "\boxed " goes to the next dollar.
    """
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    begin = text.rfind(r"\boxed")
    if begin < 0:
        begin = text.rfind(r"\fbox")
    if begin < 0:
        return text
    end = answer_tags.end_of_braces(text, begin, escapes=False)
    if end is None:
        return None
    if text.startswith(_BOXED, begin):
        return text[begin + len(_BOXED) : end]
    return text[begin : end + 1]


def is_same(answer: str | None, gold: str, fails: bool = True) -> bool:
    """Whether two answers are spelt the same by the rules that MATH came with (2103.03874).

    Args:
      answer: the one to judge; None is never the same.
      gold: the right one.
      fails: whether odd texts are compared as they are written, since the code fails on them, as
        diffu-GRPO's evaluation does; GDSD's reward leaves out the rule that does not apply.
    """
    if answer is None:
        return False
    try:
        return spelt(answer, fails) == spelt(gold, fails)
    except _Unreadable:
        return answer == gold


def spelt(answer: str, fails: bool) -> str:
    """An answer of MATH in the one spelling in which answers are compared.

    Raises:
      _Unreadable: the published code fails; not without `fails`.
    """
    answer = answer.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    answer = answer.replace("tfrac", "frac").replace("dfrac", "frac")
    for text in _DROPPED:
        answer = answer.replace(text, "")
    _fail_if(answer.count(_UNIT) > 1, fails)
    answer = answer.partition(_UNIT)[0].replace(r"\%", "")
    answer = answer.replace(" .", " 0.").replace("{.", "{0.")
    if not answer:
        return answer
    if answer.startswith("."):
        answer = "0" + answer
    name, equals, value = answer.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        answer = value
    answer = _with_fractions(_with_roots(answer, fails).replace(" ", ""), fails)
    return _fraction_of_slash(r"\frac{1}{2}" if answer == "0.5" else answer, fails)


def _fail_if(odd: bool, fails: bool) -> None:
    if odd and fails:
        raise _Unreadable


def _with_roots(answer: str, fails: bool) -> str:
    r"""\sqrt3 as \sqrt{3}."""
    begin, *others = answer.split(_ROOT)
    _fail_if(not all(others), fails)
    found = [begin]
    for other in others:
        braced = not other or other[0] == "{"
        found.append(other if braced else f"{{{other[0]}}}{other[1:]}")
    return _ROOT.join(found)


def _with_fractions(answer: str, fails: bool) -> str:
    r"""\frac12 as \frac{1}{2}."""
    begin, *others = answer.split(_FRACTION)
    found = [begin]
    for other in others:
        _fail_if(not other, fails)
        if other[:1] != "{":
            if len(other) < 2:
                return answer
            bottom = other[1:] if other[1] == "{" else f"{{{other[1]}}}{other[2:]}"
            other = f"{{{other[0]}}}{bottom}"
        found.append(other)
    return _FRACTION.join(found)


def _fraction_of_slash(answer: str, fails: bool) -> str:
    r"""1/2 as \frac{1}{2}, of whole numbers; with others the code fails."""
    if answer.count("/") != 1:
        return answer
    try:
        top, bottom = map(int, answer.split("/"))
    except ValueError:
        _fail_if(True, fails)
        return answer
    return rf"\frac{{{top}}}{{{bottom}}}" if answer == f"{top}/{bottom}" else answer
