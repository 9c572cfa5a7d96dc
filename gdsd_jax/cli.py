"""What the launch scripts share: config files, output files, one line for an error; quick to
import."""

from collections.abc import Iterator
import contextlib
import importlib.util
import pathlib
import sys
from typing import TextIO

from etils import epath

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load_config(text: str):
    """What `get_config` of `FILE.py[:ARG]` returns, a ConfigDict for `settings.parse`.

    Raises:
      ValueError: no such file, or one without get_config; one line.
    """
    path, _, arg = text.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        known = [
            f"configs/{name.name}"
            for name in sorted((ROOT / "configs").glob("*.py"))
            if "get_config(" in name.read_text()
        ]
        raise ValueError(f"--config: no file {path}; there are {', '.join(known)}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} has no get_config(arg)")
    return module.get_config(arg or None)


def output_path(flag: str, path: str) -> epath.Path:
    """Where results will go; ValueError at once where they cannot."""
    path = epath.Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"{flag}={path}: "
            f"{'that is a folder' if path.is_dir() else f'no folder {path.parent}'}; name a file"
        )
    return path


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[TextIO]:
    """A file to write text to, which takes its name when complete; after a fault what there is
    stays in NAME.partial."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        yield file
    partial.replace(path)


def fail(error: BaseException | str, code: int) -> int:
    """Says the error in one line on stderr, and gives the exit code back."""
    print("error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
    return code
