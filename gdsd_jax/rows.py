"""Rows of a user's file, JSONL, CSV, Parquet or a JSON list: read, renamed and checked field by
field."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import dataclasses
import gzip
import io
import json
import math
import os
import re
import types
from typing import Any
import zlib

from gdsd_jax import json_files, paths
from gdsd_jax.mistakes import one_line

REQUIRED = object()  # the default of a field that every row must have
EXACT = 2**53  # whole numbers below it are floats of their own
MOST_NAMES = 12  # of columns that a message tells
_SURROGATE = re.compile("[\ud800-\udfff]")


class MissingField(ValueError):
    """A row lacks a field, `field`, that it must have; perhaps it stands under another name."""

    def __init__(self, said: str, field: str):
        super().__init__(said)
        self.field = field


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a row.

    Attributes:
      name: of the field.
      kind: one of `KINDS`.
      mend: what to do where the field is missing or wrong, such as "give the task in words".
      default: what stands for a field that is absent or null; REQUIRED = such a row is refused.
    """

    name: str
    kind: str
    mend: str
    default: Any = REQUIRED


def check(row: Any, where: str, fields: Sequence[Field]) -> dict[str, Any]:
    """The fields of a row and no other entries; the default of a field that is absent or null.

    A number in a field of kind "text or number" comes back as text, a whole one without a point.

    Args:
      row: what a line of the file holds.
      where: `path:line`, for messages; "" where the caller adds it.
      fields: what a row may hold.

    Raises:
      ValueError: not an object, or a field that is missing or wrong; one line that says the mend.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(row, dict):
        raise ValueError(f"{prefix}not a JSON object: write {_example(fields)}")
    found = {}
    for field in fields:
        value = row.get(field.name)
        if value is None and field.default is not REQUIRED:
            found[field.name] = field.default
            continue
        if field.name not in row:
            raise MissingField(f"{prefix}{field.name} is missing: {field.mend}", field.name)
        fault = KINDS[field.kind](field, value)
        if fault:
            raise ValueError(f"{prefix}{fault}: {field.mend}")
        if _has_surrogate(value):
            said = "a lone surrogate (\\ud800 to \\udfff) is no character: write it as UTF-8"
            raise ValueError(f"{prefix}{field.name}: {said}")
        found[field.name] = _as_text(value) if field.kind == "text or number" else value
    return found


def _as_text(value: str | int | float) -> str:
    """A text or number as text; a whole number that a table has as 72.0 is 72."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < EXACT
    return str(int(value) if is_whole else value)


def read_rows(path: str | os.PathLike, wanted: str, flag: str = "") -> Iterator[tuple[str, Any]]:
    """(`path:line`, what stands there) of every row: a line that is not blank, as JSON.

    A path that ends in .csv holds a line of column names, and then rows of texts. One that ends in
    .json may hold a single list of rows, which are then counted in place of lines, as those of
    .parquet are. With .gz behind its name a file of any kind is compressed.

    Args:
      path: local or gs://.
      wanted: what a row holds, for messages; it follows "one JSON object a line".
      flag: of the command that the path came from, such as "--prompts="; for messages.

    Raises:
      ValueError: a file that cannot be read or has no rows, or a row that is not JSON, or has more
        or fewer values than columns; one line.
    """
    name = unpacked_name(path)
    is_parquet = name.endswith(".parquet")
    try:
        data = bytes_of(path)
        content = data if is_parquet else data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        mend = "write it as UTF-8" if isinstance(error, UnicodeDecodeError) else "check the path"
        kind = "" if is_parquet else "UTF-8 "
        raise ValueError(
            f"{flag}{path} is not a readable {kind}file ({type(error).__name__}): {mend}"
        ) from None
    read = _json_rows
    if is_parquet:
        read = _parquet_rows
    elif name.endswith(".csv"):
        read = _csv_rows
    elif name.endswith(".json") and content.lstrip().startswith("["):
        read = _list_rows
    empty = True
    for number, row in read(content, path):
        empty = False
        yield f"{path}:{number}", row
    if empty:
        mend = "one JSON object a line"
        if read is _csv_rows:
            mend = "a line of column names, and then one row a line"
        raise ValueError(f"{flag}{path} has no rows: give {mend}{wanted}")


def unpacked_name(path: str | os.PathLike) -> str:
    """A file's name in small letters without ".gz" behind it; its end says what the file holds."""
    return str(path).lower().removesuffix(".gz")


def bytes_of(path: str | os.PathLike) -> bytes:
    """What a file holds, unpacked where its name ends in .gz."""
    data = paths.absolute(path).read_bytes()
    return gzip.decompress(data) if str(path).lower().endswith(".gz") else data


def _list_rows(text: str, path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """(its number from 1, row) of one JSON list."""
    try:
        found = json_files.parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON list ({error}): mend it, or write JSONL") from None
    yield from enumerate(found, 1)


def _json_rows(text: str, path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """(line number, row) of JSONL."""
    # Not splitlines: JSON strings may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_files.parse(line)
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: not JSON ({error}): write one object a line"
            ) from None
        yield number, row


def _csv_rows(text: str, path: str | os.PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its last line, row) of CSV with a line of column names."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        twice = [name for name, count in Counter(reader.fieldnames).items() if count > 1]
        if twice:
            raise csv.Error(f"two columns are named {twice[0]!r:.40}")
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"it should have {len(reader.fieldnames)} values")
            yield reader.line_num, row
    except csv.Error as error:
        line = reader.reader.line_num  # the reader's own ends with the last good row
        raise ValueError(
            f"{path}:{line}: not a row of CSV ({error}): mend it, or write JSONL"
        ) from None


def _parquet_rows(data: bytes, path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """(its number from 1, row) of a Parquet file; what JSON has no form for is its text."""
    import pyarrow  # comes with tensorflow-datasets; slow to import
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a Parquet file ({one_line(error)}): mend it, or write JSONL"
        ) from None
    number = 0
    for batch in table.to_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, json.loads(json.dumps(row, default=_plain))


def _plain(value: Any) -> str:
    """The text of what JSON has no form for. Some writers store texts as bytes; those that are no
    UTF-8 get surrogates, which `check` refuses where the column is read."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def read_records(
    path: str | os.PathLike,
    read: Callable[[dict[str, Any]], Any],
    wanted: str,
    columns: Mapping[str, str] | None = None,
) -> list[Any]:
    """What `read` makes of each row of a file.

    Args:
      path: local or gs://.
      read: row -> record; a ValueError of it gets `path:line` in front.
      wanted: as in `read_rows`.
      columns: our name of a field -> its name in the file, where that is another one.

    Raises:
      ValueError: as `read_rows`, a row that is no object, or one that `read` refuses; one line.
    """
    records = []
    for where, row in read_rows(path, wanted):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object: give one a line{wanted}")
        records.append(record_of(where, row, read, columns or {}))
    return records


def record_of(
    where: str,
    row: Mapping[str, Any],
    read: Callable[[dict[str, Any]], Any],
    columns: Mapping[str, str],
) -> Any:
    """What `read` makes of a row under our names.

    Raises:
      ValueError: a row that `read` refuses; one line begins with `where`. Of a field that is
        missing it says which columns there are, and how to name the one that holds it.
    """
    try:
        return read(renamed(row, columns))
    except ValueError as error:
        hints = []
        if columns:
            names = ", ".join(f"{ours} is read from {theirs}" for ours, theirs in columns.items())
            hints.append(f"columns: {names}")
        if isinstance(error, MissingField):
            hints.append(f"columns.{error.field}=NAME takes another of {names_in(row)}")
        hint = f" ({'; '.join(hints)})" if hints else ""
        raise ValueError(f"{where}: {error}{hint}") from error
    except Exception as error:  # of a task's own code, which looked at less than it used
        raise ValueError(f"{where}: {type(error).__name__}: {error}; mend the row") from error


def names_in(row: Mapping[str, Any]) -> str:
    """The columns of a row, the first of them where there are many, for messages."""
    names = [f"{name:.40}" for name in row]
    more = ", ..." if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more if names else "its columns, of which it has none"


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names; `columns` maps our name of a field to its name in the file."""
    moved = {*columns, *columns.values()}
    others = {name: value for name, value in row.items() if name not in moved}
    return others | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


def check_columns(columns: Mapping[str, str], fields: Sequence[Field]) -> None:
    """ValueError where `columns` renames a field that there is not."""
    known = [field.name for field in fields]
    for name in columns:
        if name not in known:
            raise ValueError(f"columns.{name}: no such field, choose one of {', '.join(known)}")


def required(fields: Sequence[Field]) -> str:
    """What every row must hold, as `wanted` of `read_rows`: " with question and domain"."""
    names = [field.name for field in fields if field.default is REQUIRED]
    return f" with {' and '.join(names)}"


def _text(field: Field, value: Any) -> str | None:
    return None if isinstance(value, str) else f"{field.name} is not a string"


def _nonempty_text(field: Field, value: Any) -> str | None:
    if isinstance(value, str) and value.strip():
        return None
    return f"{field.name} is not a non-empty string"


def _text_or_number(field: Field, value: Any) -> str | None:
    # A bool is an int to Python, but not a number to the user.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return f"{field.name} is neither a string nor a number"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{field.name} is {value}"
    return None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(field: Field, value: Any) -> str | None:
    return None if _is_integer(value) else f"{field.name} is not a whole number"


def _list_of(fits: Callable[[Any], bool], called: str) -> Callable[[Field, Any], str | None]:
    """What is wrong with a list of at least one item, each of which `fits`."""

    def check(field: Field, value: Any) -> str | None:
        if not isinstance(value, list) or not value:
            return f"{field.name} is not a non-empty list"
        wrong = [number for number, item in enumerate(value) if not fits(item)]
        return f"{field.name}[{wrong[0]}] is not {called}" if wrong else None

    return check


def _turns(field: Field, value: Any) -> str | None:
    fault = f'{field.name} is not a list of {{"role": "...", "content": "..."}}'
    if not isinstance(value, list) or not value:
        return fault
    for turn in value:
        if not isinstance(turn, dict):
            return fault
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            return fault
    return None


# kind -> function (field, value) -> what is wrong, None where nothing is
KINDS: Mapping[str, Callable[[Field, Any], str | None]] = types.MappingProxyType(
    {
        "text": _text,
        "non-empty text": _nonempty_text,
        "text or number": _text_or_number,
        "integer": _integer,
        "integers": _list_of(_is_integer, "a whole number"),
        "texts": _list_of(lambda item: isinstance(item, str), "a string"),
        "objects": _list_of(lambda item: isinstance(item, dict), "an object"),
        "turns": _turns,  # of a conversation, at least one
    }
)


def _example(fields: Sequence[Field]) -> str:
    """A row as the user would write it: the fields that it must hold, or else all."""
    needed = [field for field in fields if field.default is REQUIRED]
    parts = []
    for field in needed or fields:
        value = "[...]" if field.kind in ("integers", "texts", "objects", "turns") else "..."
        parts.append(f'"{field.name}": {value}')
    return "{" + ", ".join(parts) + "}"


def _has_surrogate(value: Any) -> bool:
    """Whether half a character stands in a text, or in a list or object of texts."""
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(_has_surrogate(item) for item in value)
    return False
