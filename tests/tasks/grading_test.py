"""Grading of programs: what counts as one, and which tests it passes; in a fake sandbox."""

import numpy as np
import pytest

from gdsd_jax.sandbox import Program, Verdict
from gdsd_jax.tasks.coding import grading

GOOD = "```python\ndef f(x):\n    return x + 1\n```"
HALF = "Words.\n```python\ndef f(x):\n    return 2\n```\nMore words."
BROKEN = "```python\ndef f(x) return\n```"


class FakeSandbox:
    """Runs programs in this process, and remembers what it was asked."""

    def __init__(self):
        self.seen = []

    def run(self, programs):
        self.seen += programs
        return [self._verdict(program) for program in programs]

    def _verdict(self, program: Program):
        names, passed = {}, []
        exec(program.source, names)
        for test in program.tests:
            try:
                exec(test, dict(names))
                passed.append(True)
            except AssertionError:
                passed.append(False)
        return Verdict(tuple(passed), "ok")


def grade(texts, tests, sandbox):
    return grading.grade([{"tests": row} for row in tests], texts, sandbox)


def test_the_last_closed_block_counts():
    program = "def f(x):\n    return x + 1\n"
    assert grading.extract_code(f"{HALF}\n{GOOD}") == program
    assert grading.extract_code(f"{GOOD}\n```python\nunclosed") == program
    assert grading.extract_code("```\nx = 1\n```") is None
    assert grading.extract_code("x = 1") is None


@pytest.mark.parametrize(
    "text, reward",
    [
        ("no block", 0.0),
        (BROKEN, 0.5),
        (GOOD, 1.0),
        ("```python\nx = '\0'\n```", 0.5),
        ("```python\n" + "(" * 5000 + ")" * 5000 + "\n```", 0.5),
        ("```python\n" + "-" * 100_000 + "1\n```", 0.5),
        ("```python\nx = '\\d'\n```", 1.0),
        ("```python\n```", 1.0),
    ],
)
def test_format_reward(text, reward):
    assert grading.format_reward(text) == reward


def test_grades_format_and_share_of_tests_apart():
    tests = ["assert f(1) == 2", "assert f(5) == 6"]
    sandbox = FakeSandbox()
    found = grade([GOOD, HALF, BROKEN, "none", GOOD], [tests] * 5, sandbox)
    assert [(k, v.dtype) for k, v in found.parts.items()] == [
        ("format", np.float32),
        ("tests", np.float32),
    ]
    np.testing.assert_array_equal(found.parts["format"], [1, 1, 0.5, 0, 1])
    np.testing.assert_array_equal(found.parts["tests"], [1, 0.5, 0, 0, 1])
    np.testing.assert_array_equal(found.reward_N, [2, 1.5, 0.5, 0, 2])
    np.testing.assert_array_equal(found.solved_N, [True, False, False, False, True])
    assert (found.reward_N.dtype, found.solved_N.dtype) == (np.float32, bool)
    assert len(sandbox.seen) == 2  # equal programs once, broken ones never


def test_equal_sources_with_other_tests_are_other_programs():
    sandbox = FakeSandbox()
    found = grade([GOOD, GOOD], [["assert f(0) == 1"], ["assert f(0) == 2"]], sandbox)
    np.testing.assert_array_equal(found.parts["tests"], [1, 0])


@pytest.mark.parametrize(
    "tests, message",
    [
        ([["assert f(1)"], []], "row 1"),
        ([["assert f(1)"], "assert f(1)"], "row 1"),
        ([["assert f(1)"]], "2 completions but 1"),
    ],
)
def test_rows_without_tests_are_refused(tests, message):
    with pytest.raises(ValueError, match=message):
        grade([GOOD, GOOD], tests, FakeSandbox())


def test_no_completions_need_no_sandbox():
    found = grade([], [], sandbox=None)
    assert found.reward_N.shape == found.solved_N.shape == found.parts["tests"].shape == (0,)
