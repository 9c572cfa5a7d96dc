"""Formulas as exact sums: against SymPy, and what is no sum."""

import random

import pytest

from gdsd_jax.tasks.mathematics import exact

sympy = pytest.importorskip("sympy")


def drawn(rng, depth):
    """(a formula in LaTeX, the same in SymPy)."""
    kind = rng.choice(("number", "root", "letter", "pi")) if depth == 0 else rng.choice("+-*/^")
    if kind == "number":
        number = rng.randint(1, 12)
        return str(number), sympy.Integer(number)
    if kind == "root":
        number = rng.randint(2, 24)
        return f"\\sqrt{{{number}}}", sympy.sqrt(number)
    if kind in ("letter", "pi"):
        name, symbol = ("\\pi ", sympy.pi) if kind == "pi" else ("x", sympy.Symbol("x"))
        return name, symbol
    (left, one), (right, other) = drawn(rng, depth - 1), drawn(rng, depth - 1)
    if kind == "^":
        power = rng.randint(0, 3)
        return f"({left})^{power}", one**power
    if kind == "/":
        number = rng.randint(1, 9)
        return f"\\frac{{{left}}}{{{number}-\\sqrt{{2}}}}", one / (number - sympy.sqrt(2))
    sign = {"+": "+", "-": "-", "*": rng.choice(("*", "\\cdot ", ""))}[kind]
    value = {"+": one + other, "-": one - other, "*": one * other}[kind]
    return f"({left}){sign}({right})", value


def test_sums_are_equal_where_sympy_says_so():
    """Each formula beside its expansion, and beside one that differs."""
    rng = random.Random(0)
    seen = set()
    for _ in range(150):
        text, value = drawn(rng, rng.randint(1, 3))
        found = exact.sum_of(text)
        expanded = sympy.expand(sympy.radsimp(value))
        assert found is not None, text
        terms = [
            sympy.Mul(factor, sympy.sqrt(root), *(named(name) ** power for name, power in letters))
            for (root, letters), factor in found.items()
        ]
        gap = sympy.expand(sympy.radsimp(sympy.expand(sympy.Add(*terms) - expanded)))
        assert sympy.simplify(gap) == 0, (text, found)
        assert exact.verdict(text, f"({text})+1") is False, text
        seen.add(len(found))
    assert len(seen) > 4


def named(name):
    return sympy.pi if name == exact.PI else sympy.Symbol(name)


@pytest.mark.parametrize(
    "gold, answer, same",
    [
        ("12", "5+7", True),
        ("12", "3 \\cdot 4", True),
        ("12", "5+8", False),
        ("7", "3+5=7", False),
        ("8", "3+5=8", True),
        ("7", "2x=7", None),
        ("7", "x=3+4", True),
        ("2k+2", "2(k+1)", True),
        ("2k+2", "2k+1", False),
        ("x+1", "x+2=x+1", False),
        ("x+1", "2x+2-x-1=x+1", True),
        ("x+1", "x^2=x+1", None),  # x^2 is what is asked for
        ("x+1", "y+2=x+1", None),
        ("x+2=x+1", "x+2=x+1", None),
        ("2i", "(1+i)^2=2i", None),
        ("3m", "3", None),  # perhaps a unit
        ("e", "2e", None),
        ("2^{60}", "4^{30}", True),
        ("2^{10000}", "2^{10000}", None),  # out of bounds
        ("\\frac{1}{\\sqrt{3}-1}", "\\frac{\\sqrt{3}+1}{2}", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5}", False),
        ("\\pi", "3.14159265358979", False),
        ("1/2", "1/2x", None),  # of two meanings
        ("5/2", "2\\frac{1}{2}", None),
        ("0", "\\frac{1}{0}", None),
        ("0", "\\frac{1}{\\sqrt{4}-2}", None),
        ("-4", "-2^2", True),
        ("4", "-2^2", False),
        ("1", "\\sin x", None),
        ("1", "f(1)", None),
        ("(1, 2)", "(1, \\frac{4}{2})", True),
        ("(1, 2)", "(2, 1)", False),
        ("(1, 2)", "[1, 2]", None),
        ("(-\\infty, 3)", "(-\\infty,\\frac{6}{2})", True),
        ("1, 2", "2, 1", True),
        ("\\{1, 2\\}", "2, 1", True),
        ("1, 2", "2, 3", None),
        ("1, 80", "1,080", None),
        ("(1,2),(3,4)", "(1,2),(3,5)", None),
    ],
)
def test_verdicts(gold, answer, same):
    assert exact.verdict(gold, answer) is same


@pytest.mark.parametrize(
    "text", ["(" * 400, "(" * 200 + "1" + ")" * 200, "9^" * 200 + "9", "(a+b)^{64}", "\\sqrt{" * 60]
)
def test_large_formulas_are_no_sums(text):
    assert exact.sum_of(text) is None


@pytest.mark.parametrize(
    "text, is_vast",
    [
        ("2^{2023}", False),
        ("x^{99999999999}", False),
        ("1^{99999999999}+0^{99999999999}", False),
        ("99^{99}^{9}", False),
        ("99^{99}^{99999}", True),
        ("2^{2^{4}}", False),
        ("2^{10^{10}}", True),
        ("3+2^{2^{2^{2^{2^{2}}}}}", True),
        ("9" * 399 + "!", False),
        ("1^{" + "9" * 390 + "}", False),
        ("2^{" + "9" * 390 + "}", True),
        ("10^{-99999999999}", True),
        ("(-3)^{99999999999}", True),
        ("(2-1)^{99999999999}", False),
        ("2.5^{99999999999}", True),
        ("3^{2^{-99}}", False),
        ("2^{64}^{65536}", False),
        ("2^{64}^{65537}", True),
    ],
)
def test_vast_numbers_are_known_and_not_written_out(text, is_vast):
    assert exact.is_vast(text) is is_vast


def test_powers_are_vast_where_their_numbers_have_too_many_bits():
    """Against numbers written out, and the last that is not vast beside the first that is."""
    rng = random.Random(0)
    for _ in range(20):
        base, power = rng.randint(2, 99), rng.randint(1, 2_000_000)
        bits = (base**power).bit_length()
        assert exact.is_vast(f"1+{base}^{{{power}}}x") is (bits > exact.VAST_BITS)
    assert not exact.is_vast(f"2^{{{exact.VAST_BITS}}}")
    assert exact.is_vast(f"2^{{{exact.VAST_BITS + 1}}}")
