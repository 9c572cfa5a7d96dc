"""Files and folders that users name, on a local disk or in an object store such as gs://."""

from collections.abc import Iterator
import os
import uuid

from etils import epath


class WorkdirError(ValueError):
    """A run's folder that cannot be used as it is; one line names it and the mend."""


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


def kvstore(folder: epath.Path) -> dict[str, str]:
    """Tensorstore's specification of an absolute folder, with its name as it is, not as a URL."""
    if not is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    scheme, address = str(folder).split("://", 1)
    name, _, path = address.partition("/")
    driver = "gcs" if scheme == "gs" else scheme
    return {"driver": driver, "bucket": name, "path": f"{path}/"}


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


def move(folder: epath.Path, place: epath.Path) -> None:
    """Moves a folder. In an object store, which renames nothing, its files are copied first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(folder):
        folder.rename(place)
        return
    files = list(files_in(folder))
    for path in files:
        path.copy(place / path.relative_to(folder))
    for path in files:
        path.unlink()


def files_in(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder; epath's own `rglob` knows no object stores."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from files_in(path)
        else:
            yield path
