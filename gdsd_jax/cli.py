"""What the launch scripts share: config files, output files, one line for an error; quick to
import."""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import re
import sys
from typing import TextIO

from etils import epath

from gdsd_jax import extensions, paths

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load_config(text: str):
    """What `get_config` of `FILE.py[:ARG]` returns, a ConfigDict for `settings.parse`.

    Args:
      text: FILE.py is local or gs://.

    Raises:
      ValueError: no such file, or one that fails or has no get_config; one line.
    """
    path, arg = split_config(text)
    if not paths.is_remote(path) and not pathlib.Path(path).is_file():
        known = [
            f"configs/{name.name}"
            for name in sorted((ROOT / "configs").glob("*.py"))
            if "get_config(" in name.read_text()
        ]
        raise ValueError(f"--config: no file {path}; there are {', '.join(known)}")
    module = extensions.module_of(path, "--config")
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} has no get_config(arg)")
    try:
        return module.get_config(arg or None)
    except ValueError:
        raise  # says itself what is wrong
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"--config: get_config of {path} fails: {kind}: {error}") from error


def split_config(text: str) -> tuple[str, str]:
    """(FILE.py, ARG) of `FILE.py[:ARG]`, where FILE.py may be an address such as gs://..."""
    return re.fullmatch(r"((?:\w+://)?[^:]*):?(.*)", text, re.DOTALL).groups()


def output_path(flag: str, path: str) -> epath.Path:
    """Where results will go; ValueError at once where they cannot."""
    place = paths.absolute(path)
    if place.is_dir():
        raise ValueError(f"{flag}={path}: that is a folder; name a file")
    if not paths.is_remote(place) and not place.parent.is_dir():
        raise ValueError(f"{flag}={path}: no folder {place.parent}; name a file")
    return place


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[TextIO]:
    """A file to write text to, which takes its name when complete; after a fault what there is
    stays in NAME.partial. An object store renames nothing: there the text is held until then."""
    partial = path.with_name(f"{path.name}.partial")
    if not paths.is_remote(path):
        with partial.open("w") as file:
            yield file
        partial.replace(path)
        return
    file = io.StringIO()
    try:
        yield file
    except BaseException:
        partial.write_text(file.getvalue())
        raise
    path.write_text(file.getvalue())


def fail(error: BaseException | str, code: int) -> int:
    """Says the error in one line on stderr, and gives the exit code back."""
    print("error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
    return code
