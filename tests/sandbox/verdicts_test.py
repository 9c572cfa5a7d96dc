"""Verdicts on programs with mistakes are those of plain CPython, which runs the tests in one
process with the program."""

import os
import random
import re

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


def passed_in_cpython(source, tests):
    """What passes where program and tests share a process, as a number for a bit each."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        scope, bits = {}, 0
        try:
            exec(source, scope)
            for place, test in enumerate(tests):
                try:
                    exec(test, dict(scope))
                    bits |= 1 << place
                except Exception:
                    pass
        except Exception:
            pass
        finally:
            os.write(write, bits.to_bytes(8, "big"))
            os._exit(0)
    os.close(write)
    bits = int.from_bytes(os.read(read, 8), "big")
    os.close(read)
    os.waitpid(pid, 0)
    return tuple(bool(bits >> place & 1) for place in range(len(tests)))


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
    for program, verdict in zip(programs, verdicts):
        right = passed_in_cpython(*program)
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
