"""Values between the program's process and the judge, in a closed format of exact builtin types.

Standard library only; it runs inside the jail. The bytes are those of `marshal`, version 2, which
takes None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, each of the
exact type, and refuses everything else. What is of another kind is a mark: `(..., k)` with a number
is a thing that one of the two sides keeps, `(..., name)` one of these types or an exception.

Only the program's process calls `marshal.loads`, on what the judge sent. What the program's process
sent is read by `decode`, which trusts no byte of it.
"""

import builtins
import collections
import marshal
import struct

VERSION = 2
MOST_BYTES = 8 << 20  # of one message
MOST_DEPTH = 200  # of lists in lists
MOST_EQUAL_HASHES = 32  # of a set's items; honest ones have two at most (-1 and -2)

EXACT = frozenset(
    (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
)
CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
# Dicts of the standard library that programs return in place of a dict.
DICTS = (dict, collections.Counter, collections.defaultdict, collections.OrderedDict)
# Types that have a name on both sides. No functions: the program would choose what the judge calls.
TYPES = {x.__name__: x for x in EXACT if x is not type(None)}
TYPES |= {
    name: x
    for name, x in vars(builtins).items()
    if isinstance(x, type) and issubclass(x, BaseException)
}
NAMES = {id(x): name for name, x in TYPES.items()}


class Garbled(ValueError):
    """Bytes that are no value of the format."""


def encode(value, lend):
    """The bytes of a value; `lend(thing) -> number` is told of every thing of another kind.

    Raises:
      ValueError: nested too deep, or too large.
    """
    try:
        data = marshal.dumps(value, VERSION)
    except ValueError:
        data = marshal.dumps(plain(value, lend, MOST_DEPTH), VERSION)
    if len(data) > MOST_BYTES:
        raise ValueError(f"a value of {len(data)} bytes")
    return data


def plain(value, lend, depth):
    """The value with a mark in place of every thing of another kind."""
    kind = type(value)
    if depth == 0:
        raise ValueError("a value nested too deep")
    if kind in DICTS:
        pairs = dict.items(value)
        return {plain(k, lend, depth - 1): plain(x, lend, depth - 1) for k, x in pairs}
    if kind in CONTAINERS:
        return kind([plain(x, lend, depth - 1) for x in value])
    if kind in EXACT:
        return value
    name = NAMES.get(id(value))
    return (..., lend(value) if name is None else name)


def marked(value, thing_of):
    """The value of the judge's message with the things in place of their marks."""
    kind = type(value)
    if kind is tuple and len(value) == 2 and value[0] is ...:
        return thing_of(value[1])
    if kind is dict:
        return {marked(k, thing_of): marked(x, thing_of) for k, x in value.items()}
    if kind in CONTAINERS:
        return kind([marked(x, thing_of) for x in value])
    return value


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
        digits = struct.unpack(f"<{abs(count)}H", self.take(2 * abs(count)))
        if max(digits, default=0) >> 15:
            raise Garbled("a digit beyond 15 bits")
        bits = "".join([f"{digit:015b}" for digit in reversed(digits)])
        return int(bits or "0", 2) * (-1 if count < 0 else 1)

    def number(self, form, size):
        return struct.unpack(form, self.take(size))

    def items(self, depth):
        """The items of a sequence; rows of numbers are read at once."""
        count = self.count()
        for code, form, size in ((b"i", "xi", 5), (b"g", "xd", 9)):
            end = self.at + count * size
            if count > 8 and self.data[self.at : end : size] == code * count:
                return list(struct.unpack("<" + form * count, self.take(count * size)))
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
        _check_hashes([key for key, _ in pairs])
        return dict(pairs)

    def read_set(self, depth, kind=set):
        items = self.items(depth)
        _check_hashes(items)
        return kind(items)

    CODES = {
        ord("N"): lambda self, depth: None,
        ord("F"): lambda self, depth: False,
        ord("T"): lambda self, depth: True,
        ord("."): lambda self, depth: ...,
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
        ord(">"): lambda self, depth: self.read_set(depth, frozenset),
    }


def _check_hashes(items):
    """Garbled where so many items collide that a table of them takes quadratic time."""
    hashes = sorted(map(hash, items))
    for place in range(len(hashes) - MOST_EQUAL_HASHES):
        if hashes[place] == hashes[place + MOST_EQUAL_HASHES]:
            raise Garbled("items made to collide")
