r"""Answers of several parts: two values for one variable, lists, \pm, and false identities."""

import pytest

from gdsd_jax.tasks.mathematics import parts, writing
from tests.tasks.mathematics_numbers_test import entries
from tests.tasks.mathematics_test import equal

TWO_VALUES = r"""
x=-3 \text{ or } x=3 | x=2 or x=3 | x=2, x=3 | x=2; x=3 | x_1=2, x_2=3 | x_{1}=2, x_{2}=3
x_1=2 \text{ and } x_2=3 | x₁=2, x₂=3 | x1 = 2, x2 = 3 | t_1=2 \text{ or } t_2=3 | x=2,x=3
x=2 \text{ and } x=3 | x=2\text{, }x=3 | x=2 \lor x=3 | x=2 \vee x=3 | x=2 \mbox{ or } x=3
x=2\\x=3 | x=2 & x=3 | $x=2$ or $x=3$ | either x=2 or x=3 | The answer is x=2 or x=3 | 2=x or x=3
2 or x=3 | 2, x=3 | 4, 5, x=3 | x=2+1, x=2, x=3 | x=\sqrt{2} or x=3 | x=-\pi or x=3
x=\frac{1}{2} \text{ or } x=3 | x=2 apples or x=3 apples | x=2 \text{ cm or } x=3 \text{ cm}
f(x)=2 or f(x)=3 | \theta=2, \theta=3 | \sqrt{x}=2 or \sqrt{x}=3 | x=2=1+1 or x=3
total = 2 or total = 3 | x=20\% or x=3 | x = \pm 3, so x=2 or x=3 | x=3 or x=2 | x=3, x=2"""
ONE_VALUE = r"""
x=3 or x=3 | x=3, x=3 | x = 6/2, x = 3 | x = 2+1 or x = 3 | x=\frac{6}{2} \text{ or } x=3
x=4, y=3 | x=4; y=3 | y=4, x=3 | a_1=2, a_2=3 | f(1)=2, f(2)=3 | 2x=6, x=3 | x^2=9, x=3
x+y=5, x=2, y=3 | a = 1, b = 2, a+b = 3 | x = y+1, y=2, x = 3 | x = y = 3 | x=3 | 3=x
x=2 (rejected), x=3 | x=-3 (extraneous), x=3 | not x=-3, x=3 | x=\pm 3, so x=3
x^2=9 \Rightarrow x=3 | x=-3 or x=3, but x > 0, so x=3 | total = 1+1 = 2; total = 2+1 = 3
x=3 or x=3.0 | x=3 cm, x=3"""


@pytest.mark.parametrize("answer", entries(TWO_VALUES))
def test_two_values_of_a_variable_are_no_number(answer, shared):
    assert equal("3", answer, shared) is False


@pytest.mark.parametrize("answer", entries(ONE_VALUE))
def test_steps_and_other_variables_are_borne(answer, shared):
    assert equal("3", answer, shared) is True


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("3", "x=4 and y=3", False),
        ("3", r"2 \text{ or } 3", False),
        ("3", r"x = \pm 3", False),
        (r"\sqrt3", r"x=-\sqrt3 \text{ or } x=\sqrt3", False),
        ("x+1", "y=x+2 or y=x+1", False),
        ("(2,3)", "x=2, y=3", True),
        ("(2,3)", "x=2 and y=3", True),
        ("(2,3)", "x_1=2, x_2=3", True),
        ("(2,3)", "x=2, x=3", False),
        ("(2,3)", r"x=2 \text{ or } x=3", False),
        ("3,-1", r"x=3 \text{ and } x=-1", True),
        ("3,-1", r"x=3 \text{ and } x=1", False),
        ("3,-1", r"x=3 \text{ and } x=-1 \text{ and } x=4", False),
        ("2,3", "x = 2 and x = 3", True),
        ("2,3", "x = 3 and x = 2", True),
        ("2,3", "$x = 2$ and $x = 3$", True),
        ("2,3", "x = 2 and x = 4", False),
        ("2,3", "x = 1+2 = 2 and x = 3", False),
        ("2,3", "x = 2", False),
        ("2,3,4", "x=2, x=3, and x=4", True),
        ("2,3,4", r"x=2, x=3 \text{ and } x=4", True),
        ("2,3,4", "x=2, x=3, and x=5", False),
        (r"\{2,3\}", "x=2 and x=3", True),
        ("x=2, x=3", "x=2 and x=3", True),
        (r"x=2 \text{ or } x=3", "x=2 and x=3", True),
        (r"2 \text{ and } 3", "x=2 and x=3", True),
        (r"2 \text{ and } 3", "x=2 and x=4", False),
        (r"\frac12,3", r"x=\frac12 \text{ and } x=3", True),
        (r"\frac12,3", r"x=\frac13 \text{ and } x=3", False),
        ("2,3", r"x=2 \lor x=3", True),
        ("2,3", r"x=2 \mbox{ or } x=3", True),
        ("2,3", r"x=2 \textrm{ or } x=4", False),
    ],
)
def test_of_a_list_each_part_is_judged_by_itself(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


ROOTS = r"\frac{1+\sqrt{5}}{2}, \frac{1-\sqrt{5}}{2}"


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}", True),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1-\sqrt5}{2}, \frac{1+\sqrt5}{2}", True),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2} \text{ and } \frac{1-\sqrt5}{2}", True),
        (
            r"\frac{1 \pm \sqrt{5}}{2}",
            r"x=\frac{1+\sqrt5}{2} \text{ or } x=\frac{1-\sqrt5}{2}",
            True,
        ),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"x = \frac{1\pm\sqrt5}{2}", True),
        (r"\frac{1 \pm \sqrt{5}}{2}", "(1±√5)/2", True),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac12 \mp \frac{\sqrt5}{2}", True),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}", False),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1+\sqrt5}{2}", False),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt3}{2}, \frac{1-\sqrt3}{2}", False),
        (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1\pm\sqrt3}{2}", False),
        (ROOTS, r"\frac{1\pm\sqrt5}{2}", True),
        (ROOTS, r"x = \frac{1 ± \sqrt{5}}{2}", True),
        (ROOTS, r"\frac{2\pm\sqrt5}{2}", False),
        (r"\frac{1+\sqrt{5}}{2}", r"\frac{1\pm\sqrt5}{2}", False),
        ("3,-3", r"\pm 3", True),
        (r"\pm 3", "3, -3", True),
        (r"\pm 3", "3", False),
        (r"\pm 3", "3, 3", False),
        (r"1, \pm 2", "2, 1, -2", True),
        (r"1, \pm 2", "2, 1", False),
        (r"\pm 1 \pm \sqrt{2}", r"1 + \sqrt{2}, -1 - \sqrt{2}", False),
        (r"1 \pm \sqrt{19}", r"1 - \sqrt{19}", False),
    ],
)
def test_both_signs_are_two_values(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("x+1", "x+2 = x+1", False),
        ("x+1", "x+1 = x+2", False),
        ("x+1", "f(x) = x+2 = x+1", False),
        ("x+1", "f(x) = x+1", True),
        ("x+1", "y = x+1", True),
        ("x+1", "2(x+1)/2 = x+1", True),
        ("x+1", r"\frac{x^2-1}{x-1} = x+1", True),
        ("x+1", "x^2 = x+1", True),  # where x^2 is asked for
        ("x+1", "a+b = x+1", True),
        ("x^2+1", "x^2+2x = x^2+1", False),
        ("x^2-1", "(x+1)(x-1) = x^2-1", True),
        ("x^2-1", "(x+1)^2 = x^2-1", False),
        ("x+y=2", "x+y=2", True),
    ],
)
def test_an_equation_of_formulas_in_the_same_letters_must_be_true(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


@pytest.mark.parametrize(
    "text, found",
    [
        ("x=2, x=3 and 4", ["x=2", "x=3", "4"]),
        ("(1,2) or [3;4]", ["(1,2)", "[3;4]"]),
        ("1,080, 2", ["1,080", "2"]),
        ("the border", ["the border"]),
        ("", [""]),
    ],
)
def test_parts(text, found):
    assert parts.of(text) == found


def test_long_answers_are_borne():
    for text in ("x=1," * 100, "(" * 400, ",".join("2=" * 200), "x=" + "9" * 398):
        parts.contradict(text[: writing.MOST_CHARACTERS], numbered=True)
        parts.written_out(text[: writing.MOST_CHARACTERS])
