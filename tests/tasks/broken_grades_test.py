"""Grades that cannot be used: one line that names the task's file, or answers without a verdict."""

import numpy as np
import pytest

from gdsd_jax.sandbox import SandboxError
from gdsd_jax.tasks import GradeError, Grades, Task, graded

TEXTS = ["good", "bad", "good", "bad"]
# what stands for the reward of a bad answer -> what is said of it
BROKEN = {
    "NaN": (float("nan"), r"reward_N\[\d\] is nan as float32: give a finite number"),
    "infinity": (float("inf"), r"reward_N\[\d\] is inf"),
    "too large": (1e300, r"reward_N\[\d\] is inf as float32"),
    "None": (None, "reward_N has type object: give an array of numbers"),
    "a text": ("0.5", "reward_N has type <U"),
    "a list": ([1.0, 2.0], "reward_N is ragged|reward_N has shape"),
    "an exception": (KeyError("none"), r"grade fails on \d answers .KeyError: 'none', in .*, line"),
}


def task_of(value) -> Task:
    def reward(text):
        if text == "good":
            return 1.0
        if isinstance(value, Exception):
            raise value
        return value

    def grade(records, texts):
        rewards = [reward(text) for text in texts]
        solved = [text == "good" for text in texts]
        return Grades(rewards, solved, {"part": [1.0] * len(texts)})

    return Task([], None, None, grade)


@pytest.mark.parametrize("value, said", BROKEN.values(), ids=BROKEN)
def test_a_reward_that_is_no_number_is_one_line(value, said):
    with pytest.raises(GradeError, match=said) as error:
        graded(task_of(value), [{}] * 4, TEXTS, ["part"])
    assert str(error.value).startswith(__file__) and "\n" not in str(error.value)


@pytest.mark.parametrize("value, said", BROKEN.values(), ids=BROKEN)
def test_or_its_answers_count_as_not_judged(value, said):
    """The others keep their grades; never is it a reward of 0 in silence."""
    lines = []
    found = graded(task_of(value), [{}] * 4, TEXTS, ["part"], lines.append)
    assert found.judged_N.tolist() == [True, False, True, False]
    assert found.solved_N.tolist() == found.judged_N.tolist()
    np.testing.assert_array_equal(found.reward_N, [1, 0, 1, 0])
    np.testing.assert_array_equal(found.parts["part"], [1, 0, 1, 0])
    assert found.points_Nx2.tolist() == [[1, 1], [0, 1], [1, 1], [0, 1]]
    (line,) = lines
    assert line.endswith(": 2 of 4 answers count as not judged") and "\n" not in line


def test_where_all_can_be_used_nothing_is_said():
    found = graded(task_of(0.0), [{}] * 4, TEXTS, ["part"], pytest.fail)
    assert found.judged_N.all() and found.reward_N.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("error", [SandboxError("it broke"), OSError("no file"), MemoryError()])
def test_what_the_machine_lacks_is_not_skipped(error):
    with pytest.raises(type(error)):
        graded(task_of(error), [{}] * 4, TEXTS, ["part"], pytest.fail)
