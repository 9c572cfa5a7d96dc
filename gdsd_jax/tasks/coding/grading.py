"""Grades answers that should end in a Python program: its form, and the tests it passes.

N answers. The form is 0 without a python block, 0.5 where the block does not parse, else 1.
"""

import ast
from collections.abc import Sequence
import re
import warnings

import numpy as np

from gdsd_jax.sandbox import Program, Sandbox
from gdsd_jax.tasks.task import Grades, Record

_BLOCK = re.compile(r"```python[ \t]*\r?\n(.*?)```", re.DOTALL)


def grade(records: Sequence[Record], texts: Sequence[str], sandbox: Sandbox) -> Grades:
    """Parts "format" (0, 0.5 or 1) and "tests" (share of tests passed, 0 unless the format is 1).

    The reward is the sum of both. Equal programs with equal tests run once.

    Args:
      records: of each answer; "tests" holds its assert statements, at least one.
      texts: N answers.
      sandbox: where the programs run.

    Raises:
      ValueError: unequal lengths, or a record without tests.
      SandboxError: the sandbox broke.
    """
    if len(texts) != len(records):
        raise ValueError(f"{len(texts)} completions but {len(records)} records: give as many")
    for row, record in enumerate(records):
        if isinstance(record["tests"], str) or len(record["tests"]) == 0:
            raise ValueError(f"row {row}: tests should be a list of at least one assert statement")
    format_N = np.array([format_reward(text) for text in texts], np.float32)
    tests_N = np.zeros(len(texts), np.float32)
    programs = {
        row: Program(extract_code(texts[row]), tuple(records[row]["tests"]))
        for row in np.flatnonzero(format_N == 1.0)
    }
    distinct = list(dict.fromkeys(programs.values()))
    verdicts = dict(zip(distinct, sandbox.run(distinct))) if distinct else {}
    for row, program in programs.items():
        tests_N[row] = np.mean(verdicts[program].passed)
    return Grades(format_N + tests_N, tests_N == 1, {"format": format_N, "tests": tests_N})


def extract_code(text: str) -> str | None:
    """The content of the last closed ```python block, None if there is none."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else None


def format_reward(text: str) -> float:
    """0.0 without a python block, 0.5 if it does not parse, 1.0 if it does."""
    source = extract_code(text)
    if source is None:
        return 0.0
    return 0.5 if parse(source) is None else 1.0


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a Python text, None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are allowed
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # ValueError: null bytes; the others: nested beyond the parser
