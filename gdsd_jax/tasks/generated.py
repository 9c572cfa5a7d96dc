"""Generated problems: a folder that is made once, whole or not at all; splits."""

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import shutil
from typing import Any
import uuid

from gdsd_jax import paths


def build(data_dir: str | os.PathLike, name: str, write: Callable[[Path], None]) -> Path:
    """The folder `name` in a local `data_dir`, made unless it is there.

    The folder appears only when complete: a killed build leaves nothing that looks finished, and
    several processes may build at once.

    Args:
      data_dir: local; made where it is not there.
      name: of the folder; has all that its content depends on.
      write: fills the empty folder that it is given, with the same content at every call.

    Raises:
      ValueError: a remote folder.
      OSError: the folder cannot be written.
    """
    if paths.is_remote(data_dir):
        raise ValueError(
            f"generated problems are kept in a local folder, not {data_dir}: change data_dir"
        )
    target = Path(data_dir) / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        write(partial)
        with contextlib.suppress(OSError):  # another process was first, with the same content
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not target.is_dir():
        raise OSError(f"could not move the generated problems to {target}: is the folder writable?")
    return target


def records(
    data_dir: str | os.PathLike, name: str, write: Callable[[Path], None], split: str
) -> list[dict[str, Any]]:
    """The rows of a split of the folder that `build` makes; `write` fills it by `array_records`."""
    from gdsd_jax.tasks import array_records  # slow to import, and needed only here

    return array_records.read(build(data_dir, name, write), split)


def split(given: list[Any], split_of: Callable[[Any], str]) -> tuple[list[Any], list[Any] | None]:
    """(training records, held-out records) by `split_of`, "train" or "heldout" of a record.

    None are held out, and the caller takes a share, where one side would be empty.
    """
    sides: dict[str, list[Any]] = {"train": [], "heldout": []}
    for record in given:
        sides[split_of(record)].append(record)
    if not sides["train"] or not sides["heldout"]:
        return given, None
    return sides["train"], sides["heldout"]
