r"""Task "prompts": the user's own prompts, each of a domain, perhaps with a final answer.

A record is a dict with "question", "domain" (of `DOMAINS`) and "answer" (the final answer as text,
"" where unknown). Distillation needs no answers; evaluation compares what \boxed{} holds with them.
N answers.
"""

from collections.abc import Sequence
import functools
import re
import types
from typing import Any

import numpy as np

from gdsd_jax import rows
from gdsd_jax.tasks import answer_tags
from gdsd_jax.tasks.mathematics.checker import Checker, check_installed
from gdsd_jax.tasks.task import Grades, Record, RewardConfig, Task, TaskSettings, read_files

# What follows the question, as the published models were trained (OPDLM, arXiv 2606.06712).
DOMAINS = types.MappingProxyType(
    {
        "math": "\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "science": "\nPlease show your choice in the answer field with only the choice letter, "
        'e.g., "answer": "C".',
        "code": "",
        "chat": "",
    }
)
FIELDS = (
    rows.Field("question", "non-empty text", "give the prompt in words"),
    rows.Field("domain", "choice", f"choose one of {', '.join(DOMAINS)}", choices=tuple(DOMAINS)),
    rows.Field("answer", "text or number", "give the final answer or leave it out", default=""),
)
MENDED = RewardConfig()
OWN = {"format": 1.0, "tests": 1.0}  # weights of the parts


def make(settings: TaskSettings) -> Task:
    """The task on the user's files; it builds nothing, runs no program and knows no solutions.

    Raises:
      ValueError: no data_file, or one that cannot be read, or math-verify is missing where answers
        need it, or reward.variant=released; one line.
    """
    if settings.own_problems:
        raise ValueError(
            "this task's prompts are yours: add data_file=FILE.jsonl and init_from=DIR to the "
            "config"
        )
    if settings.reward.variant == "released":
        raise ValueError(
            "reward.variant=released: the task prompts has one rule of its own: leave it out"
        )
    rows.check_columns(settings.columns, FIELDS)
    train, heldout = read_files(settings, read, rows.required(FIELDS))
    # which records will be graded is not known yet where there are none
    if settings.only_grades or any(map(takes_algebra, (*train, *(heldout or ())))):
        check_installed()
    ask = messages if settings.prompt != "bare" else bare_messages
    checker = Checker()
    return Task(
        train,
        heldout,
        ask,
        functools.partial(grade, checker=checker, reward=settings.reward),
        score="tests",
        read=read,
        close=checker.close,
    )


def read(row: Any) -> dict[str, str]:
    """The record of a file's row; ValueError, in one line, where it is none."""
    found = rows.check(row, "", FIELDS)
    # else a text without an answer would be right
    return found | {"answer": found["answer"] if plain(found["answer"]) else ""}


def messages(record: Record) -> list[dict[str, str]]:
    """The question and what its domain adds to it; no system turn."""
    return [{"role": "user", "content": record["question"] + DOMAINS[record["domain"]]}]


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The question alone."""
    return [{"role": "user", "content": record["question"]}]


def takes_algebra(record: Record) -> bool:
    """Whether a record's answer is compared as mathematics, and not as text."""
    return record["answer"] != "" and record.get("domain") == "math"


def grade(
    records: Sequence[Record],
    texts: Sequence[str],
    checker: Checker,
    reward: RewardConfig = MENDED,
) -> Grades:
    """Parts "format" (a final answer is there) and "tests" (it is the record's), 0 or 1 each.

    Answers are compared character for character, and of the domain "math" by `Checker.equal` too.
    Rows without an answer are not judged, nor is one whose comparison was lost twice. The reward is
    the sum of both parts, times their weights in `reward`.
    """
    answers = [final_answer(text) for text in texts]
    format_N = np.array([answer != "" for answer in answers], np.float32)
    tests_N = np.zeros(len(texts), np.float32)
    judged_N = np.array([record["answer"] != "" for record in records], bool)
    for row, (record, answer) in enumerate(zip(records, answers)):
        tests_N[row] = judged_N[row] and plain(record["answer"]) == plain(answer)
    open_rows = [
        row
        for row, record in enumerate(records)
        if takes_algebra(record) and answers[row] and not tests_N[row]
    ]
    verdicts = checker.equal([(records[row]["answer"], answers[row]) for row in open_rows])
    for row, verdict in zip(open_rows, verdicts):
        tests_N[row], judged_N[row] = verdict is True, verdict is not None
    parts = {"format": format_N, "tests": tests_N}
    return Grades(reward.total(parts, OWN), tests_N == 1, parts, judged_N)


def final_answer(text: str) -> str:
    r"""What the last \boxed{} holds, braces balanced, else the letter of the last "answer": "C".

    "" where there is neither.
    """
    boxed = answer_tags.last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    letters = re.findall(r'"?answer"?\s*(?::|is)\s*"?([A-Z])\b', text)
    return letters[-1] if letters else ""


def plain(answer: str) -> str:
    """An answer without dollar signs around it and spaces."""
    return answer.strip().strip("$").replace(" ", "")
