"""The version of the package, and the formats of the files that it writes and reads back.

A file says its format, a number, and the version that wrote it. What reads it takes its own format
and earlier ones; .github/CHANGELOG.md states the promise.
"""

from collections.abc import Mapping
from typing import Any

__version__ = "0.1.0"

FORMAT, VERSION = "format", "version"  # the entries of a file


def stamp(number: int) -> dict[str, Any]:
    """The entries by which a file of that format is known."""
    return {FORMAT: number, VERSION: __version__}


def format_of(
    entries: Mapping[str, Any],
    known: int,
    where: str,
    key: str = FORMAT,
    writer: Any = None,
) -> int:
    """The format of a file, from its entries; 1 where it says none.

    Args:
      entries: of the file.
      known: the format that this version writes.
      where: names the file, for messages.
      key: the entry with the number.
      writer: the version that wrote the file, where that is not the entry `version`.

    Raises:
      ValueError: no number, or that of a later version; one line names the version to install.
    """
    number = entries.get(key, 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{where}: {key}={number!r:.40} is no number from 1 on: copy it again")
    if number <= known:
        return number
    writer = entries.get(VERSION) if writer is None else writer
    later = f"gdsd_jax {writer:.40}" if isinstance(writer, str) else "the version that wrote it"
    raise ValueError(
        f"{where}: {key} {number}, this version, {__version__}, reads up to {known}: install "
        f"{later} or a later one"
    )
