"""Values of settings: what a text says, in the type of the field that it is for."""

import ast
from collections.abc import Mapping
import math
import re
import types
import typing
from typing import Any

EXAMPLES = {
    int: "int values such as 8",
    float: "float values such as 0.1",
    bool: "true or false",
    str: "words",
    dict: "mappings such as {'math': 4096}",
}
TUPLES = {int: "(1, 2)", float: "(0.1, 0.2)", str: "(q, v)"}  # by the type of their entries
LARGEST = 1 << 32  # of whole numbers: keys of jax have no more bits
WORDS = {"true": "True", "false": "False", "none": "None"}  # as a shell's user writes them


class Text(str):
    """A value as the user wrote it, still to be read."""


def entries_of(text: str) -> list[str]:
    """The entries of a text such as "a=1,b=(2, 3)": commas inside brackets part nothing."""
    return [entry for entry in re.split(r",(?![^()\[\]{}]*[)\]}])", text) if entry]


def typed(key: str, value: Any, annotation: Any) -> Any:
    """The value in the field's type; ValueError naming key, type and value where it has none."""
    kinds = [annotation]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = list(typing.get_args(annotation))
    if type(None) in kinds:
        kinds.remove(type(None))
        if value is None or (isinstance(value, Text) and value.lower() == "none"):
            return None
    for kind in kinds:
        found = converted(read(value, kind) if isinstance(value, Text) else value, kind)
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError(f"{key}={found}: give a finite number")
        if type(found) is int and abs(found) >= LARGEST:
            raise ValueError(f"{key}={found} must be below 2**32")
        if found is not None:
            return found
    wanted = " or ".join(map(example, kinds))
    raise ValueError(f"config key {key!r} takes {wanted}, not {str(value)!r}")


def example(kind: Any) -> str:
    """What a field of this type takes, in words."""
    if typing.get_origin(kind) is tuple:
        return f"tuple values such as {TUPLES[typing.get_args(kind)[0]]}"
    return EXAMPLES[typing.get_origin(kind) or kind]


def read(text: str, kind: Any) -> Any:
    """What a text says, as far as Python's literals go; words stay words."""
    if kind is str:
        return str(text)
    try:
        return ast.literal_eval(WORDS.get(text.lower(), text))
    except (ValueError, SyntaxError):
        pass
    if typing.get_origin(kind) is tuple:  # words in brackets need no quotation marks
        return tuple(word.strip() for word in text.strip("()[]").split(",") if word.strip())
    return str(text)


def converted(value: Any, kind: Any) -> Any:
    """The value in the type; None where that cannot be."""
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, bool, str):
        return value if type(value) is kind else None
    if typing.get_origin(kind) is dict and isinstance(value, Mapping):
        inner = typing.get_args(kind)[1]
        found = {name: converted(one, inner) for name, one in value.items()}
        return None if None in found.values() else found
    if typing.get_origin(kind) is tuple:
        return converted_tuple(value, typing.get_args(kind))
    return None


def converted_tuple(value: Any, kinds: tuple) -> tuple | None:
    """A list or tuple with its entries converted; one word is a tuple of itself."""
    any_number = kinds[-1] is Ellipsis
    if any_number and isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        return None
    if any_number:
        kinds = kinds[:1] * len(value)
    found = tuple(converted(one, kind) for one, kind in zip(value, kinds))
    return None if None in found or len(kinds) != len(value) else found
