"""Held-out problems: answered and graded in a run, and the evaluations of record."""

from gdsd_jax.evaluation.answers import (
    SAMPLED,
    Answers,
    Request,
    Table,
    answer,
    evaluate,
    from_json,
    greedy_and_sampled,
    key_of,
    line_of,
    named,
    problems_asked,
    question_of,
    summary,
    to_json,
)
from gdsd_jax.evaluation.between import Heldout, Taught, heldout, taught

__all__ = [
    "SAMPLED",
    "Answers",
    "Heldout",
    "Request",
    "Table",
    "Taught",
    "answer",
    "evaluate",
    "from_json",
    "greedy_and_sampled",
    "heldout",
    "key_of",
    "line_of",
    "named",
    "problems_asked",
    "question_of",
    "summary",
    "taught",
    "to_json",
]
