"""The operations of the generated problems: data, and the step that applies one to `x`."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import types
from typing import Any


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation on a value `x`.

    Attributes:
      name: identifier, used in the specification strings.
      takes: type of `x` before: "int", "str" or "list" (of ints).
      gives: type after.
      family: operations of one family, with the same types, are plausibly mistaken for one another.
      words: what to do, in the imperative; `{k}` stands for the constant.
      code: Python expression over `x`; `{k}` stands for the constant.
      constants: the values `{k}` may take, neighbours being "off by one"; empty where there is no
        constant.
    """

    name: str
    takes: str
    gives: str
    family: str
    words: str
    code: str
    constants: tuple[int | str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation with its constant (None where it has none)."""

    operation: Operation
    k: int | str | None = None

    @property
    def words(self) -> str:
        return self.operation.words.format(k=self.k)

    @property
    def code(self) -> str:
        return self.operation.code.format(k=self.k)

    @functools.cached_property
    def _function(self) -> Callable[[Any], Any]:
        return _compiled(self.code)

    def __call__(self, x: Any) -> Any:
        return self._function(x)

    def __str__(self) -> str:
        return self.operation.name if self.k is None else f"{self.operation.name}={self.k}"


@functools.cache
def _compiled(code: str) -> Callable[[Any], Any]:
    return eval(f"lambda x: {code}")  # an expression of the table below, never a model's text


_SMALL = (2, 3, 4)
_LETTERS = ("a", "e", "o")

_TABLE = (
    Operation("add", "int", "int", "arithmetic", "add {k}", "x + {k}", _SMALL),
    Operation("subtract", "int", "int", "arithmetic", "subtract {k}", "x - {k}", _SMALL),
    Operation("times", "int", "int", "arithmetic", "multiply by {k}", "x * {k}", _SMALL),
    Operation(
        "divide", "int", "int", "division", "divide by {k} and round down", "x // {k}", _SMALL
    ),
    Operation(
        "remainder", "int", "int", "division", "take the remainder by {k}", "x % {k}", _SMALL
    ),
    Operation("square", "int", "int", "unary", "square it", "x * x"),
    Operation("negate", "int", "int", "unary", "negate it", "-x"),
    Operation("absolute", "int", "int", "unary", "make it positive", "abs(x)"),
    Operation("at_least", "int", "int", "bound", "make it at least {k}", "max(x, {k})", _SMALL),
    Operation("at_most", "int", "int", "bound", "make it at most {k}", "min(x, {k})", _SMALL),
    Operation("decimal", "int", "str", "text", "write it as text", "str(x)"),
    Operation("binary", "int", "str", "text", "write it in binary", 'format(x, "b")'),
    Operation("below", "int", "list", "spread", "list the numbers below it", "list(range(x))"),
    Operation(
        "keep_even", "list", "list", "keep", "keep the even items", "[v for v in x if v % 2 == 0]"
    ),
    Operation(
        "keep_odd", "list", "list", "keep", "keep the odd items", "[v for v in x if v % 2 == 1]"
    ),
    Operation(
        "keep_above",
        "list",
        "list",
        "keep",
        "keep the items above {k}",
        "[v for v in x if v > {k}]",
        _SMALL,
    ),
    Operation(
        "keep_below",
        "list",
        "list",
        "keep",
        "keep the items below {k}",
        "[v for v in x if v < {k}]",
        _SMALL,
    ),
    Operation(
        "add_each", "list", "list", "each", "add {k} to every item", "[v + {k} for v in x]", _SMALL
    ),
    Operation(
        "times_each",
        "list",
        "list",
        "each",
        "multiply every item by {k}",
        "[v * {k} for v in x]",
        _SMALL,
    ),
    Operation("square_each", "list", "list", "unary", "square every item", "[v * v for v in x]"),
    Operation("negate_each", "list", "list", "unary", "negate every item", "[-v for v in x]"),
    Operation("sort", "list", "list", "order", "sort the items", "sorted(x)"),
    Operation(
        "sort_down", "list", "list", "order", "sort the items in falling order", "sorted(x)[::-1]"
    ),
    Operation("reverse", "list", "list", "order", "reverse the items", "x[::-1]"),
    Operation(
        "unique", "list", "list", "order", "drop the repeated items", "list(dict.fromkeys(x))"
    ),
    Operation("first", "list", "list", "slice", "keep the first {k} items", "x[:{k}]", _SMALL),
    Operation("last", "list", "list", "slice", "keep the last {k} items", "x[-{k}:]", _SMALL),
    Operation("skip", "list", "list", "slice", "drop the first {k} items", "x[{k}:]", _SMALL),
    Operation("trim", "list", "list", "slice", "drop the last {k} items", "x[:-{k}]", _SMALL),
    Operation("stride", "list", "list", "slice", "keep every second item", "x[::2]"),
    Operation("append", "list", "list", "extend", "put {k} at the end", "x + [{k}]", _SMALL),
    Operation("prepend", "list", "list", "extend", "put {k} at the start", "[{k}] + x", _SMALL),
    Operation("sum", "list", "int", "reduce", "sum the items", "sum(x)"),
    Operation("largest", "list", "int", "reduce", "take the largest item", "max(x)"),
    Operation("smallest", "list", "int", "reduce", "take the smallest item", "min(x)"),
    Operation("count", "list", "int", "reduce", "count the items", "len(x)"),
    Operation("head", "list", "int", "pick", "take the first item", "x[0]"),
    Operation("tail", "list", "int", "pick", "take the last item", "x[-1]"),
    Operation("join", "list", "str", "join", "join the items", '"".join(map(str, x))'),
    Operation(
        "join_dash", "list", "str", "join", "join the items with dashes", '"-".join(map(str, x))'
    ),
    Operation("upper", "str", "str", "case", "make it upper case", "x.upper()"),
    Operation("lower", "str", "str", "case", "make it lower case", "x.lower()"),
    Operation("swap_case", "str", "str", "case", "swap its case", "x.swapcase()"),
    Operation("mirror", "str", "str", "order", "reverse the letters", "x[::-1]"),
    Operation(
        "first_letters", "str", "str", "slice", "keep the first {k} letters", "x[:{k}]", _SMALL
    ),
    Operation(
        "last_letters", "str", "str", "slice", "keep the last {k} letters", "x[-{k}:]", _SMALL
    ),
    Operation(
        "skip_letters", "str", "str", "slice", "drop the first {k} letters", "x[{k}:]", _SMALL
    ),
    Operation("repeat", "str", "str", "repeat", "repeat it {k} times", "x * {k}", _SMALL),
    Operation(
        "remove", "str", "str", "letter", "remove the letter {k}", 'x.replace("{k}", "")', _LETTERS
    ),
    Operation(
        "star",
        "str",
        "str",
        "letter",
        "replace the letter {k} by a star",
        'x.replace("{k}", "*")',
        _LETTERS,
    ),
    Operation(
        "count_letter", "str", "int", "measure", "count the letter {k}", 'x.count("{k}")', _LETTERS
    ),
    Operation("length", "str", "int", "measure", "count the letters", "len(x)"),
    Operation(
        "word_lengths",
        "str",
        "list",
        "words",
        "list the word lengths",
        "[len(v) for v in x.split()]",
    ),
)

OPERATIONS: Mapping[str, Operation] = types.MappingProxyType({o.name: o for o in _TABLE})
