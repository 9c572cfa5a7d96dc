"""Mutated answers: none raises or takes long, and each gets what its rule says in other words."""

import ast
import random
import re
import time
import warnings

import pytest

from gdsd_jax.sandbox import Verdict
from gdsd_jax.tasks import RewardConfig
from gdsd_jax.tasks.coding import grading

SEEDS = (
    "```python\ndef f(x):\n    return x + 1\n```",
    "Words first.\n\n```python\ndef f(x):\n    s = '''a\n```\n'''\n    return 'é\\d'\n```\nAfter.",
    "```\nx\n```\n```python\nimport os\n```\n```python\ndef f(x): return {1: [x]}\n```\n",
    "    return x + 1\n\ndef other(y):\n    return y",
    "def f(x):\n    if x:\n        return [x for x in (1, 2)]\n    return 0\n\nprint(f(3))",
    "1. First\n- then `f(x)`:\n\n    def f(x):\n        return x\n",
)
PIECES = (
    *"`\n\r\0\t \\'\"()[]{}:#@=-x1\ud800\u202e\U0001f600",
    "```",
    "```python\n",
    "'''",
    "    ",
)
PIECES += (
    "def f(x):\n",
    "return ",
    "(" * 300,
    "-" * 3000,
    "\n" * 200,
    "lambda x: ",
    "f'{x",
    "\\N{",
)
RECORDS = (
    {"tests": ["assert f(1) == 2"]},
    {"tests": ["assert f(1) == 2"], "form": "program"},
    {
        "tests": ["assert f(1) == 2"],
        "form": "function",
        "entry_point": "f",
        "question": "def f(x):\n    '''Doc.'''\n",
    },
    {"tests": ["assert prints('1\\n', '2\\n')"], "form": "stdin"},
)


class Passing:
    """Passes every program."""

    def run(self, programs, step=lambda: None):
        return [Verdict((True,) * len(program.tests), "ok") for program in programs]


def mutate(rng):
    text = rng.choice(SEEDS)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(text) + 1)
        end = at + rng.choice((0, 0, 1, 3, 20))
        text = text[:at] + rng.choice((rng.choice(PIECES), text[:30], "")) + text[end:]
    return text


def parses(program):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def format_of(variant, text):
    """The format that the words of the two rules ask for."""
    if variant == "released":
        begin = text.find("```python\n")
        end = text.find("```", begin + 3)
        alone = begin == text.find("```") and text[end + 3 :] in ("", "\n")
        if begin < 0 or end < 0 or not alone:
            return 0
        return 1 if parses(text[begin + 10 : end].strip()) else 0.5
    program = last_block(text, r"```python[ \t]*\r?\n", "```")
    if program is not None and not parses(program):  # its fence may stand in a line
        whole = last_block(text, r"(?m)^```python[ \t]*\r?\n", "(?m)^```")
        program = whole if whole and "```" in whole and parses(whole) else program
    return 0 if program is None else 1 if parses(program) else 0.5


def last_block(text, begin, end):
    program, at = None, 0
    while (first := re.compile(begin).search(text, at)) is not None:
        last = re.compile(end).search(text, first.end())
        if last is None:
            break
        program, at = text[first.end() : last.start()], last.end()
    return program


def check(count, seed):
    rng = random.Random(seed)
    texts = [mutate(rng) for _ in range(count)]
    records = [rng.choice(RECORDS) for _ in texts]
    for variant in ("mended", "released"):
        begin = time.perf_counter()
        found = grading.grade(records, texts, Passing(), RewardConfig(variant))
        assert time.perf_counter() - begin < 30 + count / 50
        formats = [format_of(variant, text) for text in texts]
        wrong = [
            (text, right)
            for text, right, given in zip(texts, formats, found.parts["format"])
            if given != right
        ]
        assert not wrong, wrong[:3]
        assert {0, 0.5, 1} == set(formats)
        assert found.judged_N.all()


def test_mutated_completions():
    check(3000, 0)


@pytest.mark.long
def test_many_mutated_completions():
    check(100_000, 1)
