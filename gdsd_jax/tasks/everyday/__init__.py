"""Task "everyday": short questions and requests, for distillation without a download.

A record is a dict with "question" and "answers", texts of which a right answer holds one; none
where nobody can say what is right. A user's row may add "messages" and "domain". The training
questions follow from templates and words. The held-out ones stand in heldout.jsonl beside this
file, and none of them is trained on. N answers.
"""

from collections.abc import Sequence
import functools
import json
from pathlib import Path
import random
import re
from typing import Any

import numpy as np

from gdsd_jax import row_schema, rows
from gdsd_jax.tasks.everyday import words
from gdsd_jax.tasks.task import (
    Grades,
    Record,
    RewardConfig,
    Task,
    TaskSettings,
    notes_of,
    read_files,
)

HELDOUT = Path(__file__).with_name("heldout.jsonl")
NUM_SUMS = 240
ANSWERS = rows.Field("answers", "texts", "give texts of which a right answer holds one", default=())
OWN = {"right": 1.0}


def make(settings: TaskSettings) -> Task:
    """The task, on its own questions or the user's.

    Raises:
      ValueError: a file, row or column that cannot be read, or reward.variant=released; one line.
    """
    if settings.reward.variant == "released":
        raise ValueError(
            "reward.variant=released: the task everyday has one rule of its own: leave it out"
        )
    rows.check_columns(settings.columns, (*row_schema.FIELDS, ANSWERS))
    if settings.own_problems:
        heldout = [read(json.loads(line)) for line in HELDOUT.read_text().splitlines()]
        train = generate({record["question"] for record in heldout})
    else:
        train, heldout = read_files(settings, read, " with question or messages")
    grader = functools.partial(grade, reward=settings.reward)
    notes = notes_of(train, heldout)
    return Task(train, heldout, messages, grader, score="right", read=read, notes=notes)


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    Besides the schema's columns "answers" is read, a list of which each one is right.
    """
    found = row_schema.read(row, ("answer", "domain"))
    answers = list(rows.check(row, "", [ANSWERS])["answers"])
    if not all(answer.strip() for answer in answers):
        raise ValueError("an entry of answers is empty, and every text holds it: leave it out")
    if not answers and found.answer.strip():
        answers = [found.answer]
    return {"question": found.question, "answers": answers, **found.kept}


def generate(heldout: set[str]) -> list[dict[str, Any]]:
    """The training records, in an order that is always the same, without held-out questions."""
    questions = [
        template.format(word)
        for templates, subjects in words.TOPICS
        for template in templates
        for word in subjects
    ]
    rng = random.Random("everyday")
    for number in range(NUM_SUMS):
        high, low = sorted((rng.randint(1, 50), rng.randint(1, 20)), reverse=True)
        questions.append(words.SUMS[number % len(words.SUMS)].format(high, low))
    different = [question for question in dict.fromkeys(questions) if question not in heldout]
    rng.shuffle(different)
    return [{"question": question, "answers": []} for question in different]


def messages(record: Record) -> list[dict[str, str]]:
    """The question alone; messages as they stand."""
    return row_schema.asked(record)


def grade(records: Sequence[Record], texts: Sequence[str], reward: RewardConfig) -> Grades:
    """Part "right": whether a text holds one of the record's answers as words, in any case.

    Without answers there is no verdict.
    """
    judged_N = np.array([bool(record["answers"]) for record in records], bool)
    right_N = np.array(
        [
            any(holds(text, answer) for answer in record["answers"])
            for record, text in zip(records, texts)
        ],
        bool,
    )
    parts = {"right": right_N.astype(np.float32)}
    return Grades(reward.total(parts, OWN), right_N, parts, judged_N)


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in a text on its own, in any case: as no part of another word or
    number, nor of twenty-four or -8."""
    unsigned = "(?<!-)" if answer[:1].isdigit() else ""
    before, after = rf"(?<!\w)(?<!\w-)(?<!\d[.,/]){unsigned}", r"(?!\w)(?!-\w)(?![.,/]\d)"
    return re.search(before + re.escape(answer) + after, text, re.IGNORECASE) is not None
