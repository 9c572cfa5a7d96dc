r"""Formulas in sentences, steps in a row, and intervals that are written as inequalities."""

import re

from gdsd_jax.tasks.mathematics import words

MODULO = re.compile(r"\\[bp]?mod(?![A-Za-z])")
_IS = re.compile(
    r"(?P<before>[A-Za-z][A-Za-z',. ]*?)\s*(?::|\bis\b|\bare\b)\s*(?P<rest>[\\(\[{0-9+\-.].*)",
    re.DOTALL,
)
_NAME = re.compile(r"\\?[A-Za-z]+(?:\([A-Za-z]\)|_\{?\w+\}?)?")
# behind a formula; math-verify leaves out a unit in letters, but not its power
_UNIT_AND_POWER = re.compile(
    r"(?<![A-Za-z\\])(?P<unit>[A-Za-z]+)"
    r"\s*(?:(?:\^|\*\*)\s*(?:\{\s*[23]\s*\}|[23])|[\u00b2\u00b3])[\s.$]*$"
)
_STEP = re.compile(r"[;\n]|,\s+(?=[^,;=]*[0-9][^,;=]*=)")

_LESS = r"(?:<|\\(?:leq?|leqslant|lt)(?![A-Za-z])|\u2264)"
_MORE = r"(?:>|\\(?:geq?|geqslant|gt)(?![A-Za-z])|\u2265)"
_SIDE = (
    r"(?P<{}>[^<>=\u2264\u2265,a-zA-Z]*?(?:\\(?:frac|sqrt|pi|infty)[^<>=\u2264\u2265,a-zA-Z]*)*?)"
)
_BETWEEN = re.compile(
    rf"\s*{_SIDE.format('low')}\s*(?P<first>{_LESS})\s*(?P<name>[a-zA-Z])\s*"
    rf"(?P<second>{_LESS})\s*{_SIDE.format('high')}\s*"
)
_BEYOND = re.compile(
    rf"\s*(?P<name>[a-zA-Z])\s*(?P<sign>{_LESS}|{_MORE})\s*{_SIDE.format('edge')}\s*"
)
_OR = re.compile(r"\s+or\s+|\s*\\text\s*\{\s*or\s*\}\s*|\s*\\(?:lor|vee)(?![A-Za-z])\s*")
_IN = re.compile(r"^[a-zA-Z]\s*\\in\s*")
_INTERVAL = re.compile(
    r"(?:[a-zA-Z]\s*\\in\s*)?[(\[][^()\[\]]*,[^()\[\]]*[)\]](?:\s*(?:\\cup|\u222a).*)?"
)


def alike(gold: str, answer: str) -> tuple[str, str]:
    """(gold, answer), cleaned ones, without the sentence around the answer and the power of its
    unit; as intervals where one of them is an interval and the other an inequality."""
    if not words.is_words(gold):
        answer = _without_power_of_unit(gold, without_sentence(answer))
    if _INTERVAL.fullmatch(gold):
        found = as_intervals(answer)
        if found is not None:
            gold, answer = _IN.sub("", gold), found
    elif _INTERVAL.fullmatch(answer):
        gold = as_intervals(gold) or gold
    return gold, answer


def without_sentence(text: str) -> str:
    r"""The formula of "The sum is $x^2+1$." and "The point is (3, 4)"; others as they are."""
    outside, inside = text.split("$")[::2], text.split("$")[1::2]
    if inside and len(outside) > len(inside) and any(map(str.strip, outside)):
        plain = words.may_stand_before(" ".join(outside[:-1])) and words.may_stand_after(
            outside[-1]
        )
        is_after = not outside[-1].strip(" .") or words.is_words(outside[-1].strip(" ."))
        if plain and is_after and all(map(_NAME.fullmatch, inside[:-1])):
            return inside[-1].strip()
        return text
    found = _IS.fullmatch(text)
    if found is None or not words.may_stand_before(found["before"]):
        return text
    return found["rest"].strip().rstrip(".")


def _without_power_of_unit(gold: str, answer: str) -> str:
    r"""36\pi cm for 36\pi cm^3, unless the letters may be variables of the gold answer."""
    found = _UNIT_AND_POWER.search(answer)
    if found is None or set(found["unit"]) & set(words.COMMAND.sub(" ", gold)):
        return answer
    is_unit = found["unit"] == "m" or (len(found["unit"]) > 1 and words.is_word(found["unit"]))
    return answer[: found.end("unit")] if is_unit else answer


def steps_of(text: str) -> list[str]:
    """The equations of "48/2 = 24; 48 + 24 = 72"; the text alone where it is no such row."""
    steps = [step.strip() for step in _STEP.split(text)]
    return steps if all("=" in step for step in steps) else [text]


def as_intervals(text: str) -> str | None:
    r"""Inequalities of one variable as intervals: [-2,7] for -2 \le x \le 7, and with "or" their
    union; None for others."""
    found, names = [], set()
    for part in _OR.split(text.strip(" .")):
        between, beyond = _BETWEEN.fullmatch(part), _BEYOND.fullmatch(part)
        if between is not None and between["low"].strip() and between["high"].strip():
            begin = "(" if _is_strict(between["first"]) else "["
            end = ")" if _is_strict(between["second"]) else "]"
            found.append(f"{begin}{between['low'].strip()},{between['high'].strip()}{end}")
            names.add(between["name"])
        elif beyond is not None and beyond["edge"].strip():
            edge, strict = beyond["edge"].strip(), _is_strict(beyond["sign"])
            names.add(beyond["name"])
            if re.fullmatch(_LESS, beyond["sign"]):
                found.append(rf"(-\infty,{edge}{')' if strict else ']'}")
            else:
                found.append(rf"{'(' if strict else '['}{edge},\infty)")
        else:
            return None
    return r" \cup ".join(found) if len(names) == 1 else None


def _is_strict(sign: str) -> bool:
    return sign in ("<", ">", r"\lt", r"\gt")
