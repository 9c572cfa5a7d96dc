"""Answers to Countdown, by our rule and by the released one."""

import json
import re
import warnings

import numpy as np
import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings, countdown
from gdsd_jax.tasks.countdown import grading
from tests.tasks import texts

RECORD = {"numbers": [3, 4, 8, 8], "target": 24, "solution": ""}


def grades_of(text, variant="mended", record=RECORD, **weights):
    """(correct, reward)"""
    found = grading.grade([record], [text], RewardConfig(variant, weights))
    return bool(found.solved_N[0]), round(float(found.reward_N[0]), 6)


WAYS = (  # of writing what is right
    "24 = 8/(3-8/3)",
    "8/(3-8/3) = 24",
    "8/(3-8/3) = 8/(1/3) = 24",
    "`8/(3-8/3)`",
    "```\n8/(3-8/3)\n```",
    "**8/(3-8/3)**",
    "**8/(3-8/3)** = 24",
    "**8/(3-8/3) = 24**",
    "$8/(3-8/3)$",
    "$$8/(3-8/3)=24$$",
    "\\(8/(3-8/3)\\)",
    "\\[ 8/(3-8/3) = 24 \\]",
    "\\text{8/(3-8/3)}",
    "\\frac{8}{3-\\frac{8}{3}}",
    "\\dfrac{8}{\\left(3-\\frac{8}{3}\\right)} = 24",
    "8/(3-8/3).",
    "8/(3-8/3) = 24.",
    "8/[3-8/3]",
    "8/{3-8/3}",
    "[8/(3-(8/3))]",
    "Answer: 8/(3-8/3)",
    "Solution: 8/(3-8/3) = 24",
    "**Answer:** 8/(3-8/3)",
    "The final answer is 8/(3-8/3).",
    "8÷(3−8÷3)",
    "8 / ( 3 - 8 / 3 ) = 24 exactly!",
    "8/(3-8/3)=((8))*3",
    "*8/(3-8/3)*",
    "_8/(3-8/3)_",
    "'8/(3-8/3)'",
    "\\text{8/(3-8/3) = 24}",
    "```python\n8/(3-8/3)\n```",
    "8/(3-8/3) = 24.0",
    "My answer: 8/(3-8/3)",
    "Therefore, 8/(3-8/3) = 24 (correct)",
    "8 / (3 - 8/3) = 8 x 3",
    "8/(3-8/3);",
    "8/(3-8/3) = 24;",
    "So 8/(3-8/3)",
    "So, 8/(3-8/3) = 24.",
    "So.. 8/(3-8/3)",
    "Therefore, 8/(3-8/3)",
    "And so we get: 8/(3-8/3) = 24",
    "Therefore, the final answer is 8/(3-8/3);",
    "Thus it is 8/(3-8/3)",
    "8/(3-8/3) = 24, which is the target.",
    "8/(3-8/3) = 24 (using each number exactly once)",
    "x = 8/(3-8/3)",
    "Target = 8/(3-8/3)",
    "8/(3-8/3) => 24",
    "8/(3-8/3) → 24",
    "8/(3-8/3) \\rightarrow 24",
    "8/(3-8/3) equals 24",
    "8/(3-8/3)\nThis equals 24.",
    "8/(3-8/3), which is equal to 24",
    "8/(3-8/3) = 24!",
    "One possible solution is 8/(3-8/3)",
    "The arithmetic expression is 8/(3-8/3)",
    "```text\n8/(3-8/3)\n```",
    "8/(3-8/3) = 24 \\checkmark",
    "<expression>8/(3-8/3)</expression>",
    "8/(3-8/3) \\\\ = 24",
    "8/(3-8/3) (= 24)",
    "8/(3-8/3) [=24].",
    "8/(3-8/3) (equals 24)",
    "8/(3-8/3) \\text{ (= 24)}",
    "8/(3-8/3) = 24 (target)",
    "8/(3-8/3) = 24 (Target)",
    "8/(3-8/3) = 24 (target number)",
    "8/(3-8/3) = 24, which matches the target",
    "8/(3-8/3) = 24 (target reached)",
    "8/(3-8/3) = 24 \\text{ (target)}",
    "8/(3-\\frac83)",
    "\\frac8{3-\\frac83}",
    "8/(3-\\frac 8{3}) = 24",
)
NO_WAYS = (
    "8/(3-8/3) = 25",
    "8*3 = 24",
    "25 = 8/(3-8/3)",
    "8/(3-8/3) = 8/(1/2) = 24",
    "8*3+(8-8)*3 = 24",
    "24",
    "24 = 24",
    "8/(3-8/3) = 24 or 25",
    "8/(3-8/3) != 24",
    "8/(3-8/3) \\neq 24",
    "8/(3-8/3) ≈ 24",
    "8**(3-8/3)",
    "8/(3-8/3), 8*3",
    "=",
    "= 24",
    "x = 24",
    "8/(3-8/3) plus seven",
    "8/(3-8/3) times two",
    "8/(3-8/3) squared",
    "8/(3-8/3) is wrong",
    "8/(3-8/3) = 24 is false",
    "8/(3-8/3); 8*3",
    "So not 8/(3-8/3)",
    "Therefore, 8*3 = 24;",
    "So 24",
    "-8/(3-8/3)",
    "So -8/(3-8/3) = 24",
    "8/(3-8/3);1",
    "8/(3-8/3) equals 25",
    "8/(3-8/3) is not equal to 24",
    "8/(3-8/3) → 25",
    "8/(3-8/3) = 24, which is not the target",
    "8/(3-8/3) = 24 (using each number twice)",
    "x = 8*3",
    "4! = 24",
    "8/(3-8/3) (= 25)",
    "8/(3-8/3) (24)",
    "8/(3-8/3) = 25 (target)",
    "8/(3-8/3) = 24 (target 25)",
    "8/(3-8/3) = 24 (not target)",
    "8/(3-8/3) = 24 (target not reached)",
    "8/(3-8/3) = 24 (misses the target)",
    "8*3 = 24 (target)",
    "8/(3-\\frac38)",
    "8/(3-\\frac833)",
    "8/(3-\\frac8)",
)
EIGHTS = {"numbers": [3, 3, 8, 8], "target": 24}


@pytest.mark.parametrize(
    "text, graded_as",
    [
        ("<answer>8/(3-8/3)</answer>", (True, 1)),
        ("<answer> \n 8 / ( 3 - 8 / 3 ) = 24\n</answer>", (True, 1)),
        (r"<answer>\boxed{8 \div (3 - 8 \div 3)}</answer>", (True, 1)),
        (r"so \(\boxed{8 ÷ \left(3 − 8/3\right)}\)", (True, 1)),
        ("<answer>1</answer> no, <answer>$8/(3-8/3)$</answer>", (True, 1)),
        ("<answer>8/(3-8/3)</answer> or <answer>1</answer>", (False, 0.1)),
        (r"<answer>1</answer> \boxed{8/(3-8/3)}", (False, 0.1)),
        ("<answer>3*8</answer>", (False, 0.1)),
        ("<answer>3*8*(8-7)*3/3</answer>", (False, 0.1)),
        ("<answer>8*3+(8-8)*3</answer>", (False, 0.1)),
        ("<answer>33-8-8/8</answer>", (False, 0.1)),
        ("<answer>(8+8+8)**1</answer>", (False, 0.1)),
        ("<answer>8*3*3//8+15</answer>", (False, 0.1)),
        ("<answer>I do not know</answer>", (False, 0.1)),
        ("<answer>" + "(" * 500 + "8/(3-8/3)" + ")" * 500 + "</answer>", (False, 0.1)),
        *((f"<answer>{way}</answer>", (True, 1)) for way in WAYS),
        *((f"\\boxed{{{way}}}", (True, 1)) for way in WAYS if way.count("{") == way.count("}")),
        *((f"<answer>{way}</answer>", (False, 0.1)) for way in NO_WAYS),
        ("<answer>8/(3-8/3)</answer><|eot_id|><answer>1</answer>", (True, 1)),
        ("\\boxed{8/(3-8/3)}</s>\\boxed{1}", (True, 1)),
        ("<answer>8/(3-8/3) = \\boxed{24}</answer>", (True, 1)),
        ("<answer>8/(3-8/3)<|eot_id|></answer>", (True, 1)),
        ("<Answer>8/(3-8/3)</Answer>", (True, 1)),
        ("<answer> </answer>", (False, 0)),
        ("<answer>8/(3-8/3)", (True, 1)),
        ("8/(3-8/3)", (False, 0)),
        (r"\boxed{8/(3-8/3)", (False, 0)),
        ("", (False, 0)),
    ],
)
def test_mended_grades(text, graded_as):
    assert grades_of(text, record=EIGHTS) == graded_as


def test_fractions_are_exact_in_the_mended_rule_alone():
    record = {"numbers": [1, 100_000, 7, 300_000], "target": 7}
    text = "<answer>7+1/(100000*300000)</answer>"
    assert grades_of(text, record=record) == (False, 0.1)
    assert grades_of(text, "released", record) == (True, 1)


@pytest.mark.parametrize(
    "text, evaluated",
    [
        (r"\boxed{1+2} and \boxed{3 \times 4} <answer>5</answer>", "3 * 4"),
        (r"\boxed 1 \cdot 2$ 3", "1 * 2"),
        (r"\boxed{1 \div {2}}", "1 / {2}"),
        (r"\fbox{1} <answer> 2+3 </answer><answer>4</answer>", "2+3"),
        (r"\boxed{1 <answer> 2 </answer>", "2"),
        ("<answer>x=1+2 = 3.0 = 3</answer>", "1+2"),
        ("<answer>x = 1+2</answer>", ""),  # the space before the sign is a side
        ("<answer>2=x</answer>", "2=x"),
        ("a 1+2 = 3, 4+5 = 9", "1+2"),
        ("1+2", "1+2"),
    ],
)
def test_what_the_released_evaluation_takes(text, evaluated):
    assert grading.evaluated_answer(text) == evaluated


def test_equations_are_found_as_by_a_plain_search():
    """`signs = number`, by a search that takes too long on some texts."""
    for text in texts.thrown_together(4000, seed=1):
        plain = text.replace("\\", "")  # neither boxes nor LaTeX's signs
        hit = re.search(r"(?P<left>[-0-9+*/() ]+)=[0-9. ]+", plain)
        if "<answer>" not in plain:
            assert grading.evaluated_answer(plain) == (hit["left"].strip() if hit else plain)


@pytest.mark.parametrize(
    "text, graded_as",
    [
        ("<answer>4*(8-8+3)</answer>", (False, 0.1)),
        ("<answer>3*8*(8/4-1)</answer>", (False, 0.1)),
        ("<answer></answer>", (False, 0.1)),
        ("<answer>48-8*3</answer>", (False, 0.1)),  # 4 and 8 may not become 48
        (r"\boxed{3*8*8/8}", (False, 0)),
        ("nothing", (False, 0)),
    ],
)
def test_released_grades_of_wrong_answers(text, graded_as):
    assert grades_of(text, "released") == graded_as


def test_released_rules_take_what_python_takes():
    whole = {"numbers": [2, 7], "target": 3}
    assert grades_of("<answer>7//2</answer>", "released", whole) == (True, 1)
    assert grades_of("<answer>7//2</answer>", "mended", whole) == (False, 0.1)
    power = {"numbers": [2, 3], "target": 8}
    assert grades_of("<answer>2**3</answer>", "released", power) == (True, 1)
    assert grades_of("<answer>2**3</answer>", "mended", power) == (False, 0.1)
    decimal = {"numbers": [3, 5, 2], "target": 7}
    assert grades_of("<answer>3.5*2</answer>", "released", decimal) == (True, 1)
    assert grades_of("<answer>3.5*2</answer>", "mended", decimal) == (False, 0.1)
    # the evaluation looks into the box, the reward at all of the tags
    boxed = grading.grade([power], [r"<answer>\boxed{2**3}</answer>"], RewardConfig("released"))
    assert boxed.solved_N[0] and boxed.parts["tagged"][0] == 0
    assert round(float(boxed.reward_N[0]), 6) == 0.1


def test_parts_and_weights():
    found = grading.grade([EIGHTS], ["<answer>8/(3-8/3)</answer>"], RewardConfig())
    assert {name: part.tolist() for name, part in found.parts.items()} == {
        "correct": [1.0],
        "format": [1.0],
    }
    assert found.reward_N[0] == 1 and found.reward_N.dtype == np.float32
    assert grades_of("<answer>1</answer>", record=EIGHTS, format=0.5) == (False, 0.5)
    with pytest.raises(ValueError, match="speed=1: there is no such part"):
        grades_of("", speed=1.0)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_no_answers(variant):
    found = grading.grade([], [], RewardConfig(variant))
    assert found.reward_N.shape == found.solved_N.shape == found.parts["format"].shape == (0,)


def bear(count, seed):
    for variant in ("mended", "released"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = grading.grade(
                [RECORD] * count, list(texts.thrown_together(count, seed)), RewardConfig(variant)
            )
        assert np.isfinite(found.reward_N).all()
        assert set(np.round(found.reward_N, 6).tolist()) <= {0.0, np.float32(0.1).item(), 0.1, 1.0}


def test_any_text_is_borne():
    bear(2000, seed=0)


@pytest.mark.parametrize(
    "count",
    [pytest.param(10_000, marks=pytest.mark.slow), pytest.param(100_000, marks=pytest.mark.long)],
)
def test_very_many_texts_are_borne(count):
    bear(count, seed=2)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_long_texts_take_no_more_than_a_second(variant):
    for text in texts.long_ones():
        seconds = texts.seconds_of(lambda text=text: grades_of(text, variant))
        assert seconds < 1, (text[:20], text[-20:], seconds)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_ten_thousand_completions_of_256_tokens_take_less_than_ten_seconds(variant):
    answers = texts.reasoned(10_000)
    reward = RewardConfig(variant)
    assert texts.seconds_of(lambda: grading.grade([RECORD] * 10_000, answers, reward)) < 10


# ---------------------------------------------------------------- public completions


def test_published_figure_of_the_released_rule(published):
    file = published / "countdown_instruct_256_128_0_generations.json"
    rows = json.loads(file.read_text())["generations"]
    records = [countdown.read(row) for row in rows]
    answers = [row["generations"] for row in rows]
    found = grading.grade(records, answers, RewardConfig("released"))
    assert (found.solved_N.sum(), len(found.solved_N)) == (7, 37)


def test_public_problems_are_read_and_solved(published):
    task = countdown.make(TaskSettings(data_file=str(published / "countdown_cd3_test.jsonl")))
    records = [*task.train, *task.heldout]
    assert len(records) == 256
    found = grading.grade(
        records, [task.answer(record, None) for record in records], RewardConfig()
    )
    assert found.solved_N.all()
