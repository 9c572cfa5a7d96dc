"""A bad input and what is to be said of it."""

from collections.abc import Callable, Mapping
import json
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A command that must end with exit code 2 and one line.

    In the command DIR is the case's own folder, DATA one for generated problems, ROOT the
    repository, HF and GOOD a Hugging Face folder and a converted one that are whole.

    Attributes:
      command: script and flags, as in a shell.
      said: parts of the line: the thing that is named, and the mend.
      files: name in DIR -> what it holds; a value that is neither text nor bytes is JSON.
      build: makes further files in DIR.
    """

    command: str
    said: tuple[str, ...]
    files: Mapping[str, Any] = {}
    build: Callable[[Path], None] | None = None


def write(folder: Path, files: Mapping[str, Any]) -> None:
    """Writes the files of a case."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def nested(depth: int, mark: str = "[]") -> str:
    """JSON of lists or of objects inside of one another."""
    begin = "[" if mark == "[]" else '{"a": '
    return begin * depth + "1" + mark[1] * depth
