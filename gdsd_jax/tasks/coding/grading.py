"""Grades answers that should hold a Python program: their form, and the tests that it passes.

N answers. Work is linear in the length of a text, whatever it holds.
"""

import ast
from collections.abc import Iterator, Sequence
import functools
from pathlib import Path
import re

import numpy as np

from gdsd_jax.progress import phase
from gdsd_jax.sandbox import Program, Sandbox
from gdsd_jax.tasks.coding.extraction import DEFINITIONS, FENCE, find_program, parse
from gdsd_jax.tasks.coding.harness import evenly
from gdsd_jax.tasks.coding.layouts import asked_of
from gdsd_jax.tasks.task import Grades, Record, RewardConfig

MENDED = RewardConfig()
OWN = {"format": 1.0, "tests": 1.0}  # weights of the parts, of both rules

_BLOCKS = 4  # looked at, from the last
_BLOCK = re.compile(r"```python[ \t]*\r?\n\ufeff?(.*?)```", re.DOTALL)
# fences that stand further in, of documentation, do not end it
_OUTER_BLOCK = re.compile(r"^```python[ \t]*\r?\n\ufeff?(.*?)^```", re.DOTALL | re.MULTILINE)


def grade(
    records: Sequence[Record],
    texts: Sequence[str],
    sandbox: Sandbox,
    reward: RewardConfig = MENDED,
) -> Grades:
    """Parts "format" (0, 0.5 or 1) and "tests" (share of tests passed); their sum is the reward.

    Mended: the format is 0 without a closed python block, 0.5 where the last one does not parse,
    else 1, and then the tests run, of the last block that defines what they call, else of the last
    one. In answers to HumanEval and MBPP (`layouts`) the program is
    found as evaluators do, and runs whatever the format is.

    Released: the format is 0 unless the text holds no other fence than those of one python block,
    with which it ends; tests run where the format is 1, of all layouts alike.

    Equal programs with equal tests run once. Texts may hold anything. A row is not judged where
    its tests could not be (the sandbox's README says which).

    Args:
      records: of each answer; "tests" holds its statements, at least one.
      texts: N answers.
      sandbox: where the programs run.
      reward: which rule, and the weights of its parts.

    Raises:
      ValueError: unequal lengths, or a record without tests.
      SandboxError: the sandbox broke.
    """
    _check(records, texts)
    read = _released if reward.variant == "released" else _mended
    found = [read(record, text) for record, text in zip(records, texts)]
    format_N = np.array([format for format, _ in found], np.float32)
    tests_N = np.zeros(len(texts), np.float32)
    programs = {
        row: runnable(records[row], source)
        for row, (_, source) in enumerate(found)
        if source is not None
    }
    distinct = list(dict.fromkeys(programs.values()))
    verdicts = {}
    if distinct:
        with phase("running programs", len(distinct)) as step:
            verdicts = dict(zip(distinct, sandbox.run(distinct, step)))
    judged_N = np.ones(len(texts), bool)
    for row, program in programs.items():
        tests_N[row] = np.mean(verdicts[program].passed)
        judged_N[row] = verdicts[program].judged
    parts = {"format": format_N, "tests": tests_N}
    return Grades(reward.total(parts, OWN), judged_N & (tests_N == 1), parts, judged_N)


def _check(records: Sequence[Record], texts: Sequence[str]) -> None:
    if len(texts) != len(records):
        raise ValueError(f"{len(texts)} completions but {len(records)} records: give as many")
    for row, record in enumerate(records):
        if isinstance(record["tests"], str) or len(record["tests"]) == 0:
            raise ValueError(f"row {row}: tests should be a list of at least one assert statement")


def runnable(record: Record, source: str) -> Program:
    """What the sandbox runs to judge a program."""
    tests = tuple(record["tests"])
    if record.get("form") == "stdin":
        source = f"{_harness()}\nPROGRAM = {source!r}\n"
        tests = tuple(_assert_printed(test) for test in tests)
    return Program(source, tests)


def _assert_printed(test: str) -> str:
    """`assert prints(given, expected)` as an assert of what the harness gives: expected lines stay
    with the judge."""
    given, expected = (ast.literal_eval(x) for x in ast.parse(test).body[0].test.args)
    return f"assert printed({given!r}) == {evenly(expected)!r}"


@functools.cache
def _harness() -> str:
    return Path(__file__).with_name("harness.py").read_text()


# ---------------------------------------------------------------- mended


def _mended(record: Record, text: str) -> tuple[float, str | None]:
    """(format, the program to run or None)."""
    format = format_reward(text)
    if record.get("form") in ("function", "program"):
        return format, find_program(text, asked_of(record))
    return format, _asked_block(record, text) if format == 1.0 else None


def _asked_block(record: Record, text: str) -> str | None:
    """The last closed python block that defines a name that the first test calls, since a block
    with examples may follow it; else the last block."""
    called = {node.func.id for node in _walk(record["tests"][0]) if _is_call_of_name(node)}
    for block in reversed(_BLOCK.findall(text)[-_BLOCKS:]):
        if called & {node.name for node in _walk(block) if isinstance(node, DEFINITIONS)}:
            return block
    return extract_code(text)


def _walk(source: str) -> Iterator[ast.AST]:
    """The nodes of a Python text, none of any other."""
    tree = parse(source)
    return iter(()) if tree is None else ast.walk(tree)


def _is_call_of_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def extract_code(text: str) -> str | None:
    """The content of the last closed ```python block, None if there is none.

    A fence inside of a line of a program that does not parse without it is part of the program.
    """
    blocks = _BLOCK.findall(text)
    outer = _OUTER_BLOCK.findall(text) if blocks and parse(blocks[-1]) is None else ()
    if outer and FENCE in outer[-1] and parse(outer[-1]) is not None:
        return outer[-1]
    return blocks[-1] if blocks else None


def format_reward(text: str) -> float:
    """0.0 without a python block, 0.5 if it does not parse, 1.0 if it does."""
    source = extract_code(text)
    if source is None:
        return 0.0
    return 0.5 if parse(source) is None else 1.0


# ---------------------------------------------------------------- released


def _released(record: Record, text: str) -> tuple[float, str | None]:
    """(format, the program to run or None); the record plays no part."""
    source = strict_code(text)
    if source is None:
        return 0.0, None
    if parse(source.strip()) is None:
        return 0.5, None
    return 1.0, source


def strict_code(text: str) -> str | None:
    """The program of a text that is words and then one python block; None for any other text.

    Behind "```python" and before the end of the text only a line's end is allowed.
    """
    pieces = text.split(FENCE)
    if len(pieces) != 3 or not pieces[1].startswith("python\n"):
        return None
    return pieces[1].removeprefix("python\n") if pieces[2] in ("", "\n") else None
