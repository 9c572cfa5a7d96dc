"""No attack is paid, none ends the trainer, and the sandbox is as able afterwards as before."""

import functools

import pytest

from gdsd_jax.sandbox import Limits, Program, SandboxError, open_sandbox
from tests.sandbox import attacks, hooks, pretences

ATTACKS = attacks.ATTACKS | pretences.PRETENCES | hooks.HOOKS

LIMITS = Limits(cpu_s=0.3, wall_s=3.0, memory_bytes=256 << 20, processes=8, output_bytes=10_000)
# No wrong value passes any of these; as words they are what published tests are made of.
TESTS = {
    "plain": ("assert f(3) == 4", "assert f(x=3) == 4\nassert f(4) == 5"),
    "code": (
        "assert f(3) == 4 and f(4) == 5",
        "for x in (3, 4):\n    assert f(x) == x + 1",
        "def check(candidate):\n    assert candidate(3) == 4\ncheck(f)",
        "assert abs(f(3) - 4) < 1e-6",
        "import math\nassert math.isclose(f(3), 4)",
        "assert math.isclose(f(3), 4.0)",
        "assert isinstance(f(3), int) and f(3) == 4",
        "assert type(f(3)) is int and not f(3) != 4",
        "assert f(3) in (4, 4.0)",
        "assert set([f(3)]) == {4}",
        "assert sorted([f(4), f(3)]) == [4, 5]",
        "assert str(f(3)) == '4'",
        "assert f(3) < 5 and f(3) > 3",
        "assert list(map(f, [3, 4])) == [4, 5]",
        "values = [f(3), f(4)]\nassert all(a == b for a, b in zip(values, [4, 5], strict=True))",
        "assert {f(3): 1} == {4: 1}",
        "assert 4 == f(3) == 4",
    ),
    "operators": (
        "assert not f(3) - 4 and not 4 - f(3)",
        "assert f(3) ^ 4 == 0 and f(3) // 4 == 1 and divmod(f(3), 4) == (1, 0)",
        "assert f(3) in {4} and f(3) in [4] and {4: True}[f(3)]",
        "assert [f(3)].index(4) == 0 and [f(3)].count(4) == 1",
        "assert max(f(3), 4) == 4 == min(f(3), 4)",
        "assert int(f(3)) == 4 and float(f(3)) == 4.0 and round(f(3)) == 4",
        "assert [0, 1, 2, 3, True][f(3)] is True and 'abcde'[f(3)] == 'e'",
        "assert f(3).bit_length() == 3 and f(3).real == 4",
        "import operator\nassert operator.eq(f(3), 4)",
        "assert pow(f(3), 1) == 4 and sum([f(3)]) == 4",
        "match f(3):\n    case 4: pass\n    case _: raise AssertionError",
        "assert next(x for x in range(10) if x == f(3)) == 4",
        "import unittest\nunittest.TestCase().assertEqual(f(3), 4)",
        "import unittest\nunittest.TestCase().assertAlmostEqual(f(3), 4)",
        "y = f(3)\nassert (y == 4) is True and repr(y) == '4' and y > 3",
        "assert f(f(3)) == 5",
    ),
}
GOOD = Program("def f(x): return x + 1", ("assert f(3) == 4", "assert abs(f(3) - 4) < 1"))


@functools.cache
def why_not(mode):
    try:
        open_sandbox(mode, workers=1).close()
    except SandboxError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", params=["bwrap", "unshare"])
def sandbox(request):
    if why_not(request.param):
        pytest.skip(why_not(request.param))
    with open_sandbox(request.param, workers=2, limits=LIMITS) as opened:
        yield opened


def test_there_are_many_attacks():
    assert len(ATTACKS) >= 100


def test_the_tests_pass_a_right_program(sandbox):
    for tests in TESTS.values():
        (verdict,) = sandbox.run([Program(GOOD.source, tests)])
        assert verdict == ((True,) * len(tests), "ok")


@pytest.mark.slow
@pytest.mark.parametrize("kind", TESTS)
def test_no_attack_is_paid(sandbox, kind):
    before = {id(worker): worker._process.pid for worker in sandbox._workers if worker._process}
    programs = [Program(source, TESTS[kind]) for source in ATTACKS.values()]
    mixed = [x for program in programs for x in (program, GOOD)]
    verdicts = sandbox.run(mixed)
    paid = {n: v for n, v in zip(ATTACKS, verdicts[::2]) if any(v.passed) or not v.judged}
    assert not paid
    assert set(verdicts[1::2]) == {((True, True), "ok")}  # nobody else is harmed
    after = {id(worker): worker._process.pid for worker in sandbox._workers if worker._process}
    assert before.items() <= after.items()  # no worker was lost
