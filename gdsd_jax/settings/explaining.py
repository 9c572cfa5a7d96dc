"""A run's settings for its user's eyes: every key with its value, its type and what it means."""

from collections.abc import Iterator
import dataclasses
import textwrap
import types
import typing
from typing import Any

from gdsd_jax.settings import keys
from gdsd_jax.settings.parsing import to_json
from gdsd_jax.settings.schema import Settings

COLUMNS = (34, 15)  # of key=value and of the type
LEAST_ROOM = 45  # columns for the meaning beside them; where there is less it stands below
TOUCHED = "* "  # before a key whose value is not the default


class Entry(typing.NamedTuple):
    """A setting as its user may write it."""

    key: keys.Key
    value: Any

    @property
    def is_default(self) -> bool:
        return self.value == self.key.default


def entries_of(settings: Settings) -> Iterator[Entry]:
    """Every setting, section by section."""
    sections = keys.fixed_sections() | keys.own_section(settings.objective)
    sections |= keys.own_options(settings.task)
    values = to_json(settings)
    for section, kind in sections.items():
        held = values[section] if section else values
        for key in keys.keys_of(section, kind, sections):
            field = key.name.rpartition(".")[2]
            yield Entry(key, held[field] if isinstance(held, dict) else getattr(held, field))


def explained(settings: Settings, width: int | None = None) -> list[str]:
    """Lines for each key: `key=value`, the type, the first sentence of the meaning, and the default
    where the value is another.

    Args:
      settings: of a run.
      width: columns at which long meanings are broken; None: they are not.
    """
    lines, section = [], ""
    for entry in entries_of(settings):
        if entry.key.name.rpartition(".")[0] != section:
            section = entry.key.name.rpartition(".")[0]
            lines.append("")
        lines += lines_of_entry(entry, width)
    return lines


def lines_of_entry(entry: Entry, width: int | None) -> list[str]:
    """One setting."""
    mark = " " * len(TOUCHED) if entry.is_default else TOUCHED
    told = keys.first_sentence(entry.key.meaning)
    if not entry.is_default and entry.key.default is not dataclasses.MISSING:
        told += f" (default {written(entry.key.default) or 'empty'})"
    setting, kind = f"{entry.key.name}={written(entry.value)}", type_text(entry.key.kind)
    head = f"{mark}{setting:<{COLUMNS[0] - 1}} {kind:<{COLUMNS[1] - 1}} "
    indent = len(TOUCHED) + sum(COLUMNS)
    if width is None:
        return [(head + told).rstrip()]
    if width - indent < LEAST_ROOM:
        indent = 6
    pieces = textwrap.wrap(told, width - indent)
    if pieces and len(head) == indent:
        head += pieces.pop(0)
    return [head.rstrip(), *(" " * indent + piece for piece in pieces)]


def written(value: Any) -> str:
    """A value as it is written behind `key=`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        end = "," if len(value) == 1 else ""  # else Python takes it for the number alone
        return f"({', '.join(map(written, value))}{end})"
    return str(value)


def type_text(kind: Any) -> str:
    """A field's type for people."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(map(type_text, arguments))
    if typing.get_origin(kind) is tuple:
        return f"({', '.join(map(type_text, arguments))})"
    if typing.get_origin(kind) is dict:
        return "{" + ": ".join(map(type_text, arguments)) + "}"
    names = {type(None): "none", Ellipsis: "...", Any: "any"}
    return names.get(kind) or kind.__name__
