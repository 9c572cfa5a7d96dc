"""What the launch scripts share: config files, `key=value` settings, one line for an error. Quick
to import."""

import ast
from collections.abc import Iterator, Mapping
import contextlib
import importlib.util
import pathlib
import re
import sys
from typing import Any, TextIO

from etils import epath

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load_config(text: str):
    """The locked config of `FILE.py[:ARG]`; ValueError where there is none."""
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


def settings(flag: str, text: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with the entries of `key=value,key=value` in their place.

    Raises:
      ValueError: an unknown key, or a value of another type than its default (None takes any); one
        line names it.
    """
    found = dict(defaults)
    for entry in filter(None, re.split(r",(?![^()\[\]]*[)\]])", text)):  # commas outside brackets
        key, equals, value = entry.partition("=")
        if not equals or key not in defaults:
            raise ValueError(
                f"{flag}: {entry!r} is no key=value with a key of {', '.join(defaults)}"
            )
        try:
            value = ast.literal_eval(
                {"true": "True", "false": "False", "none": "None"}.get(value.lower(), value)
            )
        except (ValueError, SyntaxError):
            pass  # a word
        default = defaults[key]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and value is not None and type(value) is not type(default):
            raise ValueError(
                f"{flag}: {key} takes a {type(default).__name__} such as {default!r}, not {value!r}"
            )
        found[key] = value
    return found


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
