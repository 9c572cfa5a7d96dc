r"""Task "gsm8k": word problems of arithmetic, whose answer is a number (arXiv 2110.14168).

Records as in `problems.py`. Rows of `row_schema` are read, whose "answer" is the number, or as in
the public JSONL the steps, then "#### 72"; and without a file what tensorflow-datasets has prepared
below `data_dir`.
"""

from pathlib import Path
import re
from typing import Any

from gdsd_jax import paths, row_schema, rows
from gdsd_jax.tasks.mathematics import grading, problems, values
from gdsd_jax.tasks.mathematics.problems import OPTIONS
from gdsd_jax.tasks.task import Record, Task, TaskSettings

__all__ = ["OPTIONS", "make", "read"]

LARGEST = 10**15  # of an answer: larger ones are no exact floats, which the released rule compares
ANSWER = rows.Field("answer", "text or number", "give the steps and then #### and the number")
BUILDER = "gsm8k"
_STEP = re.compile(r"<<[^<>]*>>")  # a step for a calculator, not for readers


def make(settings: TaskSettings) -> Task:
    """The task, as `problems.make` builds it.

    Raises:
      ValueError: as there, or neither a file nor prepared records.
    """
    known = None
    if settings.own_problems:
        known = prepared(settings.data_dir)
    return problems.make(KIND, settings, known)


def prepared(data_dir: str) -> tuple[list[Record], list[Record]]:
    """(training records, test records) of tensorflow-datasets' builder.

    Raises:
      ValueError: it has not been prepared there, or not as array_record.
    """
    folder = Path(data_dir) / BUILDER
    if paths.is_remote(data_dir) or next(folder.rglob("dataset_info.json"), None) is None:
        raise ValueError(
            "add data_file=FILE.jsonl: one JSON object a line with question and answer; or run "
            f"`tfds build gsm8k --file_format=array_record --data_dir={data_dir}`"
        )
    from gdsd_jax.tasks import array_records  # slow to import, and needed only here

    train, test = (
        [read(row) for row in array_records.read(folder, split)] for split in ("train", "test")
    )
    return train, test


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    Besides question and answer, the rows of diffu-GRPO's generation files are read, where
    "ground_truth" is the number.
    """
    if isinstance(row, dict) and "ground_truth" in row and "answer" not in row:
        row = {"question": row.get("question"), "answer": row["ground_truth"]}
    found = row_schema.read(row, ("domain", "solution"))
    given = rows.check(row, "", [ANSWER])["answer"]
    steps, hashes, final = given.partition("####")
    final = (final if hashes else steps).strip()
    number = values.number_of(final)
    if number is None or abs(number.value) >= LARGEST:
        raise ValueError(f"answer={final!r:.60} is not a number: {ANSWER.mend}")
    solution = found.solution or (given if hashes else "")
    return {"question": found.question, "answer": final, "solution": solution, **found.kept}


def worked(solution: str) -> str:
    """The steps of a solution, without what is for a calculator and without the last line."""
    return _STEP.sub("", solution.partition("####")[0])


# What GDSD trains on (gsm8k_xml) and what diffu-GRPO's evaluation asks, in other words. The former
# takes a bare number in the tags for an answer, the latter looks for a box.
KIND = problems.Kind(
    columns=row_schema.FIELDS,
    wanted=" with question or messages, and answer",
    read=read,
    released={
        "training": problems.FORM.format("...", "..."),
        "evaluation": (
            "You are an expert in mathematics and get a question to solve. Solve it step by step. "
            "Put the final answer in a \\boxed{}.\n"
        )
        + problems.FORM.format("Your steps", "\\boxed{...}"),
    },
    boxed=("evaluation",),
    worked=worked,
    rule=grading.GSM8K,
)
