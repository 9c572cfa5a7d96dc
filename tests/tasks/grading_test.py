"""Grading of programs: what counts as one, and which tests it passes; in a fake sandbox."""

import numpy as np
import pytest

from gdsd_jax.sandbox import Program, Verdict
from gdsd_jax.tasks import RewardConfig
from gdsd_jax.tasks.coding import grading

GOOD = "```python\ndef f(x):\n    return x + 1\n```"
HALF = "Words.\n```python\ndef f(x):\n    return 2\n```\nMore words."
DOCUMENTED = (
    'def f(x):\n    """More.\n\n    ```python\n    f(2)\n    ```\n    """\n    return x + 1\n'
)
BROKEN = "```python\ndef f(x) return\n```"


class FakeSandbox:
    """Runs programs in this process, and remembers what it was asked."""

    def __init__(self):
        self.seen = []

    def run(self, programs, step=lambda: None):
        self.seen += programs
        return [self._verdict(program) for program in programs]

    def _verdict(self, program: Program):
        passed = []
        for test in program.tests:
            try:
                exec(f"{program.source}\n{test}", {})
                passed.append(True)
            except (AssertionError, NameError, IndentationError):
                passed.append(False)
        return Verdict(tuple(passed), "ok")


def grade(texts, tests, sandbox, **reward):
    records = [{"tests": row} for row in tests]
    return grading.grade(records, texts, sandbox, RewardConfig(**reward))


def test_the_last_closed_block_counts():
    program = "def f(x):\n    return x + 1\n"
    assert grading.extract_code(f"{HALF}\n{GOOD}") == program
    assert grading.extract_code(f"{GOOD}\n```python\nunclosed") == program
    assert grading.extract_code("```\nx = 1\n```") is None
    assert grading.extract_code("x = 1") is None
    assert grading.extract_code(f"```python\n{DOCUMENTED}```\n") == DOCUMENTED


def test_examples_behind_a_program_do_not_take_its_place():
    """The last block that defines what the tests call runs, else the last one."""
    example = "It is used so:\n```python\nprint(f(2))\n```"
    other = "```python\ndef g(x):\n    return x\n```"
    texts = [f"{GOOD}\n{example}", f"{HALF}\n{GOOD}\n{other}", f"{GOOD}\n{HALF}", example]
    found = grade(texts, [["assert sorted(f(1)) == 2 if 0 else f(1) == 2"]] * 4, FakeSandbox())
    # f(1) is 2 by HALF too; the last text defines nothing
    np.testing.assert_array_equal(found.parts["tests"], [1, 1, 1, 0])
    (released,) = grade(texts[:1], [["assert f(1) == 2"]], FakeSandbox(), variant="released").parts[
        "tests"
    ]
    assert released == 0


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
        (f"```python\n{DOCUMENTED}```\nDone.", 1.0),
        (f"```python\n{DOCUMENTED.replace('return', 'return (')}```", 0.5),
        ("```python\n\ufeffx = 1\n```", 1.0),
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


@pytest.mark.parametrize(
    "text, format, tests",
    [
        (GOOD, 1, 1),
        (GOOD + "\n", 1, 1),
        ("Words, and a tick ` or two ``.\n" + GOOD, 1, 1),
        (GOOD.replace("\n```", "```"), 1, 1),
        (GOOD.replace("return x + 1", "return x"), 1, 0),
        (BROKEN, 0.5, 0),
        ("```python\ndef f(x): pass```", 1, 0),
        (HALF, 0, 0),  # words behind it
        (GOOD + " ", 0, 0),
        (GOOD + "\n\n", 0, 0),
        (f"{GOOD}\n{GOOD}", 0, 0),
        (f"```\n1\n```\n{GOOD}", 0, 0),
        (GOOD + "```", 0, 0),
        (GOOD.removesuffix("```"), 0, 0),
        (GOOD.replace("python", "py"), 0, 0),
        (GOOD.replace("python", "python "), 0, 0),
        (GOOD.replace("\n", "\r\n"), 0, 0),
        (f"`{GOOD}", 0, 0),
        ("def f(x):\n    return x + 1", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_released_rule(text, format, tests):
    sandbox = FakeSandbox()
    found = grade([text], [["assert f(1) == 2"]], sandbox, variant="released")
    assert (found.parts["format"][0], found.parts["tests"][0]) == (format, tests)
    assert found.reward_N[0] == format + tests and found.solved_N[0] == tests
    assert len(sandbox.seen) == (format == 1)  # else it does not run


def test_the_released_rule_is_the_same_for_every_form():
    body = "    return x + 1"
    record = {
        "tests": ["assert f(1) == 2"],
        "form": "function",
        "entry_point": "f",
        "question": "def f(x):\n",
    }
    for variant, tests in (("mended", [1, 1]), ("released", [0, 1])):
        reward = RewardConfig(variant)
        found = grading.grade([record] * 2, [body, GOOD], FakeSandbox(), reward)
        assert found.parts["tests"].tolist() == tests
        assert found.parts["format"].tolist() == [0, 1]


def test_weights_of_the_parts():
    weights = {"format": 0.5, "tests": 2.0}
    found = grade([GOOD, HALF], [["assert f(1) == 2"]] * 2, FakeSandbox(), weights=weights)
    np.testing.assert_array_equal(found.reward_N, [2.5, 2.5])
    found = grade([GOOD, HALF], [["assert f(5) == 6"]] * 2, FakeSandbox(), weights={"format": 0})
    np.testing.assert_array_equal(found.reward_N, [1, 0])
    assert found.reward_N.dtype == np.float32
    with pytest.raises(
        ValueError, match="weights.style=1: there is no such part: choose tests or f"
    ):
        grade([], [], None, weights={"style": 1})
