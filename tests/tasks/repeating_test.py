"""What counts as a text that repeats itself, and what does not."""

import json

import pytest

from gdsd_jax.tasks import RewardConfig, instructions, repeating
from gdsd_jax.tasks.instructions import grading, problems
from tests.tasks.instructions_test import PROSE


@pytest.mark.parametrize(
    "text, repeats",
    [
        ("", False),
        ("yes " * 5, False),  # too short to say
        ("yes " * 19, True),
        ("Well, " + "yes " * 15, True),
        ("yes, no, yes, no, yes, no, yes, no, yes, no, yes, no, yes, no, yes, no", True),
        ("It is so. It is so. It is so. It is so. It is so. It is so. It is so. It is so.", True),
        ("haha" * 5, True),
        ("ha ha ha ha ha", False),
        ("." * 40, True),
        ("Row, row, row your boat, gently down the stream", False),
        ("No.", False),
        ("Tea is good. " * 6, True),
        ("Tea is good! tea is good. TEA IS GOOD? " * 2, True),
        ("Well then. " + "Tea is good. " * 6, True),
        ("Tea is good. " * 5, False),
        ("Tea is good today. " * 6, True),
        ("".join(f"{number}. Tea is good.\n" for number in range(1, 7)), True),
        ("- I like tea\n" * 6, True),
        ("No. " * 6, True),
        ("No. " * 5, False),
        ("".join(f"{number}. {'Yes' if number % 4 else 'No'}.\n" for number in range(9)), False),
        (
            "Tea is good. Milk is good. Rice is good. Bread is good. Fish is good. Egg is good.",
            False,
        ),
        ("".join(f"- tea number {number}\n" for number in range(8)), False),
        ("| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 8, False),
        ("}\n" * 8 + "That is it, and nothing else.", False),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19", False),
        ("river river river river", False),
        ("yes " * 50, True),
        ("a" * 200, True),
        (" \n" * 200, True),
        ("The tea is warm and sweet. " * 3, False),
        ("The tea is warm and sweet. " * 8, True),
        (PROSE, False),
        (PROSE * 2, False),  # two responses, say
        (PROSE + "and so on " * 60, True),  # begins well, then goes round
        ("no no no no " * 60 + PROSE, True),
        ("\n".join(f"* item {number}" for number in range(30)), False),
        (", ".join(map(str, range(200))), False),
        ("الشاي دافئ " * 20, True),
        ("\ud800" * 100, True),
    ],
)
def test_what_counts_as_repeating(text, repeats):
    assert repeating.is_repeating(text) is repeats


def test_english_and_code_do_not_repeat():
    for text in (instructions.__doc__, grading.grade.__doc__ * 2, problems.generate.__doc__):
        assert not repeating.is_repeating(text)


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```\n"])
def test_rows_of_json_do_not_repeat_for_their_names(fence):
    cities = "Rome Oslo Lima Cairo Paris Quito Delhi Tokyo Accra Dakar Minsk Sofia".split()
    rows = [
        {"name": name, "country": f"Country of {name}", "landmark": f"{name} Tower"}
        for name in cities
    ]
    record = {"constraints": [{"id": "detectable_format:json_format"}]}
    text = fence.format(json.dumps(rows, indent=4))
    assert grading.grade([record], [text], RewardConfig()).solved_N[0]
    same = fence.format(json.dumps([rows[0]] * 12, indent=4))
    assert not grading.grade([record], [same], RewardConfig()).solved_N[0]
