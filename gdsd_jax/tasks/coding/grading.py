"""Reward of a completion that should end in a Python program: format and tests.

Source: specs/gdsd.md section 8, row `code`.
"""

import ast
from collections.abc import Sequence
import re
import warnings

import numpy as np

from gdsd_jax.sandbox.pool import Program, Sandbox

_BLOCK = re.compile(r"```python[ \t]*\r?\n(.*?)```", re.DOTALL)


def extract_code(text: str) -> str | None:
    """The content of the last closed ```python block, None if there is none."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else None


def format_reward(text: str) -> float:
    """0.0 without a python block, 0.5 if it does not parse, 1.0 if it does."""
    source = extract_code(text)
    if source is None:
        return 0.0
    return 1.0 if _parses(source) else 0.5


def score_code(
    texts: Sequence[str], tests: Sequence[Sequence[str]], sandbox: Sandbox
) -> dict[str, np.ndarray]:
    """Scores N completions; equal programs with equal tests run once.

    Args:
      texts: N completions.
      tests: per completion its assert statements, at least one.
      sandbox: where the programs run.

    Returns: float32 [N] arrays, "format" (0, 0.5 or 1) and "tests" (share of tests
    passed, 0 to 1; 0 unless the format is 1). The task's reward is their sum.

    Raises: ValueError for unequal lengths, or a row without tests; SandboxError.
    """
    if len(texts) != len(tests):
        raise ValueError(f"{len(texts)} completions but {len(tests)} lists of tests")
    for row, row_tests in enumerate(tests):
        if isinstance(row_tests, str) or len(row_tests) == 0:
            raise ValueError(f"row {row}: tests should be a list of at least one assert statement")
    format_N = np.array([format_reward(text) for text in texts], np.float32)
    tests_N = np.zeros(len(texts), np.float32)
    programs = {
        row: Program(extract_code(texts[row]), tuple(tests[row]))
        for row in np.flatnonzero(format_N == 1.0)
    }
    distinct = list(dict.fromkeys(programs.values()))
    verdicts = dict(zip(distinct, sandbox.run(distinct)))
    for row, program in programs.items():
        tests_N[row] = np.mean(verdicts[program].passed)
    return {"format": format_N, "tests": tests_N}


def _parses(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubtful escapes are the program's affair
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # ValueError: null bytes; the others: nested beyond the parser
    return True
