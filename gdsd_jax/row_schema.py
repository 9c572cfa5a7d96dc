"""The one schema of rows in users' files: problems to train on, to be evaluated on, to fine-tune or
distil on, and prompts of launch/generate.py. gdsd_jax/tasks/README.md describes it.

Published data sets have columns of their own, which the tasks read besides.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from gdsd_jax import rows

ROLES = ("system", "user", "assistant")
SHAREGPT = {"human": "user", "gpt": "assistant"}  # its other roles have our names
OTHER_NAMES = {"question": "prompt", "messages": "conversations"}
QUESTION = rows.Field("question", "non-empty text", "give what is asked in words")
MESSAGES = rows.Field(
    "messages",
    "turns",
    'give turns such as {"role": "user", "content": "..."} in order, or "conversations" with '
    'turns such as {"from": "human", "value": "..."}',
)
OTHERS = (
    rows.Field("answer", "text or number", "give the final answer or leave it out", default=""),
    rows.Field("test_cases", "texts", "give assert statements as strings", default=()),
    rows.Field("domain", "text", "give a word such as math, or leave it out", default=""),
    rows.Field("solution", "text", "give the worked answer or leave it out", default=""),
)
FIELDS = (QUESTION, MESSAGES, *OTHERS)


class Row(NamedTuple):
    """What a row says.

    Attributes:
      question: what is asked, in words; of a row with messages their last user's turn.
      messages: the turns as they stand; None of a row with a question. A last turn of the assistant
        is the begin of the answer, which goes on from there.
      answer: the final answer as text; "" where unknown.
      test_cases: assert statements; () where there are none.
      domain: such as "math"; "" where unknown.
      solution: the worked answer; "" where unknown.
    """

    question: str
    messages: list[dict[str, str]] | None
    answer: str
    test_cases: Sequence[str]
    domain: str
    solution: str

    @property
    def turns(self) -> list[dict[str, str]]:
        """What is asked, without a word of a task."""
        return asked({"messages": self.messages, "question": self.question})

    @property
    def kept(self) -> dict[str, Any]:
        """The entries of a record that few rows have: messages and domain."""
        found = {"messages": self.messages, "domain": self.domain}
        return {name: value for name, value in found.items() if value}


def read(
    row: Any,
    uses: Sequence[str] = ("answer", "test_cases", "domain", "solution"),
    first: str = "question",
) -> Row:
    """A row of a user's file under our names. With messages its question is a title, and passed
    over.

    Args:
      row: what a line of the file holds.
      uses: the other entries that the caller needs; the rest are not looked at.
      first: "question" or "messages", which a row without both is told to lack.

    Raises:
      rows.MissingField: neither a question nor messages.
      ValueError: no object, an entry of another type, or messages that cannot be asked; one line.
    """
    known, other = (QUESTION, "messages") if first == "question" else (MESSAGES, "a question")
    if not isinstance(row, dict):
        rows.check(row, "", [known])  # says so
    absent = {field.name: field.default for field in OTHERS}
    others = absent | rows.check(row, "", [field for field in OTHERS if field.name in uses])
    turns, name = turns_of(row), name_of("question", row)
    if turns is not None:
        turns = check_turns(rows.check({"messages": turns}, "", [MESSAGES])["messages"])
        question = [turn["content"] for turn in turns if turn["role"] == "user"][-1]
        return Row(question, turns, **others)
    if row.get(name) is None:
        raise rows.MissingField(f"{first} is missing: {known.mend}, or {other}", first)
    return Row(
        rows.check(row, "", [dataclasses.replace(QUESTION, name=name)])[name], None, **others
    )


def name_of(ours: str, row: Mapping[str, Any]) -> str:
    """The name under which a row has its question or messages: ours, or else the other one."""
    other = OTHER_NAMES[ours]
    return other if row.get(ours) is None and row.get(other) is not None else ours


def turns_of(row: Mapping[str, Any]) -> Any:
    """A row's messages, where they are in ShareGPT's layout in ours; what is no turn stays as it
    is. None where there are none."""
    turns = row.get(name_of("messages", row))
    return [_turn(turn) for turn in turns] if isinstance(turns, list) else turns


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
        return turn
    return {"role": SHAREGPT.get(turn["from"], turn["from"]), "content": turn["value"]}


def check_turns(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The turns with no other entries.

    Raises:
      ValueError: an unknown role, no last turn of the user, but for one of the assistant behind it,
        or a last turn without a word.
    """
    for number, turn in enumerate(turns):
        if turn["role"] not in ROLES:
            raise ValueError(
                f"messages[{number}] has role={turn['role']!r:.40}: choose {', '.join(ROLES)}; in "
                'turns with "from" also human, gpt'
            )
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "user" and roles[-2:] != ["user", "assistant"]:
        raise ValueError(
            "messages must end with a turn of the user, or with one of the assistant behind it, "
            "which begins the answer"
        )
    if not turns[-1]["content"].strip():
        raise ValueError("messages end with an empty turn: leave it out")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def asked(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """A record's messages as they stand, or its question alone."""
    return record.get("messages") or [{"role": "user", "content": record["question"]}]


def begin_of(turns: Sequence[Mapping[str, str]]) -> str:
    """The begin of the answer, where the last turn is the assistant's; else ""."""
    return turns[-1]["content"] if turns[-1]["role"] == "assistant" else ""


def begun_line(begun: int, count: int) -> str:
    """What users are told where some of `count` rows begin their answers."""
    return (
        f"{begun} of {count} rows end with a turn of the assistant, from which the answer goes on: "
        "leave that turn out where it is the whole answer"
    )
