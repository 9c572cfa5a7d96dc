"""Files and folders that users name, on a local disk or in an object store such as gs://."""

import os
import uuid

from etils import epath


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an address of an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> epath.Path:
    """The same place from any folder. Addresses of object stores are absolute already; epath's own
    `resolve` would take them for names in the current folder.

    Raises:
      ValueError: an address of a kind that epath does not know, such as http://.
    """
    try:
        path = epath.Path(path)
    except KeyError as error:
        raise ValueError(f"{path}: give a local path or gs://, not {error.args[0]}") from None
    return path if is_remote(path) else path.expanduser().resolve()


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file that is visible only when it is complete, in place of an older one.

    An object store shows a file when it is closed. On a local disk another file is written first
    and takes the name then.
    """
    path = epath.Path(path)
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_bytes(data)
    partial.replace(path)
