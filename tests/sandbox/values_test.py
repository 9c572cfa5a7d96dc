"""The closed format: what goes in comes out, and bytes that may be anything do no harm."""

import collections
import datetime
import decimal
import fractions
import importlib
import marshal
import math
import pathlib
import random
import sys
import time
import tracemalloc

import pytest

from gdsd_jax.sandbox import pool, values


@pytest.fixture(scope="module")
def judge():
    """The judge as the jail imports it, with its neighbours beside it."""
    sys.path.insert(0, str(pathlib.Path(pool.__file__).parent))
    try:
        yield importlib.import_module("judge")
    finally:
        del sys.path[0]


# Of types of the standard library, some equal to numbers.
FORMED = (
    lambda rng: fractions.Fraction(rng.randrange(-4, 5), 2),
    lambda rng: decimal.Decimal(rng.choice(("1", "-0.50", "1E+2", "Infinity"))),
    lambda rng: datetime.datetime(2020, 1, rng.randrange(1, 3), tzinfo=rng.choice(ZONES)),
    lambda rng: datetime.timedelta(rng.randrange(2), microseconds=rng.randrange(2)),
    lambda rng: datetime.date(2020, 1, rng.randrange(1, 3)),
    lambda rng: range(rng.randrange(3)),
)
ZONES = (None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=1)))
FILLED = (
    collections.deque,
    lambda items: collections.Counter(map(str, items)),
    lambda items: collections.OrderedDict(enumerate(items)),
    lambda items: collections.defaultdict(list, enumerate(items)),
)


def draw(rng, depth=3, hashable=False, formed=False):
    """A random value; small numbers, so that many are equal to others."""
    if formed and rng.random() < 0.3:
        if hashable or depth == 0 or rng.random() < 0.5:
            return rng.choice(FORMED)(rng)
        return rng.choice(FILLED)([draw(rng, depth - 1, formed=True) for _ in range(3)])
    scalars = (
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randrange(-2, 3),
        lambda: float(rng.randrange(-2, 3)),
        lambda: rng.choice((0.1, -0.0, math.inf, math.nan, 1e300)),
        lambda: rng.choice((1 << 31, -(1 << 40), 10**50)),
        lambda: complex(rng.randrange(2), rng.randrange(2)),
        lambda: rng.choice(("", "a", "b", "\ud800", "\0é\U0001f600")),
        lambda: rng.choice((b"", b"a", b"\xff")),
    )
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(scalars)()
    frozen = rng.choice((tuple, frozenset))
    kind = frozen if hashable else rng.choice((list, tuple, set, frozenset, dict))
    inner = hashable or kind in (set, frozenset)
    items = [draw(rng, depth - 1, inner, formed) for _ in range(rng.choice((0, 1, 2, 3, 12)))]
    if kind is dict:
        return {draw(rng, depth - 1, True, formed): item for item in items}
    return kind(items)


def refuse(thing):
    raise AssertionError(f"{thing!r} is of no other kind")


def exactly(value):
    """A text of a value and of all its types, the same for sets in any order."""
    kind = type(value)
    if isinstance(value, dict):
        return f"{kind.__name__}{sorted((exactly(k), exactly(x)) for k, x in value.items())}"
    if kind in (set, frozenset):
        return f"{kind.__name__}{sorted(map(exactly, value))}"
    if kind in (list, tuple, collections.deque):
        return f"{kind.__name__}{[exactly(x) for x in value]}"
    return f"{kind.__name__} {value!r}"


def test_values_come_back_as_they_were():
    rng = random.Random(0)
    for _ in range(3000):
        value = draw(rng)
        assert exactly(values.decode(values.encode(value, refuse), refuse)) == exactly(value)
        value = draw(rng, formed=True)
        data = values.encode(value, refuse)
        assert exactly(values.decode(data, values.held)) == exactly(value)
        assert exactly(values.marked(marshal.loads(data), values.held)) == exactly(value)
    rows = [list(range(-5, 500)), [0.5] * 100, tuple(range(20)), {*range(50)}, [*range(9), None]]
    for value in rows:
        assert exactly(values.decode(values.encode(value, refuse), refuse)) == exactly(value)


def test_other_kinds_are_marks():
    class Mine(int):
        pass

    class Wrong(KeyError):
        pass

    things = [object(), (x for x in ()), Mine, len, lambda: 0, Mine(3), Wrong, float, range(3)]
    lent = []

    def lend(thing):
        lent.append(thing)
        return len(lent) - 1

    data = values.encode([[things], {1: KeyError}], lend)
    marks = values.decode(data, lambda mark: f"mark {mark}")
    expected = [f"mark {k}" for k in range(5)]
    expected += ["mark (5, 3)", "mark (6, 'Wrong', 'mark KeyError')", "mark float"]
    expected += ["mark ('range', (0, 3, 1))"]
    assert marks == [[expected], {1: "mark KeyError"}]
    assert values.marked(marshal.loads(data), lambda mark: f"mark {mark}") == marks


def test_too_much_is_refused():
    deep = []
    for _ in range(values.MOST_DEPTH + 1):
        deep = [deep]
    circle = []
    circle.append(circle)
    for value in (circle, bytes(values.MOST_BYTES), [deep, object()]):
        with pytest.raises(ValueError):
            values.encode(value, lambda thing: 0)
    with pytest.raises(values.Garbled):
        values.decode(marshal.dumps([deep], 2), refuse)


def bytes_of_dict(keys):
    """A dict of these keys and None in the format, without making one."""
    return b"{" + b"".join(marshal.dumps(key, 2) + b"N" for key in keys) + b"0"


def test_keys_that_are_made_to_collide_are_refused_in_time():
    """Equal hashes, and hashes that walk one chain of places in the table of a dict: hours."""
    places, place = [], 1
    for _ in range(30_000):
        places.append(place)
        place = (5 * place + 1) % (1 << 19)
    walking = places + [places[0] + (k << 19) for k in range(1, 30_000)]
    for keys in (walking, [k * (2**61 - 1) for k in range(1, 20_000)]):
        began = time.thread_time()
        with pytest.raises(values.Garbled, match="collide"):
            values.decode(bytes_of_dict(keys), refuse)
        assert time.thread_time() - began < 5
    for keys in (
        range(200_000),
        [(x, str(x)) for x in range(20_000)],
        [2**70 * x for x in range(9999)],
    ):
        assert values.decode(bytes_of_dict(keys), refuse) == dict.fromkeys(keys)
        assert values.decode(marshal.dumps(set(keys), 2), refuse) == set(keys)


def test_rows_of_any_length_leave_nothing_behind():
    """The struct module keeps what it makes of a form: a form a length took a gigabyte."""
    rows = [marshal.dumps(list(range(count)), 2) for count in range(50_000, 50_020)]
    assert values.decode(rows[0], refuse) == list(range(50_000))
    tracemalloc.start()
    for row in rows:
        values.decode(row, refuse)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2e6


def mutate(rng, data):
    """Some bytes changed, put in, left out or exchanged with a piece from elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        end = at + rng.randrange(8)
        piece = bytes(rng.choice(b"NFT.ilgysu[({<>0\0\xff\1\2") for _ in range(rng.randrange(6)))
        data[at:end] = rng.choice((piece, bytes(data[:8]), rng.randbytes(5)))
    return bytes(data)


def check_garbled(judge, count, seed):
    """Decoding is a value of the format or Garbled, and equality is Python's, at once."""
    rng, slowest = random.Random(seed), 0.0
    for _ in range(count):
        expected = draw(rng)
        given = rng.choice((expected, draw(rng), draw(rng, formed=True)))
        data = mutate(rng, values.encode(given, refuse))
        begin = time.perf_counter()
        same = judge.equal(data, values.encode(expected, refuse))
        try:
            value = judge.values.decode(data, judge.value_of)
        except judge.values.Garbled:
            assert not same or data == values.encode(expected, refuse)
            continue
        slowest = max(slowest, time.perf_counter() - begin)
        # A NaN equals nothing, which bytes do not know; no test can expect one by a literal.
        assert same == bool(value == expected) or "nan" in repr(expected)
    assert slowest < 5


def test_garbled_bytes_give_no_wrong_verdict(judge):
    check_garbled(judge, 5000, 0)


@pytest.mark.long
def test_many_garbled_bytes_give_no_wrong_verdict(judge):
    check_garbled(judge, 100_000, 1)


def test_equality_is_that_of_python(judge):
    rng, equal = random.Random(2), 0
    for _ in range(20_000):
        a, b = draw(rng, 2, formed=rng.random() < 0.5), draw(rng, 2)
        if "nan" in repr((a, b)):
            continue
        same = judge.equal(values.encode(a, refuse), values.encode(b, refuse))
        assert same == (a == b), (a, b)
        equal += same
    assert 200 < equal < 10_000


def test_large_values_are_not_read_in_vain(judge):
    begin = time.perf_counter()
    for _ in range(50):
        assert not judge.equal(values.encode([[]] * 1_000_000, refuse), values.encode([1], refuse))
    assert time.perf_counter() - begin < 20  # reading each takes a second


def test_plans(judge):
    assert judge.plan("assert f(1, [2], x=-3) == {'a': (1, 2.5)}")
    assert len(judge.plan("assert f() == 1\nassert f() == 1, 'why'")) == 2
    for test in (
        "",
        "assert f(1)",
        "assert f(1) != 2",
        "assert f(g(1)) == 2",
        "assert f(*[1]) == 2",
        "assert f(**{}) == 2",
        "assert a.f(1) == 2",
        "assert f(1) == 2 == 2",
        "assert f(1) == x",
        "f(1) == 2",
        "assert f(1) == 2\nx = 3",
        "assert (",
        "assert f('\0') == 1",
        "assert f(" + "(" * 5000 + ")" * 5000 + ") == 1",
        "assert f(1) == " + "-" * 50_000 + "1",
    ):
        assert judge.plan(test) is None
