"""Task "coding": write a Python program that passes the tests.

A record is a dict with "question" (str), "tests" (list of assert statements), "solution" (the
program, "" where unknown) and "spec" (of generated problems, see problems.py; else ""). Records are
generated or the user's own; answers are graded alike.
"""

import functools
from typing import Any

from gdsd_jax import rows
from gdsd_jax.sandbox import open_sandbox
from gdsd_jax.tasks.coding import answers, dataset, grading
from gdsd_jax.tasks.task import Record, Task, TaskSettings, read_files

FIELDS = (
    rows.Field("question", "non-empty text", "give the task in words"),
    rows.Field("test_cases", "texts", "give assert statements as strings"),
    rows.Field("solution", "text", "give the program's text or leave it out", default=""),
)
INSTRUCTION = (
    "You are a careful Python programmer. Think as long as you need, then finish with one complete "
    "program in a single ```python code block. Put nothing after that block, and no other code "
    "block before it."
)


def make(settings: TaskSettings) -> Task:
    """The task, with its sandbox open until `Task.close`.

    The generated problems and their tokenizer are built under `settings.data_dir` only where they
    are needed: without a data_file, or for a model from nothing. Generated problems are always
    asked bare. The user's own are asked in full, unless `settings.prompt` says otherwise or the
    model comes from nothing and has learnt from bare questions.

    Raises:
      ValueError: a file, row or column that cannot be read, or a remote data_dir; one line.
      SandboxError: no sandbox works here.
    """
    rows.check_columns(settings.columns, FIELDS)
    generated = settings.own_problems
    tokenizer = None
    if generated or settings.from_nothing:
        dataset.build(settings.data_dir)
        tokenizer = str(dataset.folder(settings.data_dir))
    if generated:
        train, heldout = (dataset.records(settings.data_dir, name) for name in ("train", "heldout"))
        prompt = "bare"
    else:
        train, heldout = read_files(settings, read, rows.required(FIELDS))
        prompt = settings.prompt or ("bare" if settings.from_nothing else "full")

    def answer(record: Record, seed: str | None) -> str:
        if seed is None:
            return answers.completion(record)
        return answers.noisy_completion(record, seed, settings.noise)

    # Last: what fails before leaves no worker behind.
    sandbox = open_sandbox(settings.sandbox.mode, limits=settings.sandbox.limits)
    return Task(
        train,
        heldout,
        bare_messages if prompt == "bare" else full_messages,
        functools.partial(grading.grade, sandbox=sandbox),
        answer,
        score="tests",
        read=read,
        tokenizer=tokenizer,
        close=sandbox.close,
    )


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none."""
    found = rows.check(row, "", FIELDS)
    for number, test in enumerate(found["test_cases"]):
        tree = grading.parse(test)
        if tree is None or not tree.body:
            raise ValueError(
                f"test_cases[{number}] is not a Python statement: give asserts as strings"
            )
    return {
        "question": found["question"],
        "tests": found["test_cases"],
        "solution": found["solution"],
        "spec": "",
    }


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The question alone."""
    return [{"role": "user", "content": record["question"]}]


def full_messages(record: Record) -> list[dict[str, str]]:
    """A system turn that says how to answer, and the question with its first test.

    A question with a code block shows an example already, so no test is added to it.
    """
    question = record["question"]
    if "```" not in question:
        question += f"\n\nThe program must pass tests like this one:\n{record['tests'][0]}"
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}]
