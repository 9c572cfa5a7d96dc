"""Numbers as answers: every writing of the same one is right, and what looks like it is wrong."""

from fractions import Fraction

import pytest

from gdsd_jax.tasks.mathematics import gsm8k, values, verdicts
from tests.tasks.mathematics_test import equal, graded_one

RIGHT = r"""
288 | 288.0 | 288. | 288.00 | +288 | \text{288} | \textbf{288} | $288 | \$288 | 288$ | $288$
\(288\) | **288** | 288 apples | 288\text{ apples} | 288 \text{ cm}^2 | 288 cm^2 | 288 km/h
288% | 288\% | 288 percent | 288 dollars per day | Janet makes $288 per day. | x = 288
2 \times 144 = 288 | \frac{576}{2} | 576/2 | 287 \frac{2}{2} | 288^\circ | 288° | $288.00
\boxed{288} | (288) | 144 + 144 | 2 \cdot 12^2 | 2.88e2 | 0288 | \dfrac{288}{1}
Total cost: $288 | \left(288\right) | $\text{$288$}$ | 288 more apples than Bob | 288apples
288 changes/day | 288 g | 288 m**2 | 288 km / h | 288。
\underline{288} | <b>288</b> | 288 ✓ | #288 | No. 288 | 288 p.m. | US$288 | Rs 288 | 288 Pa
288 L | 288 h | 288 J | 288m | 288 s | 288 m^2 | 288 m/s | 288 m/s^2
288\text{ m} | 288 degrees C | 288 hours (total) | 288 (units) | *288* | _288_ | "288" | '288'
“288” | ‘288’ | «288» | `288` | ```288``` | ¥288 | ₹288 | €288 | £288 | 288 € | ２８８ | 28８
288 = x | x = 288 | 288 o'clock | 288 o’clock | two hundred eighty-eight
Two hundred and eighty eight apples
288 (two hundred eighty-eight) | two hundred eighty-eight (288) | 12**2*2 | 144 + 12**2 | 288 kg/m^3
C$288 | A$ 288 | x is 288 | the value of n is 288 | x equals 288 | ✅ 288 | 288 👍 | 24 dozen
287+1=288 apples | It turned out to be 288 | the greatest common factor is 288 | 2⁵×9
288 W/m² | 288 Ω | 288 μm | ２８８． | （288） | 288 \approx 288.0 | 288 = n_1 | 288 = f(x)"""
WRONG = r"""
289 | 28 | 2880 | 28.8 | 288.5 | 288.0001 | 287.9999999999 | -288 | $-288$ | 288x | 288xy
x288 | 288 pi | 288\pi | 288! | 288 or 289 | 288, 289 | 288 and 289 | not 288 | no 288
at least 288 | 288 million | 2.88 | 288/2 | \frac{288}{7} | 288-1 | 288 \pm 1 | 288 + x
\sqrt{288} | 288^2 | 288/x | 288\text{ or }289 | 288 half | 288 : 1 | x \leq 288 | 288 < x
288i | {288 | 2 88 | 2,88 | 288,0 | two hundred | apples | | \text{} | 288 288 | 288e
288e1 | 1/0 | \frac{288}{0} | 2 hundred | 288 \text{ or more} | 288_3 | 28,8 | \{288, 289\}
288 = 289
-5 is not 288 | under 288 | 288 thirds | 288K | 288 k | 288 M | 288 x | 288n | 288 (or more)
288 (five) | five (288) | 288 (six hundred)
288 (incorrect) | 288 is not the answer | neither 288 | 288 thousandths | 289 = 288
~288 | \approx 288 | x \approx 288 | \sim 288 | ≈288 | $~288$
about 288 | roughly 288 | 288 approximately | two hundred or 288 | two eighty-eight | 288 thousand
(288, 288) | 288 = 289 = x | 288 eighths | 288 sixths | 288 twentieths | 288 dozen | 288 score
288 gross | 288 crore | 288 lakh | 288 trillion | 288 quadrillion | 288 hundreds | 288 tens
twice 288 | double 288 | thrice 288 | one in 288 | 288 radians | wrong: 288 | incorrect: 288
all but 288 | 288 excluded | 288 is excluded | 288 was rejected | ruled out: 288 | multiple of 288
divisible by 288 | reciprocal of 288 | 288 is wrong | 288 is impossible | 288 doubled | up to 288
288 point five | 288 and a third | 288 per mille | 288 hundred thousand | anything but 288
3+5=288 | 288=3+5 | x = 3+5 = 288 | 280+9=288 apples | x is not 288 | 2x is 288 | 288 ✗ | ❌ 288
288⁴ | C288 | x = 288 excluded"""


def entries(table):
    return [entry.strip() for line in table.strip().split("\n") for entry in line.split(" | ")]


@pytest.mark.parametrize("answer", entries(RIGHT))
def test_right_ways_to_write_288(answer, shared):
    assert equal("288", answer, shared) is True
    assert graded_one(gsm8k, "288", f"\\boxed{{{answer}}}", shared).solved_N[0]


@pytest.mark.parametrize("answer", entries(WRONG))
def test_what_is_not_288(answer, shared):
    assert equal("288", answer, shared) is False
    assert not graded_one(gsm8k, "288", f"<answer>{answer}</answer>", shared).solved_N[0]


@pytest.mark.parametrize(
    "text, value",
    [
        ("1,080", 1080),
        ("1{,}080", 1080),
        ("1\\,080", 1080),
        ("1\u202f080", 1080),
        ("$1,234,567.50", Fraction(2469135, 2)),
        ("1,08", None),
        ("1,0800", None),
        ("(1,080)", None),
        ("-5", -5),
        ("−5", -5),
        ("- 5", -5),
        ("-$5", -5),
        ("$-5", -5),
        ("--5", None),
        ("5 - 3", None),
        (".5", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        ("1/3", Fraction(1, 3)),
        ("-\\frac{1}{3}", Fraction(-1, 3)),
        ("\\frac{-1}{3}", Fraction(-1, 3)),
        ("\\frac12", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("2 million dollars", 2_000_000),
        ("18th", 18),
        ("5:00", None),
        ("9" * 400, int("9" * 400)),
        ("9" * 401, None),
    ],
)
def test_values_are_exact(text, value):
    found = values.number_of(text)
    assert (None if found is None else found.value) == value


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("0.1", "\\frac{1}{10}", True),
        ("0.3", "0.30000000000000004", False),
        ("10000000000000001", "10000000000000000", False),  # equal as floats
        ("1/3", "0.333333", False),
        ("50\\%", "0.5", True),
        ("50\\%", "50", True),
        ("50", "50\\%", True),
        ("50", "0.5", False),
        ("0.5", "50%", True),
        ("50%", "0.5%", False),
        ("1080", "1 080", True),
        ("1080", "1\\ 080", True),
        ("1080000", "1 080 000", True),
        ("1", "1 080", False),
        ("1080", "1'080", True),
        ("103/3", "1 100/3", True),  # a mixed number
        ("1/3", "0.\\overline{3}", True),
        ("0.\\overline{3}", "\\frac{1}{3}", True),
        ("1/6", "0.1\\bar{6}", True),
        ("37/30", "1.2\\overline{3}", True),
        ("1/3", "0.\\overline{2}", False),
        ("64", "4**3", True),
        ("3", "3m", True),
        ("3m", "3", None),  # a variable of the question
        ("3m", "3M", False),
        ("\\frac{22}{7}", "\\frac{22}{7} \\approx 3.14", True),
        ("3.14", "\\frac{22}{7} \\approx 3.14", False),
        ("\\approx 7", "\\approx 7", True),
        ("5", "five", True),
        ("105", "one hundred five", True),
        ("5", "six", False),
        ("-5", "negative 5", True),
        ("-5", "minus five", True),
        ("-5", "negative five degrees", True),
        ("5", "negative 5", False),
        ("5", "minus five", False),
        ("1.5", "one and a half", True),
        ("1.5", "one and a third", False),
        ("1/2", "½", True),
        ("1/3", "⅓", True),
        ("1/3", "½", False),
        ("3/2", "1½", True),
        ("3/2", "1⅓", False),
        ("1/2", "half", True),
        ("1/2", "a half", True),
        ("1/2", "half of seven", False),
        ("1/2", "half a dozen", False),
        ("1/3", "one third", True),
        ("1/3", "third", False),
        ("2/3", "two-thirds", True),
        ("2/3", "two third graders", False),
        ("7/8", "seven eighths", True),
        ("7/8", "7 eighths", True),
        ("7", "seven eighths", False),
        ("7", "seven over eight", False),
        ("5/2", "2 and a half", True),
        ("84", "7 dozen", True),
        ("7", "seven dozen", False),
        ("700000", "7 hundred thousand", True),
        ("1/3", "0.(3)", True),
        ("1/3", "0.333...", True),
        ("1/6", "0.1(6)", True),
        ("1/3", "0.(2)", False),
        ("1/3", "0.33...", False),
        ("15/2", "2.5(3)", True),  # a product
        ("10_2", "10_{\\text{two}}", True),
        ("10_2", "10₂", True),
        ("10_2", "10 (base two)", True),
        ("10_2", "10_{\\text{three}}", False),
        ("10", "10_{\\text{two}}", False),
        ("10_2", "(10)_2", True),
        ("10_2", "(10)_{\\text{two}}", True),
        ("10_2", "\\left(10\\right)_{2}", True),
        ("(10)_2", "10_2", True),
        ("10_2", "(10)₂", True),
        ("10_2", "(10)_3", False),
        ("10_2", "5(10)_2", False),
        ("10", "(10)_2", False),
        ("10_2", "10_{\\text{base }2}", True),
        ("10_2", "10 \\text{ base } 2", True),
        ("10_2", "10 \\text{ (base two)}", True),
        ("10_2", "10 \\text{ base } 3", False),
        ("10", "10 \\text{ baseballs}", True),
        ("125", "125 dollars ($125)", True),
        ("125", "$125 (125 dollars)", True),
        ("125", "125 ($125)", True),
        ("125", "125 dollars ($126)", None),
        ("125", "125 (125)", False),  # a product
        ("15625", "125 (125)", True),
        ("125", "125 dollars ($1.25)", None),
        ("1", "one (1) egg", True),
        ("1", "1 (one) egg", True),
        ("1", "one (2) egg", False),
        ("1", "two (1) egg", False),
        ("25", "She has twenty-five (25) eggs.", True),
        ("1080", "1,080 (one thousand eighty) eggs", True),
        ("12", "twelve (12) dozen eggs", False),
        ("24", "twelve (12) (12) eggs", False),
    ],
)
def test_numbers_are_compared_exactly(gold, answer, right):
    assert verdicts.decide(gold, answer) is right
