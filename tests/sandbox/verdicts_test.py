"""Verdicts on programs with mistakes are those of plain CPython, which runs the tests in one
process with the program."""

import json
import random
import re
import subprocess
import sys

import pytest

from gdsd_jax.sandbox import Limits, Program, open_sandbox
from gdsd_jax.tasks.coding import problems

EDITS = (
    (r"\+", "-"),
    (r"\b1\b", "True"),
    (r"\b2\b", "2.0"),
    (r"\b0\b", "False"),
    (r"\d\b", "3"),
    (r"return (.*)$", r"return [\1]"),
    (r"return (.*)$", r"return (\1,)"),
    (r"return (.*)$", r"return list(\1)"),
    (r"return (.*)$", r"return tuple(\1)"),
    (r"return (.*)$", r"return set(\1)"),
    (r"return (.*)$", r"return str(\1)"),
    (r"return (.*)$", r"return float(\1)"),
    (r"return (.*)$", r"return complex(\1)"),
    (r"return (.*)$", r"return dict(enumerate(\1))"),
    (r"return (.*)$", r"return \1 if x else None"),
    (r"return (.*)$", r"return __import__('fractions').Fraction(\1)"),
    (r"return (.*)$", r"return __import__('decimal').Decimal(\1)"),
    (r"return (.*)$", r"return __import__('collections').deque(\1)"),
    (r"return (.*)$", r"return __import__('collections').Counter(\1)"),
    (r"return (.*)$", r"return __import__('datetime').timedelta(\1)"),
    (r"return (.*)$", r"return range(\1)"),
    (r"return (.*)$", r"return type('Mine', (int,), {})(\1)"),
    (r"return (.*)$", r"return type('Mine', (list,), {'x': 3})(\1)"),
    (r"return (.*)$", r"return type('Mine', (str,), {})(\1)"),
    (r"return (.*)$", r"raise type('Mine', (TypeError,), {})(\1)"),
    (r"return (.*)$", r"x = \1"),
    (r"\bx\b", "y"),
    (r"\]", ""),
    (r"def f\(x\)", "def f(x, y=1)"),
    (r"def f\(x\)", "def g(x)"),
    (r"$", "\nf(3)"),
    (r"$", "\n1 / 0"),
)
# The same tests in other words, which are judged another way.
WORDS = (
    "{test}",
    "value = {call}\nassert value == {expected}",
    "def check(candidate):\n    assert {candidate} == {expected}\ncheck(f)",
    "assert [{call}] == [{expected}] and repr({call}) == repr({expected})",
    "assert type({call}) is type({expected}) and {call} in ({expected},)",
    "try:\n    assert not {call} != {expected}\nexcept TypeError:\n    assert False",
)


def mistaken(rng, problem):
    """A program with zero to three mistakes, of words or of the problem's own kinds."""
    source = problem.solution
    slips = [
        x for chains in problems.mutants(problems.parse(problem.spec)).values() for x in chains
    ]
    if slips and rng.random() < 0.5:
        source = problems.program(rng.choice(slips))
    for _ in range(rng.randrange(3)):
        pattern, text = rng.choice(EDITS)
        source = re.sub(pattern, text, source, count=rng.choice((0, 1)), flags=re.MULTILINE)
    return source


def in_words(rng, test):
    call, expected = test.removeprefix("assert ").split(" == ", 1)
    candidate = "candidate" + call[1:]
    return rng.choice(WORDS).format(test=test, call=call, expected=expected, candidate=candidate)


# A process of its own for each program: this one has threads, which a fork would lose.
CPYTHON = """
import json, os, sys
for source, tests in json.load(sys.stdin):
    read, write = os.pipe()
    if os.fork() == 0:
        scope, passed = {}, [False] * len(tests)
        try:
            exec(source, scope)
            for place, test in enumerate(tests):
                try:
                    exec(test, dict(scope))
                    passed[place] = True
                except Exception:
                    pass
        except Exception:
            pass
        finally:
            os.write(write, json.dumps(passed).encode())
            os._exit(0)
    os.wait()
    print(os.read(read, 1 << 12).decode())
    os.close(read)
    os.close(write)
"""


def passed_in_cpython(programs):
    """What passes where program and tests share a process, for each test of each program."""
    done = subprocess.run(
        [sys.executable, "-c", CPYTHON],
        input=json.dumps(programs),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def check(count, seed):
    rng = random.Random(seed)
    pool = problems.generate()["heldout"]
    programs = []
    for number in range(count):
        problem = rng.choice(pool)
        tests = problem.tests
        if number % 2:
            tests = tuple(in_words(rng, test) for test in tests)
        programs.append(Program(mistaken(rng, problem), tests))
    # Ample limits: here nothing but the values counts.
    with open_sandbox(limits=Limits(cpu_s=5.0, wall_s=100.0)) as opened:
        verdicts = opened.run(programs)
    wrong, kinds = [], set()
    for program, verdict, right in zip(programs, verdicts, passed_in_cpython(programs)):
        kinds.add((any(right), all(right)))
        if verdict.passed != right or not verdict.judged:
            wrong.append((program, verdict, right))
    assert not wrong, wrong[:3]
    assert len(kinds) == 3  # none, some and all of the tests


@pytest.mark.slow
def test_verdicts_are_those_of_cpython():
    check(400, 0)


@pytest.mark.long
def test_many_verdicts_are_those_of_cpython():
    check(20_000, 1)
