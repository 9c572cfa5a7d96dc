"""Rows of a user's file, one JSON object a line."""

from collections.abc import Iterator
import json
import os
from typing import Any

from etils import epath


def read_rows(path: str | os.PathLike, wanted: str, flag: str = "") -> Iterator[tuple[str, Any]]:
    """(`path:line`, what stands there) of every line that is not blank; local or gs://.

    Raises ValueError, one line, where the file cannot be read or has no rows, or for a row that is
    not JSON. It says what is `wanted` on a line, after "one JSON object a line", and which `flag`
    of a command the path came from.
    """
    try:
        text = epath.Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{flag}{path} is not a readable UTF-8 file ({type(error).__name__}): check the path"
        ) from None
    # Not splitlines: JSON strings may hold other line separators as they are.
    lines = [
        (f"{path}:{number}", line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise ValueError(f"{flag}{path} has no rows: give one JSON object a line{wanted}")
    for where, line in lines:
        try:
            yield where, json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error}): write one object a line") from None
