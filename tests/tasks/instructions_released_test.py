"""The checks of the paper's code: what they say, and that the released rule uses them."""

import pytest

from gdsd_jax.tasks import RewardConfig
from gdsd_jax.tasks.instructions import constraints, grading, released

FIRST = "length_constraints:nth_paragraph_first_word"
BULLETS = "detectable_format:number_bullet_lists"
LIGHTS = "detectable_format:number_highlighted_sections"


def constraint(name, **given):
    return constraints.checked(name, given)


def solved(text, variant, *asked):
    found = grading.grade([{"constraints": list(asked)}], [text], RewardConfig(variant))
    return bool(found.solved_N[0])


THEIRS = [  # (name, arguments, texts on which the paper's code says yes, texts on which it says no)
    (
        FIRST,
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "it"},
        ["a\n\nIt's b", 'a\n\n"It, b', "a\n\n'it"],
        ["a\n\n(it)", "a\n\n\n\nit", "a\n\nit-b", "a\n\nit\u2019s", "it", "a\n\n.it"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[] []", "[ ][a]", "[[a] [b]"],
        ["[a]", "[a\n] [b]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["P.S.", "stop.s. x", "P.P.S. more"],
        ["PS call", "P.P.S"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["p. p.s"], ["P.S. a"]),
    (
        BULLETS,
        {"num_bullets": 2},
        ["---\n---", "* a\n---", "-\n\n  -5", "*a\n*b", "*\n* a\n- b"],
        ["* a", "**a**\n**b**", "*\n*", "- a\n- b\n---"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["So. My answer is yes. Really."],
        ["my answer is yes.", "My answer is yes"],
    ),
    (
        LIGHTS,
        {"num_highlights": 2},
        ["***a***", "* **a**", "*a*b*c*", "**a** **b**", "* a * b * c *"],
        ["**a**", "*a*", "* a\n* b", "*a\nb* *c*", "** ** * *"],
    ),
    (
        "detectable_format:json_format",
        {},
        ["5", '"a"', "null", '```json {"a": 1}```', "```5", "```JSON\n[]\n```"],
        ["", "a", "{'a': 1}", "[" * 100_000, "```json```"],
    ),
    ("startend:quotation", {}, ['""', '" "', ' "a"\n'], ['"', "a", '"a']),
]


@pytest.mark.parametrize("name, given, good, bad", THEIRS, ids=[case[0] for case in THEIRS])
def test_released_checks_say_what_the_paper_s_code_says(name, given, good, bad):
    one = constraint(name, **given)
    assert [text for text in good if not released.satisfied(text, one)] == []
    assert [text for text in bad if released.satisfied(text, one)] == []


def test_the_released_rule_uses_the_released_checks():
    for name, given, good, _ in THEIRS:
        assert all(solved(text, "released", constraint(name, **given)) for text in good), name
    one = constraint("detectable_format:json_format")
    assert solved("5", "released", one) and not solved("5", "mended", one)
    assert {case[0] for case in THEIRS} == set(released.CHECKS)
