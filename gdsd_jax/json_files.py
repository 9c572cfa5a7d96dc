"""JSON that others wrote: read into plain values, whose entries are each checked for their type."""

from collections.abc import Callable, Mapping
import json
import math
import os
import re
import types
from typing import Any

from gdsd_jax import paths
from gdsd_jax.mistakes import one_line

REQUIRED = object()  # the default of an entry that must be there
DEEPEST = 100  # lists and objects inside of one another; what reads, prints or copies them recurses
LARGEST = 1 << 31  # sizes and ids are int32
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")  # perhaps half of a pair


def parse(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
      ValueError: no JSON, or nested more than `DEEPEST` deep; nothing else is raised.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    marks = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, marks)) > DEEPEST:  # else it cannot be deeper
        check_depth(found)
    return found


def check_depth(value: Any) -> None:
    """ValueError where lists and objects are nested more than `DEEPEST` deep."""
    layer = [value]
    for _ in range(DEEPEST + 1):
        inner = [one for one in layer if isinstance(one, dict | list)]
        if not inner:
            return
        layer = []
        for one in inner:
            layer.extend(one.values() if isinstance(one, dict) else one)
    raise ValueError(f"nested more than {DEEPEST} deep")


def refuse_surrogates(value: Any) -> None:
    """ValueError where a text holds half of a pair of \\ud800 to \\udfff: nothing can write it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise ValueError(f"{character!r} in a text is half of a character") from None


def read_object(
    path: str | os.PathLike, mend: str = "copy it again", *, only_shown: bool = False
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
      path: of the file, local or gs://.
      mend: what to do where it cannot be read.
      only_shown: on a page, where texts may hold half of a character, as a model can write it.

    Raises:
      ValueError: no such file, no JSON, or JSON of something else; one line names it.
    """
    try:
        data = paths.absolute(path).read_bytes()
        found = parse(data)
        if not only_shown and _SURROGATE.search(data):
            refuse_surrogates(found)
    except OSError as error:
        raise ValueError(f"{path}: not a readable file ({type(error).__name__}): {mend}") from None
    except ValueError as error:
        said = one_line(error)
        raise ValueError(f"{path}: not readable JSON ({said}): {mend}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a JSON {type(found).__name__}, not an object: {mend}")
    return found


def entry(entries: Mapping[str, Any], name: str, kind: str, default: Any = REQUIRED) -> Any:
    """One entry of an object, of the type that is wanted.

    Args:
      entries: of the object.
      name: of the entry.
      kind: one of `KINDS`.
      default: what stands for an entry that is absent or null; REQUIRED = that is refused.

    Raises:
      ValueError: absent, or of another type; it names the entry and what is wanted.
    """
    value = entries.get(name)
    if value is None:
        if default is REQUIRED:
            raise ValueError(f"entry {name!r} is missing")
        return default
    fits, wanted = KINDS[kind]
    if not fits(value):
        raise ValueError(f"{name}={value!r:.60}: give {wanted}")
    return value


def is_whole(value: Any) -> bool:
    """Whether it is an int; a bool is none to the user."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return is_whole(value) and 1 <= value < LARGEST


def _is_id(value: Any) -> bool:
    return is_whole(value) and 0 <= value < LARGEST


def _is_number(value: Any) -> bool:
    if is_whole(value):
        return abs(value) < 1 << 1000  # a larger one is no float
    return isinstance(value, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a list of at least one such value."""
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(fits, value))


def _is_ids(value: Any) -> bool:
    return _is_id(value) or _list_of(_is_id)(value)


# kind -> (whether a value is of it, what is wanted in words)
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = types.MappingProxyType(
    {
        "text": (_is_text, "a text in quotation marks"),
        "flag": (lambda value: isinstance(value, bool), "true or false"),
        "whole number": (is_whole, "a whole number"),
        "size": (_is_size, "a whole number from 1 on"),
        "id": (_is_id, "an id, a whole number from 0 on"),
        "ids": (_is_ids, "an id or a list of ids, whole numbers from 0 on"),
        "number": (_is_number, "a finite number"),
        "object": (lambda value: isinstance(value, dict), "an object {...}"),
        "list": (lambda value: isinstance(value, list), "a list [...]"),
        "texts": (_list_of(_is_text), "a list of texts"),
        "numbers": (_list_of(_is_number), "a list of finite numbers"),
        "id list": (_list_of(_is_id), "a list of ids, whole numbers from 0 on"),
    }
)
