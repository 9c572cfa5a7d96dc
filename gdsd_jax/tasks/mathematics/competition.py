r"""Task "math": problems of competitions, whose answer is a formula (MATH, arXiv 2103.03874).

Records as in `problems.py`. Rows of `row_schema` are read, whose question may be called "problem",
as MATH-500 has it; without an answer it is what the solution's last \boxed{} holds.
"""

from typing import Any

from gdsd_jax import row_schema, rows
from gdsd_jax.tasks.mathematics import answers, grading, problems
from gdsd_jax.tasks.mathematics.problems import OPTIONS
from gdsd_jax.tasks.task import Task, TaskSettings

__all__ = ["OPTIONS", "make", "read"]

PROBLEM = rows.Field("problem", "non-empty text", "give the problem in words")


def make(settings: TaskSettings) -> Task:
    """The task on the user's files, as `problems.make` builds it.

    Raises:
      ValueError: as there.
    """
    return problems.make(KIND, settings)


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    The rows of diffu-GRPO's generation files are read too, where "ground_truth" is the answer.
    """
    if isinstance(row, dict):
        named = {"question": row.get("problem"), "answer": row.get("ground_truth")}
        row = dict(row) | {name: other for name, other in named.items() if row.get(name) is None}
    found = row_schema.read(row, ("answer", "domain", "solution"))
    final = found.answer.strip() or answers.of_solution(found.solution)
    if not final:
        raise ValueError(
            "no answer, and none in a \\boxed{} of the solution: give the final answer, or a "
            "solution"
        )
    record = {"question": found.question, "answer": final, "solution": found.solution}
    return record | found.kept


def worked(solution: str) -> str:
    """The steps of a solution, as they are."""
    return solution


# What GDSD trains on (math_xml) and what diffu-GRPO's evaluation asks, in other words.
_EXPERT = "You are an expert in mathematics{}. Solve it step by step. Put the final answer in a "
KIND = problems.Kind(
    columns=(*row_schema.FIELDS, PROBLEM),
    wanted=" with question or messages, and answer or solution",
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
