"""Tasks as values: what grade returns is checked, and a user's own file is a task like ours."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from gdsd_jax import tasks
from gdsd_jax.tasks import Grades, RewardConfig, Task, TaskSettings, graded, parts_of

OWN = """
import dataclasses
import numpy as np
from gdsd_jax.tasks import Grades, Task, read_files


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    word: str = "yes"


def make(settings):
    word = (settings.options or OPTIONS()).word

    def read(row):
        if row.get("question") is None:
            raise ValueError("question is missing: ask something")
        return {"question": row["question"]}

    def grade(records, texts):
        right = np.array([word in text for text in texts], bool)
        return Grades(right.astype(float), right, {"said": right})

    train, heldout = read_files(settings, read, " with question")
    return Task(train, heldout, lambda record: [], grade, score="said", read=read)
"""


def grades(count, **changes):
    parts = {"a": np.zeros(count, np.float32), "b": np.ones(count, np.float32)}
    return Grades(np.zeros(count, np.float32), np.zeros(count, bool), parts)._replace(**changes)


def task_of(found, **fields):
    """A task whose grade returns `found`, or what `found(count)` gives."""

    def grade(records, texts):
        return found(len(texts)) if callable(found) else found

    return Task([], None, lambda record: [], grade, **fields)


def grade_two(found, parts=None):
    return graded(task_of(found), [{}, {}], ["x", "y"], parts)


def test_grades_are_filled_and_converted():
    found = grade_two(Grades([1, 2], [1, 0], {"a": np.array([0.5, 1e-3]), "b": [True, False]}))
    assert (found.reward_N.dtype, found.reward_N.tolist()) == (np.float32, [1, 2])
    assert (found.solved_N.dtype, found.solved_N.tolist()) == (bool, [True, False])
    assert [values.dtype for values in found.parts.values()] == [np.float32] * 2
    np.testing.assert_array_equal(found.parts["a"], np.float32([0.5, 1e-3]))
    assert (found.judged_N.dtype, found.judged_N.tolist()) == (bool, [True, True])
    assert found.points_Nx2.dtype == np.int64
    assert found.points_Nx2.tolist() == [[1, 1], [0, 1]]


def test_what_grade_says_of_verdicts_and_points_is_kept():
    points = np.array([[3, 81], [81, 81]], np.int32)
    found = grade_two(grades(2, judged_N=np.array([0.0, 1.0]), points_Nx2=points))
    assert found.judged_N.tolist() == [False, True] and found.judged_N.dtype == bool
    assert found.points_Nx2.tolist() == [[3, 81], [81, 81]] and found.points_Nx2.dtype == np.int64


@pytest.mark.parametrize(
    "found, said",
    [
        (None, "result is a NoneType: return Grades"),
        ({"reward_N": [0, 0]}, "result is a dict: return Grades"),
        ((np.zeros(2), np.zeros(2, bool), {}), "result is a tuple: return Grades"),
        (grades(3), r"shape \[3\]: give \[2\]"),
        (grades(2, reward_N=np.zeros(1)), r"reward_N has shape \[1\]: give \[2\]"),
        (grades(2, reward_N=np.zeros((2, 1))), r"reward_N has shape \[2, 1\]: give \[2\]"),
        (grades(2, reward_N=0.5), r"reward_N has shape \[\]: give \[2\]"),
        (grades(2, reward_N=[[1], [1, 2]]), "reward_N is ragged"),
        (grades(2, reward_N=["1", "2"]), "reward_N has type <U1: give an array of numbers"),
        (grades(2, reward_N=[None, 1.0]), "reward_N has type object: give an array of numbers"),
        (grades(2, reward_N=[1j, 1]), "reward_N has type complex128: give an array of numbers"),
        (grades(2, reward_N=[0.0, np.nan]), r"reward_N\[1\] is nan as float32: give a finite"),
        (grades(2, reward_N=[np.inf, 0.0]), r"reward_N\[0\] is inf as float32: give a finite"),
        (grades(2, reward_N=[0.0, 1e200]), r"reward_N\[1\] is inf as float32: give a finite"),
        (grades(2, solved_N=[0.5, 1.0]), r"solved_N\[0\] is 0\.5: give True or False"),
        (grades(2, solved_N=[1, 2]), r"solved_N\[1\] is 2: give True or False"),
        (grades(2, solved_N=np.zeros(3, bool)), r"solved_N has shape \[3\]: give \[2\]"),
        (grades(2, judged_N=[1.0, np.nan]), r"judged_N\[1\] is nan: give True or False"),
        (grades(2, judged_N=np.ones(1, bool)), r"judged_N has shape \[1\]: give \[2\]"),
        (grades(2, points_Nx2=np.zeros(2, int)), r"points_Nx2 has shape \[2\]: give \[2, 2\]"),
        (grades(2, points_Nx2=np.ones((2, 2))), "points_Nx2 has type float64: give whole numbers"),
        (grades(2, points_Nx2=[[0, 1], [3, 2]]), r"points_Nx2\[1\] is \[3, 2\]"),
        (grades(2, points_Nx2=[[-1, 1], [0, 2]]), r"points_Nx2\[0\] is \[-1, 1\]"),
        (grades(2, parts=[np.zeros(2)]), "parts are a list: give a dict"),
        (grades(2, parts={1: np.zeros(2)}), "part 1 is no name: give a str"),
        (grades(2, parts={"": np.zeros(2)}), "part '' is no name"),
        (grades(2, parts={"a": np.zeros(1)}), r"parts\['a'\] has shape \[1\]"),
        (grades(2, parts={"a": [np.nan, 0]}), r"parts\['a'\]\[0\] is nan"),
    ],
)
def test_what_grade_must_not_return(found, said):
    with pytest.raises(ValueError, match=said) as error:
        grade_two(found)
    assert str(error.value).startswith(f"{__file__}: grade's ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    "phase step wall_s reward solved length tokens rollout_s reward_s tokens_per_s pass_at_1 kl "
    "mean_reward problems forwards_per_token drift_x teacher_x threshold_x round".split(),
)
def test_names_of_the_metrics_are_reserved(name):
    with pytest.raises(ValueError, match=f"part '{name}' has a name of the metrics: choose"):
        grade_two(grades(2, parts={name: np.zeros(2)}))


def test_the_names_of_the_start_hold_in_every_call():
    found = grade_two(grades(2), parts=("b", "a"))
    assert list(found.parts) == ["b", "a"] and found.parts["b"].tolist() == [1, 1]
    for parts in (("a",), ("a", "b", "c"), ()):
        with pytest.raises(ValueError, match=r"parts are \['a', 'b'\], at the start they were"):
            grade_two(grades(2), parts=parts)


def test_the_names_are_found_by_grading_nothing():
    assert parts_of(task_of(grades)) == ("a", "b")
    assert parts_of(task_of(grades, score="b")) == ("a", "b")
    lists = task_of(lambda count: Grades([], [], {"a": []}, [], []))
    assert parts_of(lists) == ("a",)
    assert graded(lists, [], []).points_Nx2.shape == (0, 2)
    with pytest.raises(ValueError, match="score='c' is no part: choose one of reward, a, b"):
        parts_of(task_of(grades, score="c"))
    with pytest.raises(ValueError, match="solved_N has shape") as error:
        parts_of(task_of(grades(2)))
    assert str(error.value).startswith(__file__)


def test_a_grade_that_fails_on_nothing_is_named():
    task = task_of(lambda count: Grades(np.stack([np.zeros(1)] * count), [], {}))
    with pytest.raises(ValueError, match=r"grade\(\[\], \[\]\) fails \(ValueError: need") as error:
        parts_of(task)
    assert str(error.value).startswith(__file__) and "\n" not in str(error.value)


def test_weights_beyond_what_float32_adds_up_are_refused():
    for weight in (1e39, -1e39, 1e7):
        with pytest.raises(ValueError, match=r"reward\.weights\.cells=.*too large: give at most"):
            RewardConfig(weights={"cells": weight})
    assert RewardConfig(weights={"cells": 1e6}).weights == {"cells": 1e6}


@pytest.mark.parametrize(
    "weights, said",
    [
        ({"cell": 2}, "weights.cell=2: there is no such part: choose cells or "),
        ({"tets": 1, "cells": 1}, "weights.tets=1: there is no such part: choose tests or "),
        ({"format": -1}, "weights.format=-1 would reward the opposite: give 0 or more"),
        ({"cells": 0, "format": 0}, "weights: all parts count 0, so nothing is rewarded: give "),
    ],
)
def test_weights_are_the_settings_fault_and_not_the_tasks(weights, said):
    def grade(records, texts):
        parts = {name: np.ones(len(texts)) for name in ("format", "tests", "cells")}
        reward_N = RewardConfig(weights=weights).total(parts, {"cells": 1.0, "tests": 0.0})
        return Grades(reward_N, np.ones(len(texts), bool), parts)

    with pytest.raises(ValueError, match=f"^reward.{said}") as error:
        parts_of(Task([], None, lambda record: [], grade))
    assert "\n" not in str(error.value)


def test_a_part_that_is_a_penalty_may_have_another_weight():
    parts = {"length": np.array([2.0, 0.0])}
    reward = RewardConfig(weights={"length": -3.0})
    assert reward.total(parts, {"length": -1.0}).tolist() == [-6.0, 0.0]


def test_a_task_that_grades_nothing():
    task = Task([{}], None, lambda record: [], None)
    assert parts_of(task) == ()
    task.close()
    with pytest.raises(ValueError, match="no grade"):
        graded(task, [{}], ["x"])
    with pytest.raises(ValueError, match="score='a' is no part: choose one of reward"):
        parts_of(task._replace(score="a"))


def test_as_many_records_as_texts():
    with pytest.raises(ValueError, match="1 records but 2 texts"):
        graded(task_of(grades), [{}], ["x", "y"])


def test_the_file_of_whatever_can_be_called():
    class Grade:
        def __call__(self, records, texts):
            return None

        def method(self, records, texts):
            return None

    @functools.wraps(json.dumps)
    def wrapped(records, texts):
        return None

    for grade in (Grade(), Grade().method, functools.partial(functools.partial(Grade().method))):
        assert tasks.file_of(grade) == __file__
    assert tasks.file_of(wrapped) == json.__file__


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_task_file_of_the_users(tmp_path):
    name = write(tmp_path / "mine.py", OWN)
    data = write(tmp_path / "data.jsonl", '{"text": "Really?"}\n')
    options = tasks.options_of(name)(word="no")
    settings = TaskSettings(data_file=data, columns={"question": "text"}, options=options)
    task = tasks.find(name)(settings)
    assert isinstance(task, Task) and task.train == [{"question": "Really?"}]
    assert task.heldout is None
    assert parts_of(task) == ("said",)
    found = graded(task, task.train * 2, ["yes", "oh no"], ("said",))
    assert found.parts["said"].tolist() == [0, 1] and found.parts["said"].dtype == np.float32
    assert found.solved_N.tolist() == [False, True]


def test_faults_of_a_users_file_name_it(tmp_path):
    name = write(tmp_path / "mine.py", OWN.replace('{"said": right}', '{"step": right}'))
    data = write(tmp_path / "data.jsonl", '{"question": "Really?"}\n\n{"text": "No"}\n')
    with pytest.raises(ValueError, match=r"data\.jsonl:3: question is missing: ask something"):
        tasks.find(name)(TaskSettings(data_file=data))
    write(tmp_path / "data.jsonl", '{"question": "Really?"}')
    with pytest.raises(ValueError, match=rf"^{name}: grade's part 'step'"):
        parts_of(tasks.find(name)(TaskSettings(data_file=data)))
    with pytest.raises(ValueError, match="add data_file=FILE.jsonl: one JSON object a line with q"):
        tasks.find(name)(TaskSettings())
    with pytest.raises(ValueError, match="needs a data_file"):
        tasks.find(name)(TaskSettings(heldout_file=data))
    with pytest.raises(ValueError, match="defines no make"):
        tasks.find(write(tmp_path / "empty.py", "x = 1\n"))


def test_options_of_a_task(tmp_path):
    assert tasks.options_of("chats") is None and tasks.options_of("prompts") is None
    assert tasks.options_of(write(tmp_path / "none.py", "def make(settings): pass\n")) is None
    with pytest.raises(ValueError, match=r"no\.py: OPTIONS is not a dataclass"):
        tasks.options_of(write(tmp_path / "no.py", "OPTIONS = {'word': 'yes'}\n"))
    for find in (tasks.find, tasks.options_of):
        said = "unknown task 'cooking', known: chats, coding, countdown, everyday, "
        with pytest.raises(ValueError, match=said):
            find("cooking")
    assert tasks.TASKS.keys() == tasks.OPTIONS.keys()


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"prompt": "short"}, "prompt='short': choose bare or full"),
        ({"noise": 1.5}, r"noise=1\.5 must lie in 0 \.\. 1"),
        ({"noise": float("nan")}, "noise=nan must lie in"),
    ],
)
def test_settings_refuse_what_cannot_work(fields, said):
    with pytest.raises(ValueError, match=said):
        TaskSettings(**fields)


def test_the_list_of_tasks_is_quick_to_import():
    slow = "{'jax', 'tensorflow_datasets', 'tensorflow', 'grain'}"
    script = f"import sys, gdsd_jax.tasks\nprint({slow} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
