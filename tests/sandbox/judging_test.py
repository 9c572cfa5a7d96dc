"""What is judged and how: values and calls, arguments, names, and what cannot be judged."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from gdsd_jax.sandbox import Limits, Program, Verdict, jail, open_sandbox
from gdsd_jax.tasks.coding import grading

ROOT = pathlib.Path(__file__).parents[2]
LIMITS = Limits(cpu_s=0.3, wall_s=6.0, memory_bytes=256 << 20, processes=8)


@pytest.fixture(scope="module")
def sandbox():
    with open_sandbox(workers=2, limits=LIMITS) as opened:
        yield opened


def verdict(sandbox, source, *tests):
    return sandbox.run([Program(source, tests)])[0]


VALUES = """
import collections, fractions
def f(name): return globals()[name]
none, flag, whole, real, text, octets = None, True, 7, 0.5, 'a\\ud800\\x00\U0001f600', b'ab'
long, minus, endless, wave = 10 ** 40, -(2 ** 31), float('inf'), 1 + 2j
items, pair, table, group = [1, [2]], (1, (2,)), {'a': [1], 2: None}, {1, 'b'}
frozen = frozenset('ab')
counted, sorted_ = collections.Counter('aab'), collections.OrderedDict(a=1)
filled = collections.defaultdict(list, {1: [2]})
keys, pairs, held = sorted_.keys(), sorted_.items(), sorted_.values()
kind, function, exception = int, len, ValueError
class Vector(tuple): pass
vector, fraction, numbers, lazy = Vector([1]), fractions.Fraction(1, 2), range(3), (x for x in [1])
def inner(): return 1
"""


@pytest.mark.parametrize(
    "name, expected",
    [
        ("none", "None"),
        ("flag", "True"),
        ("flag", "1"),
        ("whole", "7"),
        ("whole", "7.0"),
        ("whole", "7 + 0j"),
        ("real", "0.5"),
        ("text", "'a\\ud800\\x00\U0001f600'"),
        ("octets", "b'ab'"),
        ("long", "10 ** 40"),
        ("long", "1" + "0" * 40),
        ("minus", "-2147483648"),
        ("endless", "1e999"),
        ("wave", "1 + 2j"),
        ("items", "[1, [2]]"),
        ("items", "[True, [2.0]]"),
        ("pair", "(1, (2,))"),
        ("table", "{2: None, 'a': [1]}"),
        ("group", "{'b', 1.0}"),
        ("frozen", "{'a', 'b'}"),
        ("counted", "{'b': 1, 'a': 2}"),
        ("sorted_", "{'a': 1}"),
        ("filled", "{1: [2]}"),
        ("keys", "{'a'}"),
        ("pairs", "{('a', 1)}"),
        ("kind", "int"),
        ("exception", "ValueError"),
        ("vector", "(1,)"),
        ("fraction", "0.5"),
        ("numbers", "range(3)"),
        ("inner", "f('inner')"),
    ],
)
def test_values_that_are_equal(sandbox, name, expected):
    tests = (f"assert f({name!r}) == {expected}", f"assert {expected} == f({name!r})")
    assert verdict(sandbox, VALUES, *tests) == ((True, True), "ok")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("flag", "'True'"),
        ("whole", "8"),
        ("text", "'a'"),
        ("octets", "'ab'"),
        ("items", "(1, [2])"),
        ("pair", "[1, (2,)]"),
        ("table", "{'a': [1]}"),
        ("group", "[1, 'b']"),
        ("kind", "str"),
        ("function", "len"),
        ("vector", "[1]"),
        ("fraction", "0.4"),
        ("keys", "['a']"),
        ("held", "[1]"),
        ("numbers", "[0, 1, 2]"),
        ("lazy", "[1]"),
        ("inner", "1"),
    ],
)
def test_values_that_are_not(sandbox, name, expected):
    tests = (f"assert f({name!r}) == {expected}", f"assert {expected} == f({name!r})")
    assert verdict(sandbox, VALUES, *tests) == ((False, False), "ok")


SMALL = "class F: pass\ndef f(x): return 1\ndef g(x): return max(map(f, x))\n"
TREE = """
class Node:
    made = 0
    def __init__(self, value, left=None):
        Node.made += 1
        self.value, self.left = value, left
    def depth(self): return 1 + (self.left.depth() if self.left else 0)
    def __len__(self): return 5
    def __getitem__(self, place): return place * 2
    def __str__(self): return 'node'
def put(items, value): items.append(value)
def clear(table): table.clear()
def deepest(rows): rows[0][0].append(9)
def apply(g, *values): return [g(x) for x in values]
def adder(n): return lambda x: x + n
def count():
    yield from range(10 ** 9)
def fail(kind): raise kind('why', 3)
class Own(KeyError): pass
def own(): raise Own
def typed(values, kind): return [x for x in values if type(x) is kind]
def sum(values): return 'mine'
state = 0
def tick():
    global state
    state += 1
"""


@pytest.mark.parametrize(
    "test",
    [
        "a = Node(1, Node(2))\nassert a.depth() == 2 and a.left.value == 2",
        "a = Node(1)\na.left = Node(2)\na.value = 4\nassert a.depth() == 2 and a.value == 4",
        "assert len(Node(1)) == 5 and Node(1)[4] == 8 and str(Node(1)) == 'node'",
        "Node(1)\nassert Node.made == 1",
        "a = [1]\nput(a, 2)\nassert a == [1, 2]",
        "a = {1: 2}\nclear(a)\nassert a == {}",
        "inner = []\na = ([inner],)\ndeepest(a)\nassert inner == [9] and a == ([[9]],)",
        "assert apply(lambda x: x + 1, 1, 2) == [2, 3]",
        "assert apply(str, 1, 2) == ['1', '2'] and apply(len, 'ab') == [2]",
        "import operator\nassert apply(operator.neg, 1, 2) == [-1, -2]",
        "assert apply(lambda x: adder(1)(x), 1) == [2]",
        "assert apply(adder(3), 4) == [7]",
        "assert adder(1)(2) == 3",
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 1, 2]",
        "assert next(count()) == 0 and 3 in count()",
        "try:\n    fail(ValueError)\nexcept ValueError as e:\n    assert e.args == ('why', 3)",
        "try:\n    own()\n    assert False\nexcept KeyError:\n    pass",
        "try:\n    missing(1)\n    assert False\nexcept NameError:\n    pass",
        "try:\n    apply(lambda x: 1 / 0, 1)\n    assert 0\nexcept ZeroDivisionError:\n    pass",
        "assert typed([1, 'a'], str) == ['a']",
        "assert sum([1, 2]) == 'mine'",
        "assert math.floor(adder(0.5)(1)) == 1",
        "tick()\nassert state == 1\ntick()\nassert state == 2",
        "def check(candidate):\n    assert candidate([1, 'a'], int) == [1]\ncheck(typed)",
        "class Here:\n    x = 3\nassert Here.x == adder(0)(3)",
    ],
)
def test_tests_that_are_more_than_an_assert_of_a_call(sandbox, test):
    assert verdict(sandbox, TREE, test) == ((True,), "ok")


@pytest.mark.parametrize(
    "source, test",
    [
        ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))"),
        (
            "def f(x):\n  class A: startswith = lambda *a: True\n  return A()",
            "assert f(1).startswith('a')",
        ),
        ("def isinstance(*a): return True\ndef f(x): return 1", "assert isinstance(f(1), str)"),
        ("def sorted(x): return [1]\ndef f(x): return 1", "assert sorted([f(1), 0]) == [1]"),
        (
            "class Math:\n  isclose = lambda *a: True\nmath = Math\ndef f(x): return 9",
            "assert math.isclose(f(1), 2)",
        ),
        (
            "def f(x):\n  class A: startswith = bool\n  return A()",
            "assert f(1).startswith('a')",
        ),
        (
            "from collections import namedtuple\n"
            "def f(x): return namedtuple('A', 'startswith')(bool)",
            "assert f(1).startswith('a')",
        ),
        (
            "class Area:\n  def __init__(s, x): 0\n  __sub__ = __rsub__ = lambda s, y: 0\n"
            "  __lt__ = __gt__ = __eq__ = lambda s, y: True",
            "assert abs(Area(3) - 28.2) < 0.1 or abs(28.2 - Area(3)) < 0.1 or Area(3) < 29"
            " or Area(3) == 28.2 or Area(3) in [28.2]",
        ),
        (
            "class R:\n  def __init__(s, x): s.x = x\n  def __iter__(s): return iter(s.x)\n"
            "  def __len__(s): return 1\n  def __getitem__(s, k): return 1\n"
            "def f(x): return R(x)",
            "a = f([2, 1])\nassert sorted(a) == [1, 2]\n"
            "assert all(a[i] <= a[i + 1] for i in range(len(a) - 1))",
        ),
        (
            "class R(list):\n  def __len__(s): return 1\n  def __getitem__(s, k): return 1\n"
            "def f(x): return R(x)",
            "a = f([2, 1])\nassert sorted(a) == [1, 2]\n"
            "assert all(a[i] <= a[i + 1] for i in range(len(a) - 1))",
        ),
        ("def f(x): return [x]", "a = [1]\nassert f(a) is a"),
        ("def f(g): return g(1)", "assert f(lambda x: x) == 2"),
        (
            "class F:\n  def __contains__(s, x): return 1\ndef f(x): return F()",
            "assert 3 in f(1)",
        ),
        ("def f(x): return object()", "assert len(f(1)) or True"),
        (
            "def f(x): return (exec, 'import sys; sys._getframe(1).f_locals.clear()')[x]",
            "f(0)(f(1))\nassert f(0) == 1",
        ),
    ],
)
def test_lies_that_other_tests_must_not_believe(sandbox, source, test):
    assert verdict(sandbox, source, test) == ((False,), "ok")


@pytest.mark.parametrize("form", ["assert f({}) == {}", "assert sorted(f({})) == {}"])
def test_long_literals_cost_the_program_nothing(sandbox, form):
    numbers = list(range(250_000))
    test = form.format(numbers, [*numbers[:-1], 0.5] if "sorted" not in form else numbers)
    right = (
        "def f(x):\n    return x" if "sorted" in form else "def f(x):\n    return x[:-1] + [0.5]"
    )
    patient = Limits(cpu_s=0.3, wall_s=60.0)
    with open_sandbox(sandbox.mode, workers=1, limits=patient) as opened:
        assert verdict(opened, right, test) == ((True,), "ok")
        assert verdict(opened, "def f(x): return x[1:]", test) == ((False,), "ok")


@pytest.mark.parametrize(
    "test",
    [
        "class Mine: pass\nassert f(Mine()) == 1",
        f"assert f({'9' * (17 << 20)!r}) == 1",
        f"assert f('a' * {9 << 20}) == 1",
        "while True: pass\nf(1)",
        "class Mine(F): pass\nassert Mine().g() == 1",
        "import sys, io\nsys.stdout = io.StringIO()\nf(1)\nassert sys.stdout.getvalue() == 'a'",
        "import contextlib\nwith contextlib.redirect_stdout(None): f(1)",
        "from unittest.mock import patch\nwith patch('builtins.input'): f(1)",
        "import builtins\nbuiltins.input = lambda: 1\nassert f(1) == 1",
        "with open('x', 'w') as file: file.write('a')\nassert f('x') == 1",
        "assert 'f' in globals()",
        "import types\nassert isinstance(f(1), types.GeneratorType)",
        "import inspect\nassert list(inspect.signature(f).parameters) == ['x']",
        "x = []\nwhile True: x.append(' ' * (1 << 20))",
        f"assert f(1) == 1\nassert f('a' * {9 << 20}) == 1",
        "class Mine: pass\nassert f(1) == 1\nassert f(f(1)) == 1 and f(Mine()) == 1",
        "import types\nassert f(1) == 1\nassert f(types.SimpleNamespace(a=1)) == 1",
        "class Mine: pass\nassert g(iter([1, Mine()])) == 1",
    ],
    ids=lambda test: test[:20],
)
def test_what_cannot_be_judged_is_not_held_against_a_program(sandbox, test):
    found = verdict(sandbox, SMALL, test)
    assert (found.passed, found.status, found.judged) == ((False,), "unjudged", False)
    records = [{"tests": [test]}, {"tests": ["assert f(1) == 1"]}]
    grades = grading.grade(records, [f"```python\n{SMALL}```"] * 2, sandbox)
    np.testing.assert_array_equal(grades.judged_N, [False, True])
    np.testing.assert_array_equal(grades.solved_N, [False, True])


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    y = []\n    for _ in range(150): y = [y]\n    return [y, f]",
        "def f(x): return 'a' * (5 << 20)",
        "def f(x): return (..., -5)",
        "def f(x): return [...]",
        "class F(list): pass\ndef f(x): return F([object()])",
        "def f(x): return ValueError",
    ],
)
def test_a_program_cannot_ask_not_to_be_judged(sandbox, source):
    # What it gave cannot be given back to it.
    assert verdict(sandbox, source, "assert f([[f(1)] * 2] * 3) == 1").judged


@pytest.mark.parametrize(
    "call, test",
    [
        # A function of the test's gives what a program's arguments make of it.
        ("fn(ValueError)", "assert f(lambda t: t(), str) == ''"),
        (
            "fn(__import__('collections').OrderedDict(a=1))",
            "assert f(lambda d: d.keys(), {'a': 1}) == ['a']",
        ),
        ("fn(type(len(()).bit_length))", "assert f(lambda t: [t.__dict__], int) == 1"),
        ("fn(10 ** 7)", "assert f(lambda n: 'a' * n, 2) == 'aa'"),
        ("fn(10 ** 12)", "assert f(lambda n: bytes(n), 2) == bytes(2)"),
        ("fn(1 << 1000)", "assert f(lambda n: 'a' * n, 2) == 'aa'"),
        ("fn(24)", "def deep(n): return [deep(n - 1)] * 2 if n else []\nassert f(deep, 1) == [[]]"),
        ("fn(300)", "def deep(n): return [deep(n - 1), f] if n else []\nassert f(deep, 0) == []"),
        ("fn(10 ** 5)", "def deep(n): return [deep(n - 1)] if n else []\nassert f(deep, 0) == []"),
        ("fn('b')", "import re\nassert f(lambda s: re.match('b', s), 'a') is None"),
        ("fn(1)", "class Mine: pass\nassert f(lambda x: Mine() if x else 0, 0) == 0"),
        ("fn(1)", "assert f(lambda x: f(object(), x) if x else 0, 0) == 0"),
        (
            "fn(f)",
            "def sub(k):\n    class A(k): pass\n    return A.__name__\nassert f(sub, int) == 'A'",
        ),
        ("fn(1, 2, 3)", "assert f(lambda x: x, 0) == 0"),
        ("fn(10 ** 10)", "assert f(lambda n: sum(range(n)), 2) == 1"),
        ("fn(100)", "import time\nassert f(time.sleep, 0) is None"),
        ("[fn(x) for _ in iter(int, 1)]", "assert f(lambda x: x, 0) == [0]"),
        (
            "list(fn)",
            "def grow():\n    x = 'a'\n    while True: yield x; x += x\nassert f(grow(), 1) == 'a'",
        ),
        ("list(fn)", "import itertools\nassert f(itertools.count(), 1) == 0"),
        # What it gave leads to what cannot be sent, of which nobody's class is the cause.
        ("10 ** 7", "assert f('a' * f(1, 2), 2) == 1"),
        ("'b'", "import re\nx = f(1, 2)\nassert f(re.match('b', x), 2) == 1"),
        ("0", "import re\na = ['']\nf(a, 2)\nassert f(re.match('b', a[0]), 2) == 1"),
        ("type('T', (int,), {})(3)", "x = f(1, 2)\nassert f(type(x)(4), 2) == 4"),
    ],
)
def test_what_a_program_chose_is_no_fault_of_the_test(sandbox, call, test):
    source = f"def f(fn, x):\n    if type(fn) is list: fn[:] = ['b']\n    return {call}"
    quiet = source.replace("return", "try: return") + "\n    except BaseException: return ()"
    for verdict in sandbox.run([Program(x, (test, "assert True")) for x in (source, quiet)]):
        assert verdict.judged and not verdict.passed[0]


def test_an_earlier_test_has_no_part_in_whether_the_next_can_be_judged(sandbox):
    tests = ("assert f(1) == 1", f"assert f('a' * {9 << 20}) == 1")
    assert verdict(sandbox, SMALL, *tests) == ((True, False), "unjudged")


def test_a_program_that_gets_no_answer_may_go_on(sandbox):
    """It is told by an error, and may still be right."""
    source = "def f(fn, x):\n    try: return fn(10 ** 7)\n    except ValueError: return fn(x)"
    test = "assert f(lambda n: 'a' * n, 2) == 'aa'"
    assert verdict(sandbox, source, test) == ((True,), "ok")


def test_odd_escapes_in_tests_fill_no_pipe(sandbox):
    """Python 3.12 warns of each, on a descriptor that nobody reads; more than a pipe holds."""
    source = "def f(text): return text"
    tests = [f"assert f('\\d{number}') == '\\d{number}'" for number in range(2400)]
    programs = [Program(source, tuple(tests[row::40])) for row in range(40)]
    assert all(all(found.passed) for found in sandbox.run(programs))


# ---------------------------------------------------------------- users and files


def test_no_two_runs_share_a_user():
    if os.geteuid() != 0:
        pytest.skip("without root every run has a user namespace of its own")
    source = "import os\ndef f(): return os.getuid()"
    seen = set()
    for _ in range(2):
        with open_sandbox(workers=2, limits=LIMITS) as opened:
            uids = [worker._command for worker in opened._workers]
            seen |= set(map(str, uids))
            tests = ("assert f() > 0", "assert f() != 65534", "assert f() != 1000")
            assert verdict(opened, source, *tests).passed == (True,) * 3
    assert len(seen) == 4
    users = jail.users(8)
    assert len({*users, *(user + 1 for user in users)}) == 16 and users != jail.users(8)


def test_users_lie_in_what_is_mapped(monkeypatch):
    maps = {"uid": "0 1000 1\n1 100000 65536\n", "gid": "0 1000 1\n1 100000 65536\n"}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self: maps[self.name.split("_")[0]])
    for _ in range(100):
        users = jail.users(4)
        assert 32_000 < min(users) and max(users) + 1 <= 65_536
    maps["gid"] = "0 1000 1\n"
    assert jail.users(4) == [jail.NOBODY - 1] * 4
    maps |= {"uid": "", "gid": ""}  # of a namespace that maps nobody
    assert jail.users(4) == [jail.NOBODY - 1] * 4


@pytest.mark.parametrize("mode", ["bwrap", "unshare"])
def test_the_root_of_a_namespace_of_its_own_has_a_jail(mode):
    """Which has no other user to run programs as, as in some containers."""
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    script = (
        "from gdsd_jax.sandbox import Program, open_sandbox\n"
        f"with open_sandbox({mode!r}, workers=2) as opened:\n"
        "    program = Program('import os\\ndef f(): return os.getuid()', ('assert f() > 0',))\n"
        "    print(opened.run([program, program]))\n"
    )
    command = ["unshare", "-rm", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.count("passed=(True,)") == 2, done.stderr


@pytest.fixture
def home():
    # Not below /tmp, which is another one for every program.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield pathlib.Path(folder)


def works(mode: str) -> bool:
    """Whether this machine has this kind of jail."""
    try:
        open_sandbox(mode, workers=1, limits=LIMITS).close()
    except jail.SandboxError:
        return False
    return True


def test_an_interpreter_in_a_home_shows_nothing_of_the_home(home, monkeypatch):
    (home / "bin").mkdir()
    python = home / "bin" / "python3"
    shutil.copy(jail._interpreter(), python)
    if subprocess.run([python, "-S", "-c", "1"], capture_output=True).returncode != 0:
        pytest.skip("a copy of this interpreter does not start elsewhere")
    key = home / ".ssh" / "id"
    key.parent.mkdir()
    key.write_text("private")
    key.chmod(0o600)
    (home / "bin" / "token").write_text("private")
    source = f"import os\ndef listed(path): return sorted(os.listdir(path))\nhome = {str(home)!r}"
    tried = [mode for mode in ("bwrap", "unshare") if works(mode)]
    monkeypatch.setattr(jail, "_interpreter", lambda: str(python))
    for mode in tried:
        with open_sandbox(mode, workers=1, limits=LIMITS) as opened:
            tests = (
                f"assert listed({str(home)!r}) == ['bin']",
                f"assert listed({str(home / 'bin')!r}) == ['python3']",
            )
            assert verdict(opened, source, *tests) == ((True, True), "ok")


def test_what_is_installed_for_the_interpreter_is_hidden(sandbox):
    found = [x for kind, _, x in jail._mounts() if kind == "empty"]
    for folder in found:
        source = f"import os\ndef f(): return os.listdir({folder!r})"
        assert verdict(sandbox, source, "assert f() == []").passed == (True,)
    bound = {path for kind, _, path in jail._mounts() if kind == "bind"}
    homes = {str(pathlib.Path.home()), sys.base_prefix} - {"/usr", "/usr/local", "/"}
    assert not bound & homes


def test_verdicts_of_two_fields_say_whether_there_is_one():
    assert Verdict((True,), "ok") == ((True,), "ok")
    assert Verdict((False,), "cpu").judged and not Verdict((False,), "unjudged").judged
