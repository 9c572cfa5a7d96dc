"""Tasks by name, or from a user's own file: a function `make(settings) -> Task` each.

`OPTIONS` beside it, in a task's file, is the dataclass of the task's own settings.
"""

from collections.abc import Callable, Mapping
import dataclasses
import types

from gdsd_jax import extensions
from gdsd_jax.tasks import (
    chats,
    coding,
    countdown,
    everyday,
    instructions,
    prompts,
    reasoning_gym,
    sudoku,
)
from gdsd_jax.tasks.grading import GradeError, graded, parts_of
from gdsd_jax.tasks.mathematics import competition, gsm8k
from gdsd_jax.tasks.task import (
    Grades,
    Record,
    RewardConfig,
    Task,
    TaskSettings,
    file_of,
    file_task,
    read_files,
)

__all__ = [
    "FROM_FILES",
    "OPTIONS",
    "TASKS",
    "GradeError",
    "Grades",
    "Record",
    "RewardConfig",
    "Task",
    "TaskSettings",
    "file_of",
    "file_task",
    "find",
    "graded",
    "options_of",
    "parts_of",
    "read_files",
    "reads_files",
]

TASKS: Mapping[str, Callable[[TaskSettings], Task]] = types.MappingProxyType(
    {
        "chats": chats.make,
        "coding": coding.make,
        "countdown": countdown.make,
        "everyday": everyday.make,
        "gsm8k": gsm8k.make,
        "instructions": instructions.make,
        "math": competition.make,
        "prompts": prompts.make,
        "reasoning_gym": reasoning_gym.make,
        "sudoku": sudoku.make,
    }
)
# the dataclass of a task's own settings; None = it has none
OPTIONS: Mapping[str, type | None] = types.MappingProxyType(
    {
        "chats": None,
        "coding": coding.OPTIONS,
        "countdown": countdown.OPTIONS,
        "everyday": None,
        "gsm8k": gsm8k.OPTIONS,
        "instructions": instructions.OPTIONS,
        "math": competition.OPTIONS,
        "prompts": None,
        "reasoning_gym": reasoning_gym.OPTIONS,
        "sudoku": sudoku.OPTIONS,
    }
)

FROM_FILES = ("chats", "gsm8k", "math", "prompts")  # without problems of their own


def find(name: str) -> Callable[[TaskSettings], Task]:
    """The `make` of a task of ours, or of a file that ends in .py; ValueError, in one line."""
    return extensions.load(name, TASKS, "make", what="task")


def options_of(name: str) -> type | None:
    """The dataclass of a task's own settings; None where it has none.

    Raises:
      ValueError: an unknown task, a file that cannot be run, or OPTIONS that is no dataclass.
    """
    if not extensions.is_file(name):
        return extensions.load(name, OPTIONS, "make", what="task")
    options = getattr(extensions.module_of(name, "task"), "OPTIONS", None)
    if options is not None and not (
        isinstance(options, type) and dataclasses.is_dataclass(options)
    ):
        raise ValueError(f"task={name}: OPTIONS is not a dataclass: add @dataclasses.dataclass")
    return options


def reads_files(name: str, *files: str | None) -> bool:
    """Whether a task of ours reads its problems from the user's files, or wants some."""
    given = any(file is not None for file in files)
    return not extensions.is_file(name) and (given or name in FROM_FILES)
