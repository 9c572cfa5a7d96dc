"""Values between the program's process and the judge, in a closed format of exact builtin types.

Standard library only; it runs inside the jail. The bytes are those of `marshal`, version 2, which
takes None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, each of the
exact type, and refuses everything else. What is of another kind is a mark, a pair with `...`:

- `(..., k)`: a thing that one of the two sides keeps by this number;
- `(..., (k, content))`: such a thing of a class derived from a type above, with what it holds;
- `(..., (k, name, base))`: such a thing that is an exception class;
- `(..., name)`: a type or a builtin exception;
- `(..., (name, parts))`: a value of one of `FORMS`, types of the standard library;
- `(..., (name,))`: what a name of the program stands for;
- `(..., (k, "iterator", None))`: an iterator of the test's.

Only the program's process calls `marshal.loads`, on what the judge sent. What the program's process
sent is read by `decode`, which trusts no byte of it.
"""

import array
import builtins
from collections import Counter, OrderedDict, defaultdict, deque
import dataclasses
import datetime
import decimal
import fractions
import json
import marshal
import operator
import queue
import re
import statistics
import struct
import time
import types

VERSION = 2
MOST_BYTES = 8 << 20  # of one message
MOST_DEPTH = 200  # of lists in lists
# CPU seconds for the tables of dicts and sets, at least and for each byte of a message: ten times
# what honest ones take. Keys that are made to collide would take hours.
LEAST_TABLE_S, TABLE_S_PER_BYTE = 0.05, 2e-7
TABLE_STEP = 32  # items between two looks at the time
MOST_BITS = 1 << 14  # of a fraction's numbers: to shorten it takes quadratic time

EXACT = frozenset(
    (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
)
CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
# How the exact value that an instance of a derived class holds is had, whatever it overrides.
CONTENTS = {
    tuple: tuple,
    list: list,
    dict: lambda value: dict(dict.items(value)),
    set: set,
    frozenset: frozenset,
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes,
}
# Types that have a name on both sides. No functions: the program would choose what the judge calls.
TYPES = {x.__name__: x for x in EXACT if x is not type(None)}
TYPES |= {
    name: x
    for name, x in vars(builtins).items()
    if isinstance(x, type) and issubclass(x, BaseException)
}


def _of(kind, make):
    """Makes a container of exact contents: nothing of a program's is iterated over."""

    def made(content, *rest):
        if type(content) is not kind:
            raise TypeError("no such content")
        return make(content, *rest)

    return made


def _fraction(numerator, denominator):
    if max(numerator.bit_length(), denominator.bit_length()) > MOST_BITS:
        raise ValueError("a long fraction")
    return fractions.Fraction(numerator, denominator)


def _array(code, items):
    if type(items) is not list:
        raise ValueError("no items of an array")
    return array.array(code, items)


_DAY, _CLOCK = ("year", "month", "day"), ("hour", "minute", "second", "microsecond", "tzinfo")
# Types of the standard library: how a value is taken apart, and put together of exactly these
# parts. Both sides have them, so that no code of a program has a part in it.
FORMS = {
    range: (operator.attrgetter("start", "stop", "step"), range),
    deque: (lambda x: (list(x), x.maxlen), _of(list, deque)),
    Counter: (lambda x: (dict(x),), _of(dict, Counter)),
    OrderedDict: (lambda x: (dict(x),), _of(dict, OrderedDict)),
    defaultdict: (
        lambda x: (dict(x), x.default_factory),
        _of(dict, lambda content, factory: defaultdict(factory, content)),
    ),
    type({}.keys()): (lambda x: (dict.fromkeys(x),), _of(dict, dict.keys)),
    type({}.items()): (lambda x: (dict(x),), _of(dict, dict.items)),
    type({}.values()): (lambda x: (list(x),), _of(list, lambda x: dict(enumerate(x)).values())),
    type(OrderedDict().keys()): (
        lambda x: (dict.fromkeys(x),),
        _of(dict, lambda x: OrderedDict(x).keys()),
    ),
    type(OrderedDict().items()): (
        lambda x: (dict(x),),
        _of(dict, lambda x: OrderedDict(x).items()),
    ),
    type(OrderedDict().values()): (
        lambda x: (list(x),),
        _of(list, lambda x: OrderedDict(enumerate(x)).values()),
    ),
    bytearray: (lambda x: (bytes(x),), _of(bytes, bytearray)),
    array.array: (lambda x: (x.typecode, x.tolist()), _array),
    fractions.Fraction: (operator.attrgetter("numerator", "denominator"), _fraction),
    decimal.Decimal: (lambda x: (str(x),), decimal.Decimal),
    datetime.date: (operator.attrgetter(*_DAY), datetime.date),
    datetime.time: (operator.attrgetter(*_CLOCK), datetime.time),
    datetime.datetime: (operator.attrgetter(*_DAY, *_CLOCK), datetime.datetime),
    datetime.timedelta: (
        operator.attrgetter("days", "seconds", "microseconds"),
        datetime.timedelta,
    ),
    datetime.timezone: (lambda x: (x.utcoffset(None),), datetime.timezone),
}
_MAKERS = {kind.__name__: make for kind, (_, make) in FORMS.items()}
_ERRORS = (json.JSONDecodeError, decimal.InvalidOperation, dataclasses.FrozenInstanceError)
_ERRORS += (queue.Empty, queue.Full, re.error, statistics.StatisticsError)
TYPES |= {kind.__name__: kind for kind in (*FORMS, *_ERRORS)}
NAMES = {id(x): name for name, x in TYPES.items()}


class Garbled(ValueError):
    """Bytes that are no value of the format."""


def encode(value, lend):
    """The bytes of a value; `lend(thing) -> number` is told of every thing of another kind.

    Raises:
      ValueError: nested too deep, or too large.
    """
    try:
        refuse_buffers(value)
        data = marshal.dumps(value, VERSION)
    except ValueError:
        data = marshal.dumps(plain(value, lend, MOST_DEPTH), VERSION)
    if len(data) > MOST_BYTES:
        raise ValueError(f"a value of {len(data)} bytes")
    return data


def refuse_buffers(value, depth=3):
    """ValueError for what `marshal` would take for bytes, or for code."""
    if type(value) in (bytearray, memoryview, array.array, types.CodeType):
        raise ValueError("no exact value")
    if type(value) is tuple and len(value) <= 8 and depth:
        for x in value:
            refuse_buffers(x, depth - 1)


def plain(value, lend, depth):
    """The value with a mark in place of every thing of another kind."""
    kind = type(value)
    if depth == 0:
        raise ValueError("a value nested too deep")
    if kind is dict:
        pairs = value.items()
        return {plain(k, lend, depth - 1): plain(x, lend, depth - 1) for k, x in pairs}
    if kind in CONTAINERS:
        return kind([plain(x, lend, depth - 1) for x in value])
    if kind in EXACT:
        return value
    if kind in FORMS:
        parts = FORMS[kind][0](value)
        return (..., (kind.__name__, plain(parts, lend, depth - 1)))
    name = NAMES.get(id(value))
    if name is not None:
        return (..., name)
    mark = lend(value)
    if type(mark) is int and isinstance(value, type) and issubclass(value, BaseException):
        return (..., (mark, value.__name__, plain(value.__base__, lend, depth - 1)))
    base = next((x for x in kind.__mro__ if x in CONTENTS), None)
    if type(mark) is int and base is not None and kind.__eq__ is base.__eq__:
        return (..., (mark, plain(CONTENTS[base](value), lend, depth - 1)))
    return (..., mark)


def marked(value, thing_of):
    """The value of the judge's message with the things in place of their marks."""
    kind = type(value)
    if kind is tuple and len(value) == 2 and value[0] is ...:
        return thing_of(marked(value[1], thing_of))
    if kind is dict:
        return {marked(k, thing_of): marked(x, thing_of) for k, x in value.items()}
    if kind in CONTAINERS:
        return kind([marked(x, thing_of) for x in value])
    return value


def formed(name, parts):
    """A value of one of `FORMS`; Garbled where these are no parts of it."""
    try:
        if type(parts) is not tuple:
            raise TypeError("no parts")
        return _MAKERS[name](*parts)
    except Exception as error:
        raise Garbled(str(error)) from None


def held(mark):
    """What a mark of a form or with a content stands for without its thing, else None."""
    if type(mark) is tuple and len(mark) == 2:
        return formed(*mark) if type(mark[0]) is str else mark[1]
    return None


def decode(data, thing_of):
    """The value of bytes that may be anything; `thing_of(mark)` gives what a mark stands for.

    Takes time and memory in proportion to the bytes.

    Raises:
      Garbled: they are no value of the format.
    """
    reader = _Reader(data, thing_of)
    try:
        value = reader.value(MOST_DEPTH)
    except (struct.error, IndexError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise Garbled(str(error)) from None
    if reader.at != len(data):
        raise Garbled("bytes behind the value")
    return value


class _Reader:
    """A place in the bytes, and a method for each type code."""

    def __init__(self, data, thing_of):
        self.data, self.at, self.thing_of = data, 0, thing_of
        self.table_s = LEAST_TABLE_S + TABLE_S_PER_BYTE * len(data)  # what is left of them

    def value(self, depth):
        if depth < 0:
            raise Garbled("nested too deep")
        code = self.data[self.at]
        self.at += 1
        read = self.CODES.get(code)
        if read is None:
            raise Garbled(f"no type code {code}")
        return read(self, depth)

    def take(self, count):
        begin, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise Garbled("the bytes end early")
        return self.data[begin : self.at]

    def count(self):
        """How many bytes or items follow, each item at least one byte."""
        (count,) = struct.unpack("<i", self.take(4))
        if not 0 <= count <= len(self.data) - self.at:
            raise Garbled("a count beyond the end")
        return count

    def long(self, depth):
        """Digits of 15 bits, lowest first; their number has the sign."""
        (count,) = struct.unpack("<i", self.take(4))
        digits = [x for (x,) in struct.iter_unpack("<H", self.take(2 * abs(count)))]
        if max(digits, default=0) >> 15:
            raise Garbled("a digit beyond 15 bits")
        bits = "".join([f"{digit:015b}" for digit in reversed(digits)])
        return int(bits or "0", 2) * (-1 if count < 0 else 1)

    def number(self, form, size):
        return struct.unpack(form, self.take(size))

    def items(self, depth):
        """The items of a sequence; rows of numbers are read at once."""
        count = self.count()
        for code, form, size in ((b"i", "<xi", 5), (b"g", "<xd", 9)):
            end = self.at + count * size
            if count > 8 and self.data[self.at : end : size] == code * count:
                # one form for every count: the module keeps what it has made of each
                return [x for (x,) in struct.iter_unpack(form, self.take(count * size))]
        return [self.value(depth - 1) for _ in range(count)]

    def read_tuple(self, depth):
        items = self.items(depth)
        if len(items) == 2 and items[0] is ...:
            return self.thing_of(items[1])
        return tuple(items)

    def read_dict(self, depth):
        pairs = []
        while self.data[self.at] != ord("0"):
            pairs.append((self.value(depth - 1), self.value(depth - 1)))
        self.at += 1
        return self.table(dict, pairs)

    def read_set(self, depth):
        return self.table(set, self.items(depth))

    def table(self, kind, items):
        """A dict or set of the items; Garbled where they are made to collide."""
        if len(items) <= TABLE_STEP:  # too few for much time
            return kind(items)
        made, began = kind(), time.thread_time()
        for first in range(0, len(items), TABLE_STEP):
            made.update(items[first : first + TABLE_STEP])
            if time.thread_time() - began > self.table_s:
                raise Garbled("items made to collide")
        self.table_s -= time.thread_time() - began
        return made

    CODES = {
        ord("N"): lambda self, depth: None,
        ord("F"): lambda self, depth: False,
        ord("T"): lambda self, depth: True,
        ord("."): lambda self, depth: ...,
        ord("S"): lambda self, depth: StopIteration,
        ord("i"): lambda self, depth: self.number("<i", 4)[0],
        ord("l"): long,
        ord("g"): lambda self, depth: self.number("<d", 8)[0],
        ord("y"): lambda self, depth: complex(*self.number("<dd", 16)),
        ord("s"): lambda self, depth: bytes(self.take(self.count())),
        ord("u"): lambda self, depth: str(self.take(self.count()), "utf-8", "surrogatepass"),
        ord("["): items,
        ord("("): read_tuple,
        ord("{"): read_dict,
        ord("<"): read_set,
        ord(">"): lambda self, depth: frozenset(self.read_set(depth)),
    }
