r"""What the tasks of mathematics share: their settings, prompts and worked answers.

A record is a dict with "question", "answer" (the final one) and "solution" (the worked one as the
file has it, "" where none is known), and where the row has them "messages" and "domain".
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import random
import re
from typing import Any, NamedTuple

from gdsd_jax import rows
from gdsd_jax.tasks.mathematics import grading
from gdsd_jax.tasks.mathematics.checker import Checker, check_installed
from gdsd_jax.tasks.task import Record, Task, TaskSettings, notes_of, read_files, take_examples

ASKED = ("training", "evaluation")
PREFILL = "<reasoning>"
FULL = (
    "\n\nWork towards the answer one step at a time. Write the answer itself, and nothing else, "
    "inside \\boxed{} at the very end."
)
FORM = "Answer in the following format:\n<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>\n\n"


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The tasks' own settings.

    Attributes:
      shots: worked examples before each question, from the training problems, which lose them.
      asked: which released prompt, of "training" or of "evaluation"; the latter begins the answer.
      workers: processes that compare answers by math-verify, started when needed.

    Raises:
      ValueError: a number that cannot be, or an unknown prompt.
    """

    shots: int = 0
    asked: str = "training"
    workers: int = 2

    def __post_init__(self):
        if self.shots < 0:
            raise ValueError(f"options.shots={self.shots} must not be negative")
        if self.asked not in ASKED:
            raise ValueError(f"options.asked={self.asked!r}: choose {' or '.join(ASKED)}")
        if self.workers < 1:
            raise ValueError(f"options.workers={self.workers} must be at least 1")


class Kind(NamedTuple):
    """What differs between the tasks.

    Attributes:
      columns: that a user's file may name otherwise.
      wanted: what a row holds, for messages.
      read: row -> record.
      released: what stands before the question in the released prompts, by `OPTIONS.asked`.
      boxed: of `OPTIONS.asked`, where the released answer stands in a box.
      worked: solution -> the steps as a text to learn from.
      rule: the published grades.
    """

    columns: tuple[rows.Field, ...]
    wanted: str
    read: Callable[[Any], Record]
    released: dict[str, str]
    boxed: tuple[str, ...]
    worked: Callable[[str], str]
    rule: grading.Rule


def make(
    kind: Kind,
    settings: TaskSettings,
    known: tuple[list[Record], list[Record] | None] | None = None,
) -> Task:
    """The task on the user's files.

    The user's problems are asked in full, unless `settings.prompt` says otherwise or the model
    comes from nothing.

    Args:
      kind: which task.
      settings: names the files.
      known: (training records, held-out records) where they come from elsewhere.

    Raises:
      ValueError: a file, row or column that cannot be read, fewer problems than examples, or
        math-verify is missing; one line.
    """
    rows.check_columns(settings.columns, kind.columns)
    if settings.reward.variant == "mended":
        check_installed()
    options = settings.options or OPTIONS()
    train, heldout = known or read_files(settings, kind.read, kind.wanted)
    prompt = settings.wording
    asked = options.asked if prompt == "released" else None
    final = functools.partial(answer, kind=kind, asked=asked, noise=settings.noise)
    examples, train = take_examples(settings, train, options.shots)
    ask = functools.partial(messages, kind=kind, prompt=prompt, asked=asked, examples=examples)
    checker = Checker(options.workers)
    return Task(
        train,
        heldout,
        ask,
        functools.partial(grading.grade, reward=settings.reward, checker=checker, rule=kind.rule),
        final,
        score="correct",
        read=kind.read,
        close=checker.close,
        notes=notes_of(train, heldout),
    )


# ---------------------------------------------------------------- prompts and answers


def messages(
    record: Record, kind: Kind, prompt: str, asked: str | None, examples: Sequence[Record]
) -> list[dict[str, str]]:
    """The question as it is asked, after the examples; messages as they stand.

    Args:
      record: with "question" or "messages".
      kind: which task.
      prompt: "bare", "full" or "released".
      asked: which released prompt.
      examples: worked problems: turns of their own, and in released prompts a part of the turn.
    """
    if "messages" in record:
        return record["messages"]
    if prompt == "released":
        content = kind.released[asked] + _after_examples(record, examples)
        turns = [{"role": "user", "content": content}]
        if asked == "evaluation":
            turns.append({"role": "assistant", "content": PREFILL})
        return turns
    end = FULL if prompt == "full" else ""
    turns = []
    for example in examples:
        said = answer(example, None, kind, None, 0.0)
        turns.append({"role": "user", "content": example["question"] + end})
        turns.append({"role": "assistant", "content": said})
    return [*turns, {"role": "user", "content": record["question"] + end}]


def _after_examples(record: Record, examples: Sequence[Record]) -> str:
    if not examples:
        return record["question"]
    shown = [f"Question: {one['question']}\nAnswer:\n{one['solution']}" for one in examples]
    return "\n\n".join([*shown, f"Question: {record['question']}\nAnswer:\n"])


def answer(record: Record, seed: str | None, kind: Kind, asked: str | None, noise: float) -> str:
    r"""The worked answer, which ends in a \boxed{} or in the released form.

    Under a seed the final answer is wrong with probability `noise`.
    """
    final = record["answer"]
    rng = random.Random(f"{seed} {record['question']}")
    if seed is not None and rng.random() < noise:
        final = _wrong(final, rng)
    steps = kind.worked(record["solution"]).strip()
    if asked is None:
        return f"{steps}\n\nThe answer is \\boxed{{{final}}}.".strip()
    if asked in kind.boxed:
        final = f"\\boxed{{{final}}}"
    return f"<reasoning>\n{steps}\n</reasoning>\n<answer>\n{final}\n</answer>\n"


def _wrong(final: str, rng: random.Random) -> str:
    """A final answer with one of its digits changed; without digits, a number."""
    digits = [hit.start() for hit in re.finditer("[0-9]", final)]
    if not digits:
        return str(rng.randint(100, 999))
    place = rng.choice(digits)
    # not a zero, which might change nothing before a point or at the end
    other = rng.choice([digit for digit in "123456789" if digit != final[place]])
    return final[:place] + other + final[place + 1 :]
