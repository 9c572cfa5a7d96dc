r"""Task "prompts": the user's own prompts, each of a domain, perhaps with a final answer.

A record is a dict with "question", "domain" and "answer" (the final answer as text, "" where
unknown), and where the row has them "messages" and "solution". Distillation needs no answers;
evaluation compares what \boxed{} holds with them. N answers.
"""

from collections.abc import Sequence
import functools
import re
import types
from typing import Any

import numpy as np

from gdsd_jax import row_schema, rows
from gdsd_jax.tasks import answer_tags
from gdsd_jax.tasks.mathematics import verdicts
from gdsd_jax.tasks.mathematics.checker import Checker, check_installed
from gdsd_jax.tasks.task import (
    Grades,
    Record,
    RewardConfig,
    Task,
    TaskSettings,
    notes_of,
    read_files,
    solution_of,
)

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
NO_DOMAIN = "chat"  # of rows that say none
MENDED = RewardConfig()
OWN = {"format": 1.0, "tests": 1.0}  # weights of the parts
# "answer": "C", and as it is written without JSON: **Answer:** (C)
_CHOICE = re.compile(
    r"""(?i:answer)[\s"'*_]*(?::|\bis\b)[\s"'*_:($]*(?:\\text\s*\{\s*)?"""
    r"(?:(?i:option|choice)\s+\(?)?(?!I['\s]+[a-z])"  # "answer is I guess" names none
    r"([A-Z])(?![A-Za-z0-9_])"
)


def make(settings: TaskSettings) -> Task:
    """The task on the user's files; it builds nothing and runs no program.

    Solutions are those of the rows, where all for training have one.

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
    rows.check_columns(settings.columns, row_schema.FIELDS)
    train, heldout = read_files(settings, read, " with question or messages")
    # which records will be graded is not known yet where there are none
    if settings.only_grades or any(map(takes_algebra, (*train, *(heldout or ())))):
        check_installed()
    ask = messages if settings.prompt != "bare" else bare_messages
    checker, answer = Checker(), functools.partial(solution_of, noise=settings.noise)
    return Task(
        train,
        heldout,
        ask,
        functools.partial(grade, checker=checker, reward=settings.reward),
        answer if train and all("solution" in record for record in train) else None,
        score="tests",
        read=read,
        close=checker.close,
        notes=(*notes_of(train, heldout), *domain_notes(train, heldout)),
    )


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none."""
    found = row_schema.read(row, ("answer", "domain", "solution"))
    # of no words or signs: else a text without an answer would be right
    answer = found.answer if plain(found.answer) else ""
    record = {"question": found.question, "domain": NO_DOMAIN, "answer": answer} | found.kept
    return record | {"solution": found.solution} if found.solution.strip() else record


def domain_notes(*parts: Sequence[Record] | None) -> tuple[str, ...]:
    """A line for the user where a domain adds nothing because it is none that we know."""
    records = [record for part in parts for record in part or () if "messages" not in record]
    unknown = [one["domain"] for one in records if one["domain"] not in DOMAINS]
    if not unknown:
        return ()
    names = ", ".join(f"{name:.20}" for name in list(dict.fromkeys(unknown))[:5])
    return (
        f"{len(unknown)} of {len(records)} questions are asked as they stand: their domain "
        f"({names}) is none of {', '.join(DOMAINS)}",
    )


def messages(record: Record) -> list[dict[str, str]]:
    """The question and what its domain adds to it, no system turn; messages as they stand."""
    if "messages" in record:
        return record["messages"]
    added = DOMAINS.get(record["domain"], "")
    return [{"role": "user", "content": record["question"] + added}]


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The question alone; messages as they stand."""
    return row_schema.asked(record)


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

    Answers are compared character for character, those that are a choice by their letter, and of
    the domain "math" by `Checker.equal` too, where they do not copy a formula of the question.
    Rows without an answer are not judged, nor is one whose comparison was lost twice. The reward is
    the sum of both parts, times their weights in `reward`.
    """
    answers = [final_answer(text, record["answer"]) for record, text in zip(records, texts)]
    format_N = np.array([answer != "" for answer in answers], np.float32)
    tests_N = np.zeros(len(texts), np.float32)
    judged_N = np.array([record["answer"] != "" for record in records], bool)
    for row, (record, answer) in enumerate(zip(records, answers)):
        tests_N[row] = judged_N[row] and is_same(record["answer"], answer)
    open_rows = [
        row
        for row, record in enumerate(records)
        if takes_algebra(record) and answers[row] and not tests_N[row]
    ]
    pairs = [(records[row]["answer"], answers[row]) for row in open_rows]
    for row, pair, verdict in zip(open_rows, pairs, checker.equal(pairs)):
        is_copied = verdict is True and verdicts.is_copied(records[row].get("question", ""), *pair)
        tests_N[row], judged_N[row] = verdict is True and not is_copied, verdict is not None
    parts = {"format": format_N, "tests": tests_N}
    return Grades(reward.total(parts, OWN), tests_N == 1, parts, judged_N)


def final_answer(text: str, gold: str = "") -> str:
    r"""What the last \boxed{} holds, braces balanced, else the letter of the last "answer": "C",
    which also goes before a box without a letter where the gold answer is a choice.

    "" where there is neither.
    """
    boxed, letters = answer_tags.last_boxed(text), _CHOICE.findall(text)
    is_aside = letters and choice_of(gold) is not None
    if boxed is not None and not (is_aside and choice_of(boxed) is None):
        return boxed.strip()
    return letters[-1] if letters else ""


def is_same(gold: str, answer: str) -> bool:
    """Whether two answers are the same text, or the same choice: (C) is C."""
    choice = choice_of(gold)
    is_choice = choice is not None and choice == choice_of(answer)
    return is_choice or plain(gold) == plain(answer)


def choice_of(answer: str) -> str | None:
    """The letter that an answer names, as `verdicts.choice_of`; None where it is no choice."""
    return verdicts.choice_of(answer.strip(" $"))


def plain(answer: str) -> str:
    """An answer without dollar signs around it and spaces, but for those between digits."""
    answer = re.sub(" +", " ", answer.strip().strip("$"))
    return re.sub("(?<![0-9]) | (?![0-9])", "", answer)
