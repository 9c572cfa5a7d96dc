"""Task "chats": the user's own conversations, whose last turn by the assistant is to be learnt.

A record is a dict with "messages", turns of {"role", "content"}. Files may be in ShareGPT's layout
too, "conversations" of {"from", "value"}. Nothing is graded: the task is for the supervised phase
alone.
"""

from typing import Any

from gdsd_jax import rows
from gdsd_jax.tasks.task import Record, Task, TaskSettings, read_files

ROLES = ("system", "user", "assistant")
SHAREGPT = {"human": "user", "gpt": "assistant"}  # its other roles have our names
FIELDS = (
    rows.Field(
        "messages",
        "turns",
        'give turns such as {"role": "user", "content": "..."} in order, or "conversations" with '
        'turns such as {"from": "human", "value": "..."}',
    ),
)


def make(settings: TaskSettings) -> Task:
    """The task on the user's files.

    Raises:
      ValueError: no data_file, or a file, row or column that cannot be read; one line.
    """
    rows.check_columns(settings.columns, FIELDS)
    train, heldout = read_files(settings, read, rows.required(FIELDS))
    return Task(train, heldout, messages, None, answer, read=read)


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    The roles are system, user and assistant. The last turn is the assistant's, the one before it
    the user's. Only the last turn is learnt.
    """
    turns = rows.check(_renamed(row), "", FIELDS)["messages"]
    for number, turn in enumerate(turns):
        if turn["role"] not in ROLES:
            raise ValueError(
                f"messages[{number}] has role={turn['role']!r:.40}: choose {', '.join(ROLES)}; in "
                'turns with "from" also human, gpt'
            )
    roles = [turn["role"] for turn in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise ValueError(
            "messages must end with a turn of the user and one of the assistant, which is learnt"
        )
    if not turns[-1]["content"].strip():
        raise ValueError("messages end with an empty turn: leave the row out")
    return {"messages": [{"role": x["role"], "content": x["content"]} for x in turns]}


def _renamed(row: Any) -> Any:
    """A row in ShareGPT's layout under our names; what is none stays as it is."""
    if not isinstance(row, dict):
        return row
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list):
        return row
    return row | {"messages": [_turn(turn) for turn in turns]}


def _turn(turn: Any) -> Any:
    """A turn of {"from", "value"} as one of {"role", "content"}; what is none stays as it is."""
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
        return turn
    return {"role": SHAREGPT.get(turn["from"], turn["from"]), "content": turn["value"]}


def messages(record: Record) -> list[dict[str, str]]:
    """All turns but the last."""
    return record["messages"][:-1]


def answer(record: Record, seed: str | None) -> str:
    """The last turn, whatever the seed."""
    return record["messages"][-1]["content"]
