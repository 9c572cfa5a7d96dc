r"""Task "math": problems of competitions, whose answer is a formula (MATH, arXiv 2103.03874).

Records as in `problems.py`. Files are JSONL with "problem", "solution" and "answer", as MATH-500
has them; without an answer it is what the solution's last \boxed{} holds.
"""

from typing import Any

from gdsd_jax import rows
from gdsd_jax.tasks.mathematics import answers, grading, problems
from gdsd_jax.tasks.mathematics.problems import OPTIONS
from gdsd_jax.tasks.task import Task, TaskSettings

__all__ = ["OPTIONS", "make", "read"]

FIELDS = (
    rows.Field("problem", "non-empty text", "give the problem in words"),
    rows.Field("solution", "text", "give the worked solution, or leave it out", default=""),
    rows.Field("answer", "text or number", "give the final answer, or a solution", default=""),
)


def make(settings: TaskSettings) -> Task:
    """The task on the user's files, as `problems.make` builds it.

    Raises:
      ValueError: as there.
    """
    return problems.make(KIND, settings)


def read(row: Any) -> dict[str, str]:
    """The record of a file's row; ValueError, in one line, where it is none.

    Besides problem, solution and answer, the rows of diffu-GRPO's generation files are read, where
    "question" is the problem and "ground_truth" the answer.
    """
    if isinstance(row, dict) and "question" in row and "problem" not in row:
        row = {**row, "problem": row["question"], "answer": row.get("answer")}
        if row["answer"] is None:
            row["answer"] = row.get("ground_truth")
    found = rows.check(row, "", FIELDS)
    final = found["answer"].strip() or answers.of_solution(found["solution"])
    if not final:
        raise ValueError(f"no answer, and none in a \\boxed{{}} of the solution: {FIELDS[2].mend}")
    return {"question": found["problem"], "answer": final, "solution": found["solution"]}


def worked(solution: str) -> str:
    """The steps of a solution, as they are."""
    return solution


# What GDSD trains on (math_xml) and what diffu-GRPO's evaluation asks, in other words.
_EXPERT = "You are an expert in mathematics{}. Solve it step by step. Put the final answer in a "
KIND = problems.Kind(
    fields=FIELDS,
    read=read,
    released={
        "training": problems.FORM.format("...", "...")
        + _EXPERT.format(" and get a problem")
        + "\\boxed{}.\n\n",
        "evaluation": _EXPERT.format(" and get a question to solve")
        + "\\boxed{}.\n"
        + problems.FORM.format("Your steps", "\\boxed{...}"),
    },
    boxed=("training", "evaluation"),
    worked=worked,
    rule=grading.MATH,
)
