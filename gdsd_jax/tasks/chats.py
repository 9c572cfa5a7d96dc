"""Task "chats": the user's own answers, which are learnt as they stand.

A record is a dict with "messages", the turns that are asked, and "solution", the answer. Nothing is
graded: the task is for the supervised phase alone.
"""

import functools
from typing import Any

from gdsd_jax import row_schema, rows
from gdsd_jax.tasks.task import (
    Record,
    RewardConfig,
    Task,
    TaskSettings,
    read_files,
    solution_of,
)

WANTED = " with messages that end with the assistant's turn, or question and solution"


def make(settings: TaskSettings) -> Task:
    """The task on the user's files.

    Raises:
      ValueError: no data_file, or a file, row or column that cannot be read, or a rule for
        rewards; one line.
    """
    if settings.reward != RewardConfig():
        raise ValueError("reward: the task chats grades nothing: leave reward out")
    rows.check_columns(settings.columns, row_schema.FIELDS)
    train, heldout = read_files(settings, read, WANTED)
    answer = functools.partial(solution_of, noise=settings.noise)
    return Task(train, heldout, messages, None, answer, read=read)


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    What is learnt is the row's solution, else the last turn where that is the assistant's, else its
    answer.
    """
    found = row_schema.read(row, ("answer", "solution"), first="messages")
    turns, solution = found.turns, found.solution
    if not solution.strip():
        solution = row_schema.begin_of(turns)
        turns = turns[:-1] if solution else turns
    solution = solution or found.answer
    if not solution.strip():
        raise ValueError(
            "nothing there to learn: end the messages with a turn of the assistant, or give a "
            "solution"
        )
    return {"messages": turns, "solution": solution}


def messages(record: Record) -> list[dict[str, str]]:
    """What is asked."""
    return record["messages"]
