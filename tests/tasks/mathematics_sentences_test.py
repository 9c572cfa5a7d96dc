"""Answers in sentences, in rows of steps, in words between numbers, and as inequalities."""

import pytest

from gdsd_jax.tasks.mathematics import competition, gsm8k
from tests.tasks.mathematics_numbers_test import entries
from tests.tasks.mathematics_test import graded_one

RIGHT_460 = r"""
Mary's age is 460. | Eliza's total is $460 | The company's profit is $460 | Mary’s age is 460.
Mr. Smith has 460 dollars. | Mrs. Hilt has 460 dollars. | I have 460 apples. | Jo has 460 apples.
The TV costs $460. | She has 460 more than me. | 460 CDs | 460 DVDs | 460 T-shirts | 460 times
John paid $460 for the CD. | $460 (four hundred sixty dollars) | 460 times as many | #### 460
\text{Answer: }460 | 460\\ | They have 460 if combined | **Answer:** 460 | Answer: **460**
Eliza's earnings for the week are $460. | \textcolor{red}{460} | \boldsymbol{460} | 460^{th}
\text{Janet makes } \$460 \text{ per day} | 460^{\text{th}} | Total cost = $400 + $60 = $460
400+50 = 450; 450 + 10 = 460 | 400 + 50 = 450, 450 + 10 = 460 | \text{Total: } 460 \text{ clips}"""
WRONG_4 = r"""
4 \text{ boys, } 6 \text{ girls} | 4 \text{ out of 5} | 4 \text{ halves} | 4 \text{ thirds}
4 \text{ hours and } 30 \text{ minutes} | 4 \text{ hours } 30 \text{ minutes} | 4 \text{ tens}
4 \text{ dollars and } 50 \text{ cents} | 4\text{ km }200\text{ m} | 4 \text{ remainder 2}
4\text{K} | 4 \text{ squared} | 4\mod 5 | 4 \pmod{5} | 4 times eight | 4 times pi | 4 times x
The answer is not $4$ | The answer is not 4 | Total cost = $1 + $2 = $4 | 1+2 = 4; 2+2 = 4
4 \text{ cm} \times 5 \text{ cm} | \sqrt{16} \text{ cm and } 3 \text{ cm}
4 xy | xy 4 | The area is 4 times that | Mr. Smith's 4 squared | 2+2 = 4; 4+1 = 5
Neither Mary's nor Bob's is 4 | 4 feet 6 inches | Mary's age is 4 or so"""
FORMULAS = (  # gold, right answers, wrong answers
    (
        "x^2+1",
        ["The polynomial is $x^2+1$.", "Answer: $x^2+1$", "The sum is: $1+x^2$"],
        ["The polynomial is not $x^2+1$.", "The polynomial is $x^2-1$.", "half of $x^2+1$"],
    ),
    (
        r"\frac{1}{2}",
        [r"The value of $x$ is $\frac{1}{2}$.", r"\emph{\frac{1}{2}}"],
        [r"The value of $x$ is $\frac{1}{3}$.", r"The value of $x$ is not $\frac{1}{2}$."],
    ),
    ("(3,4)", ["The point is (3, 4).", r"\big(3,4\big)"], ["The point is (4, 3)."]),
    ("1,-2", ["The solutions are 1 and -2"], ["The solutions are 1 and 2"]),
    (r"\text{no solution}", ["No solution", "no solution."], ["one solution", "solution"]),
    (r"\emptyset", [r"\varnothing"], ["0"]),
    ("8", ["2**3", "2 ** 3", "**8**"], ["2**4"]),
    (
        r"x \in [-2,7]",
        [r"-2 \le x \le 7", "[-2,7]", r"-2 \leq t \leq 7"],
        [r"-2 < x \le 7", r"-2 \le x \le 8", r"7 \le x \le -2", r"x \le 7", "(-2,7)"],
    ),
    (r"(-\infty,2]", [r"x \leq 2", "x ≤ 2"], ["x < 2", r"x \ge 2", r"x \leq 3"]),
    (
        r"(-\infty,2)\cup(3,\infty)",
        [r"x<2 \text{ or } x>3", "x < 2 or x > 3"],
        [r"x<2 \text{ or } x \ge 3", "x < 2 or y > 3", "x < 2"],
    ),
    (r"x \le \frac{1}{2}", [r"(-\infty, \frac{1}{2}]"], [r"(-\infty, \frac{1}{2})"]),
)


@pytest.mark.parametrize("answer", entries(RIGHT_460))
def test_sentences_around_a_number(answer, shared):
    assert graded_one(gsm8k, "460", f"<answer>{answer}</answer>", shared).solved_N[0]
    assert not graded_one(gsm8k, "461", f"<answer>{answer}</answer>", shared).solved_N[0]


@pytest.mark.parametrize("answer", entries(WRONG_4))
def test_words_that_make_another_number(answer, shared):
    assert not graded_one(competition, "4", f"<answer>{answer}</answer>", shared).solved_N[0]


@pytest.mark.parametrize(("gold", "right", "wrong"), FORMULAS)
def test_sentences_and_inequalities(gold, right, wrong, shared):
    for answer in right:
        found = graded_one(competition, gold, f"<answer>{answer}</answer>", shared)
        assert found.solved_N[0], answer
    for answer in wrong:
        found = graded_one(competition, gold, f"<answer>{answer}</answer>", shared)
        assert not found.solved_N[0], answer


@pytest.mark.parametrize(
    "text", ["<Answer>460</Answer>", "<ANSWER> 460", "<answer>\\boxed{460\n</answer"]
)
def test_tags_in_other_letters_and_open_boxes(text, shared):
    assert graded_one(gsm8k, "460", text, shared).solved_N[0]
