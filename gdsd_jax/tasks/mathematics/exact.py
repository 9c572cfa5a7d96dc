r"""Formulas of rational numbers, square roots, \pi and letters, as sums to compare exactly.

A sum maps each of its terms, (a square-free number under a root, letters with their powers), to a
rational factor. Roots of different square-free numbers, and \pi, cannot make up for one another, so
that two constants are equal only where their sums are. What else stands in a formula, such as
functions or units, makes it no sum. Sums are bounded, and so is the time for one.
"""

from collections.abc import Mapping
from fractions import Fraction
import functools
import itertools
import math
import re

Term = tuple[int, tuple[tuple[str, int], ...]]
Sum = Mapping[Term, Fraction]

MOST_TERMS = 24
MOST_BITS = 2048  # of a factor's numerator, and of its denominator
MOST_UNDER_ROOT = 10**8
MOST_POWER = 64
MOST_DEPTH = 24
VAST_BITS = 1 << 22  # of a number that algebra is spared
PI = "\\pi"
_ONE: Term = (1, ())

_TOKEN = re.compile(
    r"\s*(?P<sign>\\(?:pi|frac|sqrt|cdot|times|div)(?![A-Za-z])|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
    r"|[-+*/^(){}]|[A-Za-z]+)"
)
EQUALS = re.compile(r"(?<![<>!=\\])=(?!=)")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
_INFINITE = ("\\infty", "-\\infty", "+\\infty")
_PLAIN = re.compile(r"[0-9]+")
_RAISED = re.compile(
    r"(?P<base>[0-9]+|\(\s*-?\s*[0-9]+\s*\))(?P<powers>(?:\s*\^\s*\{\s*-?\s*[0-9]+\s*\})+)"
)


class _NoSum(Exception):
    """A formula is not a sum as this module knows them, or too large a one."""


def verdict(gold: str, answer: str) -> bool | None:
    """Whether two formulas in LaTeX, or lists of them, are equal; None where that is not certain.

    An answer of several sides is wrong where constants among them differ, as in 3 + 5 = 7, or
    where sums in the same letters do, as in x + 2 = x + 1.
    """
    lists = _list_of(gold), _list_of(answer)
    if lists != (None, None):
        return None if None in lists else _of_lists(*lists)
    sides = [sum_of(side) for side in EQUALS.split(answer)]
    constants = [side for side in sides if side is not None and is_constant(side)]
    if any(side != constants[0] for side in constants):
        return False
    if EQUALS.search(gold) is None and _contradict(sides):
        return False
    if len(sides) > 1 and sides[0] is not None and _is_letter(sides[0]):
        sides = sides[1:]
    if None in sides or any(side != sides[0] for side in sides):
        return None
    return _of_sums(sum_of(gold), sides[0])


def _contradict(sides: list[Sum | None]) -> bool:
    """Whether sums in the same letters differ. A product on the left is what was asked for, as in
    x^2 = x + 1."""
    first, *others = sides
    sums = others if first is None or len(first) < 2 else sides
    of_letters: dict[frozenset[str], Sum] = {}
    for one in sums:
        letters = frozenset() if one is None else frozenset(_letters_of(one))
        if letters and not letters & {"e", "i"} and of_letters.setdefault(letters, one) != one:
            return True
    return False


def _of_sums(wanted: Sum | None, found: Sum | None) -> bool | None:
    """As `verdict`. Of sums in other letters one may be a unit; e and i are no variables."""
    if wanted is None or found is None:
        return None
    if wanted == found:
        return True
    letters = _letters_of(wanted)
    return False if letters == _letters_of(found) and not letters & {"e", "i"} else None


def _list_of(text: str) -> tuple[str, list[str]] | None:
    """(brackets, parts) of a list, whose brackets are "", (), [), {} and so on; None for others."""
    text = text.strip().replace("\\{", "{").replace("\\}", "}")
    brackets = text[:1] + text[-1:]
    is_around = brackets[:1] in ("(", "[", "{") and brackets[1:] in (")", "]", "}")
    inside = text[1:-1] if is_around else text
    depth, cuts = 0, [-1]
    for place, sign in enumerate(inside):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return None  # such as (1,2),(3,4)
        if sign == "," and depth == 0:
            cuts.append(place)
    if len(cuts) == 1 or depth or "=" in text or _THOUSANDS.search(text):
        return None
    cuts.append(len(inside))
    parts = [inside[begin + 1 : end].strip() for begin, end in itertools.pairwise(cuts)]
    return brackets if is_around else "", parts


def _of_lists(wanted: tuple[str, list[str]], found: tuple[str, list[str]]) -> bool | None:
    """As `verdict`; the order counts where the brackets are round or square."""
    brackets, golds = wanted
    other, parts = found
    if {brackets, other} <= {"", "{}"}:
        pairs = [sorted(map(repr, map(_sorted_sum, side))) for side in (golds, parts)]
        return True if pairs[0] == pairs[1] and "None" not in pairs[0] else None
    if brackets != other or len(golds) != len(parts):
        return None
    verdicts = [
        (gold == part and part in _INFINITE) or _of_sums(sum_of(gold), sum_of(part))
        for gold, part in zip(golds, parts)
    ]
    return False if False in verdicts else None if None in verdicts else True


def sum_of(text: str) -> Sum | None:
    """The sum that a formula is; None where it is none."""
    tokens, place = [], 0
    while text[place:].strip():
        hit = _TOKEN.match(text, place)
        if hit is None:
            return None
        tokens.append(hit["sign"])
        place = hit.end()
    try:
        return _Reader(tokens).whole()
    except (_NoSum, ZeroDivisionError):
        return None


def rational_of(text: str) -> Fraction | None:
    """The value of a formula that is a rational number; None where it is not, or no sum."""
    found = sum_of(text)
    if found is None or set(found) - {_ONE}:
        return None
    return found.get(_ONE, Fraction(0))


def is_vast(text: str) -> bool:
    r"""Whether a formula in LaTeX has a number to the power of numbers, as in 2^{10^{10}}, that no
    library writes out in time: of more than VAST_BITS bits."""
    while (hit := _RAISED.search(text)) is not None:
        base = int(_PLAIN.search(hit["base"])[0])
        power = math.prod(map(int, _PLAIN.findall(hit["powers"])))
        bits = math.log2(max(base, 1)) * min(power, VAST_BITS + 1)
        if bits > VAST_BITS:
            return True
        value = base**power if bits < 64 else 1 << 64  # as a power of another one that is vast
        value = 0 if "-" in hit["powers"] else value  # a fraction, which no power is vast by
        text = f"{text[: hit.start()]}{value}{text[hit.end() :]}"
    return False


def is_constant(one: Sum) -> bool:
    """Whether there are no letters in a sum."""
    return not _letters_of(one)


def _sorted_sum(text: str) -> list | None:
    found = sum_of(text)
    return None if found is None else sorted(found.items())


def _letters_of(one: Sum) -> set[str]:
    return {name for _, letters in one for name, _ in letters} - {PI}


def _is_letter(one: Sum) -> bool:
    """Whether a sum is a single variable, which an equation gives a value."""
    (term, factor), *more = list(one.items()) or [(_ONE, 0)]
    return not more and factor == 1 and term[0] == 1 and len(term[1]) == 1 and term[1][0][1] == 1


# ---------------------------------------------------------------- reading


class _Reader:
    """Reads a sum from tokens; methods raise _NoSum."""

    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    def whole(self) -> Sum:
        found = self._sum()
        if self._next() is not None:
            raise _NoSum
        return found

    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, wanted: str | None = None) -> str:
        token = self._next()
        if token is None or (wanted is not None and token != wanted):
            raise _NoSum
        self._place += 1
        return token

    def _sum(self) -> Sum:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _NoSum
        sign = -1 if self._next() == "-" else 1
        if self._next() in ("+", "-"):
            self._take()
        found = _times(self._product(), _constant(sign))
        while self._next() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            found = _plus(found, _times(self._product(), _constant(sign)))
        self._depth -= 1
        return found

    def _product(self) -> Sum:
        before, found = self._next(), self._power()
        divided = False
        while True:
            token = self._next()
            if token in ("*", "\\cdot", "\\times"):
                self._take()
                found = _times(found, self._power())
            elif token in ("/", "\\div"):
                self._take()
                found, divided = _times(found, _inverse(self._power())), True
            elif token is None or token in "+-)}":
                return found
            else:  # they stand side by side
                is_number = before is not None and before[0] in "0123456789."
                is_mixed = token == "\\frac" and is_number
                if divided or is_mixed or token[0] in "0123456789.^":
                    raise _NoSum  # of 1/2x, 1\frac{1}{2} and x2 the meaning is open
                found = _times(found, self._power())
            before = token

    def _power(self) -> Sum:
        base = self._atom()
        if self._next() != "^":
            return base
        self._take()
        token = self._next()
        if token == "{":
            exponent = self._braced()
        elif token is not None and _PLAIN.fullmatch(token):
            exponent = _constant(int(self._take()))
        else:
            exponent = self._atom()
        if self._next() == "^":
            raise _NoSum
        return _raised(base, _rational(exponent))

    def _braced(self) -> Sum:
        self._take("{")
        found = self._sum()
        self._take("}")
        return found

    def _atom(self) -> Sum:
        token = self._take()
        if token[0] in "0123456789.":
            return _bounded({_ONE: Fraction(token)}) if Fraction(token) else {}
        if token == "\\frac":
            return _times(self._braced(), _inverse(self._braced()))
        if token == "\\sqrt":
            return _raised(self._braced(), Fraction(1, 2))
        if token == PI:
            return {(1, ((PI, 1),)): Fraction(1)}
        if token in ("(", "{"):
            found = self._sum()
            self._take(")" if token == "(" else "}")
            return found
        if token.isalpha():
            return self._letters(token)
        raise _NoSum

    def _letters(self, token: str) -> Sum:
        """A letter; only the first one of xy, so that a power is the last one's."""
        if len(token) > 2 or (token in ("f", "g", "h") and self._next() == "("):
            raise _NoSum
        if len(token) == 2:
            self._place -= 1
            self._tokens = (
                self._tokens[: self._place] + list(token) + self._tokens[self._place + 1 :]
            )
            self._place += 1
        return {(1, ((token[0], 1),)): Fraction(1)}


# ---------------------------------------------------------------- arithmetic


def _constant(value: int) -> Sum:
    return {_ONE: Fraction(value)} if value else {}


def _bounded(one: dict[Term, Fraction]) -> Sum:
    one = {term: factor for term, factor in one.items() if factor}
    for factor in one.values():
        if max(factor.numerator.bit_length(), factor.denominator.bit_length()) > MOST_BITS:
            raise _NoSum
    if len(one) > MOST_TERMS:
        raise _NoSum
    return one


def _plus(left: Sum, right: Sum) -> Sum:
    found = dict(left)
    for term, factor in right.items():
        found[term] = found.get(term, Fraction(0)) + factor
    return _bounded(found)


def _times(left: Sum, right: Sum) -> Sum:
    found: dict[Term, Fraction] = {}
    for (root, letters), factor in left.items():
        for (other, more), times in right.items():
            common = math.gcd(root, other)
            powers = dict(letters)
            for name, power in more:
                powers[name] = powers.get(name, 0) + power
            kept = tuple(sorted((name, power) for name, power in powers.items() if power))
            if any(abs(power) > MOST_POWER for _, power in kept):
                raise _NoSum
            term = (root * other // common**2, kept)
            found[term] = found.get(term, Fraction(0)) + factor * times * common
    return _bounded(found)


def _inverse(one: Sum) -> Sum:
    if not one:
        raise _NoSum  # over zero
    if len(one) == 1:
        ((root, letters), factor) = next(iter(one.items()))
        inverted = tuple((name, -power) for name, power in letters)
        return _bounded({(root, inverted): 1 / (factor * root)})
    if any(letters for _, letters in one):
        raise _NoSum
    prime = _least_prime(max(root for root, _ in one))
    # a + b sqrt(p), by a - b sqrt(p)
    other = {term: -factor if term[0] % prime == 0 else factor for term, factor in one.items()}
    return _times(other, _inverse(_times(one, other)))


def _raised(base: Sum, exponent: Fraction) -> Sum:
    if exponent.denominator == 2:
        return _raised(_root_of(_rational(base)), Fraction(exponent.numerator))
    if exponent.denominator != 1 or abs(exponent) > MOST_POWER:
        raise _NoSum
    if exponent < 0:
        return _raised(_inverse(base), -exponent)
    if not base and exponent == 0:
        raise _NoSum
    found, left = _constant(1), int(exponent)
    while left:
        if left % 2:
            found = _times(found, base)
        left //= 2
        base = _times(base, base) if left else base
    return found


def _rational(one: Sum) -> Fraction:
    """The value of a sum without roots and letters."""
    if not one:
        return Fraction(0)
    if set(one) != {_ONE}:
        raise _NoSum
    return one[_ONE]


def _root_of(value: Fraction) -> Sum:
    if value < 0:
        raise _NoSum
    if value == 0:
        return {}
    outside, inside = _split(value.numerator * value.denominator)
    return _bounded({(inside, ()): Fraction(outside, value.denominator)})


@functools.lru_cache(4096)
def _split(number: int) -> tuple[int, int]:
    """(a, b) of a number a^2 b, where b is square-free."""
    whole = math.isqrt(number)
    if whole * whole == number:
        return whole, 1
    if number > MOST_UNDER_ROOT:
        raise _NoSum
    outside, inside, prime = 1, 1, 2
    while prime * prime <= number:
        while number % (prime * prime) == 0:
            outside, number = outside * prime, number // (prime * prime)
        if number % prime == 0:
            inside, number = inside * prime, number // prime
        prime += 1
    return outside, inside * number


def _least_prime(number: int) -> int:
    return next(
        (prime for prime in range(2, math.isqrt(number) + 1) if number % prime == 0), number
    )
