"""Grades as the loop may use them: what a task returns is checked, or told of and left out.

N answers.
"""

from collections.abc import Callable, Mapping, Sequence
import traceback
from typing import Any

import numpy as np

from gdsd_jax import meanings
from gdsd_jax.sandbox import SandboxError
from gdsd_jax.tasks.task import Grades, Record, Task, WeightError, file_of


class GradeError(ValueError):
    """Grades that cannot be used: one line names the task's file and the fault."""


def parts_of(task: Task) -> tuple[str, ...]:
    """The names of the task's parts, found by grading nothing; () where it grades nothing.

    Raises:
      ValueError: grade fails on nothing, or returns what it must not, or `task.score` is neither
        "reward" nor a part; one line names the task's file.
    """
    names = () if task.grade is None else tuple(graded(task, [], []).parts)
    choices = ("reward", *names)
    if task.score not in choices:
        raise ValueError(
            f"{file_of(task.grade or task.messages)}: score={task.score!r} is no part: choose one "
            f"of {', '.join(choices)}"
        )
    return names


def graded(
    task: Task,
    records: Sequence[Record],
    texts: Sequence[str],
    parts: Sequence[str] | None = None,
    skip: Callable[[str], None] | None = None,
) -> Grades:
    """The task's grades of N answers, checked and with every field filled.

    The only caller of `task.grade`. Numbers become float32, yes and no become bool.

    Args:
      task: one that grades.
      records: of each answer.
      texts: the answers.
      parts: the names that were fixed by `parts_of`; None = any.
      skip: takes a line about answers whose grade cannot be used; they then count as not judged.
        None = that is an error. Needs `parts`.

    Returns:
      Grades: judged_N and points_Nx2 (int64) are never None; parts in the order of `parts`.

    Raises:
      GradeError: grade fails, or what it returns cannot be used; one line names the task's file and
        the fault.
      SandboxError, OSError: programs cannot be run, or files cannot be read, whatever `skip` says.
    """
    if task.grade is None:
        raise ValueError(f"{file_of(task.messages)}: this task has no grade: nothing can be judged")
    if len(records) != len(texts):
        raise ValueError(f"{len(records)} records but {len(texts)} texts to grade: give as many")
    try:
        return _graded(task, records, texts, parts)
    except GradeError as error:
        if skip is None:
            raise
        fault = str(error)
    if len(texts) == 1:
        skip(f"{fault}: the answer counts as not judged")
        return _unjudged(parts)
    lines: list[str] = []
    single = [
        graded(task, records[row : row + 1], texts[row : row + 1], parts, lines.append)
        for row in range(len(texts))
    ]
    skip(f"{fault}: {len(lines)} of {len(texts)} answers count as not judged")
    return _joined(single)


def _graded(
    task: Task, records: Sequence[Record], texts: Sequence[str], parts: Sequence[str] | None
) -> Grades:
    """`graded` without `skip`."""
    file = file_of(task.grade)
    try:
        found = task.grade(records, texts)
    except (WeightError, SandboxError, OSError, MemoryError):
        raise  # the settings' fault or the machine's, not the task's
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        if not len(texts):
            raise GradeError(
                f"{file}: grade([], []) fails ({told}): for no answers return empty arrays"
            ) from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise GradeError(
            f"{file}: grade fails on {len(texts)} answers ({told}, in {frame.filename}, line "
            f"{frame.lineno})"
        ) from error
    try:
        return _checked(found, len(texts), parts, file)
    except ValueError as error:
        raise GradeError(str(error)) from None


def _unjudged(parts: Sequence[str]) -> Grades:
    """What stands for one answer that was not judged."""
    no, zero = np.zeros(1, bool), np.zeros(1, np.float32)
    return Grades(zero, no, {name: zero for name in parts}, no, np.array([[0, 1]]))


def _joined(grades: Sequence[Grades]) -> Grades:
    """The grades of several answers as one."""
    reward, solved, parts, judged, points = zip(*grades)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reward_N, solved_N, judged_N, points_Nx2 = map(np.concatenate, (reward, solved, judged, points))
    return Grades(reward_N, solved_N, joined, judged_N, points_Nx2)


def _checked(found: Any, count: int, parts: Sequence[str] | None, file: str) -> Grades:
    """`found` as `graded` returns it; ValueError where it cannot be."""
    prefix = f"{file}: grade's"
    if not isinstance(found, Grades):
        raise ValueError(f"{prefix} result is a {type(found).__name__}: return Grades(...)")
    if not isinstance(found.parts, Mapping):
        raise ValueError(f"{prefix} parts are a {type(found.parts).__name__}: give a dict")
    _check_names(tuple(found.parts), parts, prefix)
    solved_N = _flags(found.solved_N, count, f"{prefix} solved_N")
    judged_N = np.ones(count, bool)
    if found.judged_N is not None:
        judged_N = _flags(found.judged_N, count, f"{prefix} judged_N")
    points_Nx2 = np.stack([solved_N, np.ones(count, bool)], axis=1).astype(np.int64)
    if found.points_Nx2 is not None:
        points_Nx2 = _points(found.points_Nx2, count, f"{prefix} points_Nx2")
    return Grades(
        _numbers(found.reward_N, count, f"{prefix} reward_N"),
        solved_N,
        {
            name: _numbers(found.parts[name], count, f"{prefix} parts[{name!r}]")
            for name in (found.parts if parts is None else parts)
        },
        judged_N,
        points_Nx2,
    )


def _check_names(names: tuple, parts: Sequence[str] | None, prefix: str) -> None:
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{prefix} part {name!r} is no name: give a str")
        if meanings.is_reserved(name):
            raise ValueError(f"{prefix} part {name!r} has a name of the metrics: choose another")
    if parts is not None and set(names) != set(parts):
        raise ValueError(
            f"{prefix} parts are {sorted(names)}, at the start they were {sorted(parts)}: return "
            "the same names every time"
        )


def _array(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """`values` as numbers of that shape, of whatever type."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        raise ValueError(f"{what} is ragged: give an array of shape {list(shape)}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} has type {array.dtype}: give an array of numbers")
    if array.size == 0 and shape[0] == 0:
        array = array.reshape(shape)  # an empty list says nothing of its shape
    if array.shape != shape:
        raise ValueError(f"{what} has shape {list(array.shape)}: give {list(shape)}")
    return array


def _numbers(values: Any, count: int, what: str) -> np.ndarray:
    array = _array(values, (count,), what)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"{what}[{row}] is {array[row]} as float32: give a finite number, also where nothing "
            "is judged"
        )
    return array


def _flags(values: Any, count: int, what: str) -> np.ndarray:
    array = _array(values, (count,), what)
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"{what}[{row}] is {array[row]}: give True or False")
    return array.astype(bool)


def _points(values: Any, count: int, what: str) -> np.ndarray:
    array = _array(values, (count, 2), what)
    if count and array.dtype.kind not in "iu":
        raise ValueError(f"{what} has type {array.dtype}: give whole numbers")
    right_N, all_N = array[:, 0], array[:, 1]
    wrong = np.flatnonzero((right_N < 0) | (right_N > all_N))
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"{what}[{row}] is {array[row].tolist()}: give (right, of how many)")
    return array.astype(np.int64)
