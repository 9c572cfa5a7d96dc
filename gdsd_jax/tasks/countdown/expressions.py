"""Arithmetic over exact fractions: expressions as trees, as text, and read back from any text.

A tree is an int, or a tuple (sign, left, right) with a sign of "+-*/".
"""

import ast
from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import itertools
import operator
import re

SIGNS = "+-*/"
MOST_CHARACTERS = 200  # of an expression that is evaluated; deeper or longer ones have no value
MOST_BITS = 4096  # of the numerator of a power, and of its denominator

_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_MORE = _BINARY | {ast.FloorDiv: operator.floordiv, ast.Pow: None}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FAULTS = (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)

Tree = int | tuple


@dataclasses.dataclass(frozen=True)
class Value:
    """What an expression is worth, and the numbers it was made of."""

    value: Fraction
    numbers: tuple[int | float, ...]


def evaluate(text: str, released: bool = False) -> Value | None:
    """The value of an expression; None where it is none, divides by zero or is too long.

    Allowed are whole numbers, + - * / and brackets, in ASCII. Never fails and needs no more than
    about a millisecond, whatever the text.

    Args:
      text: of any content and length.
      released: as the released rules, which give the text to Python: also `//`, `**` with a whole
        exponent (up to MOST_BITS), and decimal points.
    """
    text = text.strip()
    allowed = r"[\d+\-*/().\s]+" if released else r"[0-9+\-*/() \t]+"
    if len(text) > MOST_CHARACTERS or not re.fullmatch(allowed, text):
        return None
    numbers = []
    try:
        tree = ast.parse(text, mode="eval")
        value = _value_of(tree.body, _MORE if released else _BINARY, numbers)
    except _FAULTS:
        return None
    return Value(value, tuple(numbers))


def _value_of(node: ast.expr, binary: dict, numbers: list) -> Fraction:
    """The value of a node; its numbers are added to the list. Raises one of `_FAULTS`."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if isinstance(node.value, float) and binary is _BINARY:
            raise ValueError("a decimal point")
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value_of(node.operand, binary, numbers))
    if isinstance(node, ast.BinOp) and type(node.op) in binary:
        left = _value_of(node.left, binary, numbers)
        right = _value_of(node.right, binary, numbers)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        return Fraction(binary[type(node.op)](left, right))
    raise ValueError("not arithmetic")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """ValueError where the result would be irrational or longer than MOST_BITS."""
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > MOST_BITS:
        raise ValueError("a power out of bounds")
    return base**exponent


# ---------------------------------------------------------------- trees


def text_of(tree: Tree) -> str:
    """The tree as text, with the brackets it needs and no others."""
    if isinstance(tree, int):
        return str(tree)
    sign, left, right = tree
    left_text, right_text = text_of(left), text_of(right)
    if _strength(left) < _STRENGTH[sign]:
        left_text = f"({left_text})"
    # a - (b - c) and a / (b * c) need them, a + (b - c) and a * (b / c) do not
    if _strength(right) < _STRENGTH[sign] + (sign in "-/"):
        right_text = f"({right_text})"
    return left_text + sign + right_text


def _strength(tree: Tree) -> int:
    return 3 if isinstance(tree, int) else _STRENGTH[tree[0]]


def value_of_tree(tree: Tree) -> Fraction | None:
    """The value of a tree; None where it divides by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    sign, left, right = tree
    left, right = value_of_tree(left), value_of_tree(right)
    if left is None or right is None:
        return None
    return combined(sign, left, right)


def combined(sign: str, left: Fraction, right: Fraction) -> Fraction | None:
    """One operation; None for a division by zero."""
    if sign == "/":
        return left / right if right else None
    return {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](left, right)


def solve(numbers: tuple[int, ...], target: int) -> Tree | None:
    """A tree that uses each number once and is worth `target`, the first of a fixed order.

    None where there is none. Work grows steeply: a few milliseconds for 4 numbers, seconds for 6.
    """
    return _search([(Fraction(number), number) for number in numbers], Fraction(target))


def _search(parts: list[tuple[Fraction, Tree]], target: Fraction) -> Tree | None:
    """Two of the (value, tree) parts become one, in every way, until one is left."""
    if len(parts) == 1:
        value, tree = parts[0]
        return tree if value == target else None
    for left, right in itertools.permutations(range(len(parts)), 2):
        rest = [part for place, part in enumerate(parts) if place not in (left, right)]
        for joined in _joined(parts[left], parts[right], once=left < right):
            found = _search([*rest, joined], target)
            if found is not None:
                return found
    return None


def _joined(left: tuple, right: tuple, once: bool) -> Iterator[tuple[Fraction, Tree]]:
    """The parts that two parts make; + and * only where `once`, their order changes nothing."""
    for sign in SIGNS if once else "-/":
        value = combined(sign, left[0], right[0])
        if value is not None:
            yield value, (sign, left[1], right[1])
