"""Held-out problems: answered and graded in a run, and the evaluations of record."""

from gdsd_jax.evaluation.answers import (
    Answers,
    Request,
    Table,
    evaluate,
    from_json,
    line_of,
    problems_asked,
    question_of,
    summary,
    to_json,
    told_count,
)
from gdsd_jax.evaluation.between import Heldout, Taught, heldout, taught

__all__ = [
    "Answers",
    "Heldout",
    "Request",
    "Table",
    "Taught",
    "evaluate",
    "from_json",
    "heldout",
    "line_of",
    "problems_asked",
    "question_of",
    "summary",
    "told_count",
    "taught",
    "to_json",
]
