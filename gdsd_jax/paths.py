"""Files and folders that users name, on a local disk or in an object store such as gs://."""

from collections.abc import Iterator
import contextlib
import errno
import os
import shutil
import uuid

from etils import epath

UNFINISHED = ".unfinished"  # in a new folder of an object store until everything is there


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


def why_unwritable(place: str | os.PathLike) -> str | None:
    """Why nothing can be written in a local folder, or the folder not be made, as the system says
    it; None where it can, and of an address of an object store. Nothing is tried."""
    place = epath.Path(place)
    if is_remote(place):
        return None
    there = next(one for one in (place, *place.parents) if one.exists())
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return os.strerror(errno.EROFS)
    return None if os.access(there, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)


def kvstore(folder: epath.Path) -> dict[str, str]:
    """Tensorstore's specification of an absolute folder, with its name as it is, not as a URL."""
    if not is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    scheme, address = str(folder).split("://", 1)
    name, _, path = address.partition("/")
    driver = "gcs" if scheme == "gs" else scheme
    return {"driver": driver, "bucket": name, "path": f"{path}/"}


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """A block whose OSError gets the file's name where it has none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


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
    with naming(path):
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


@contextlib.contextmanager
def new_folder(destination: epath.Path) -> Iterator[epath.Path]:
    """A folder to write into, which is at `destination` when everything in it is complete.

    On a local disk it is a hidden sibling that is renamed. An object store cannot rename folders:
    there it is the destination, and a file says that it is unfinished.

    Raises:
      ValueError: something is at `destination` already.
    """
    remote = is_remote(destination)
    mark = destination / UNFINISHED
    if remote:
        partial = destination
        if mark.exists():
            destination.rmtree()  # of a process that was killed
    else:
        partial = destination.parent / f".{destination.name}.partial"
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"{destination} is not empty; name a new folder")
    if remote:
        mark.write_text("this folder is being written, or what wrote it was killed\n")
    else:
        partial.rmtree(missing_ok=True)  # of a process that was killed
        partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        partial.rmtree(missing_ok=True)
        raise
    if remote:
        mark.unlink()
    else:
        os.replace(partial, destination)  # an empty folder there gives way


def need_space(destination: epath.Path, size: int) -> None:
    """ValueError where a local disk is too full for a folder of at most `size` bytes."""
    if is_remote(destination):
        return
    folder = next(parent for parent in destination.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        sizes = f"{free / 1e9:.1f} GB free, {destination.name} takes up to {size / 1e9:.1f} GB"
        raise ValueError(f"{folder} has {sizes}; make room")
