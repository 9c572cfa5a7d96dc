"""Choices by name: one of ours, or a user's own from a Python file outside the package."""

from collections.abc import Mapping
import hashlib
import sys
import types
from typing import Any

from etils import epath

from gdsd_jax import paths


def load(name: str, known: Mapping[str, Any], attribute: str, what: str = "name") -> Any:
    """`known[name]`; or where `name` ends in .py, the `attribute` of that file.

    Args:
      name: a key of `known`, or a path, local or gs://.
      known: the package's own choices.
      attribute: what the file must define, such as "OBJECTIVE".
      what: the kind of choice, for messages: "objective".

    Raises:
      ValueError: an unknown name, or a file that is absent, fails or lacks the attribute; one line.
    """
    if not is_file(name):
        if name not in known:
            own = f"or a file of your own, such as my_{what}.py, that defines {attribute}"
            raise ValueError(f"unknown {what} {name!r}, known: {', '.join(known)}; {own}")
        return known[name]
    module = module_of(name, what)
    if not hasattr(module, attribute):
        raise ValueError(f"{what}={name}: the file defines no {attribute}")
    return getattr(module, attribute)


def is_file(name: str) -> bool:
    """Whether a choice names a file."""
    return name.endswith(".py")


def absolute(name: str) -> str:
    """The same choice from any folder: a file's absolute path, any other name as it is."""
    return str(paths.absolute(name)) if is_file(name) else name


def module_of(path: str, what: str) -> types.ModuleType:
    """The file as a module; the same one as long as path and text are the same.

    Raises:
      ValueError: no readable file there, or running it fails; one line.
    """
    path = absolute(path)
    try:
        source = epath.Path(path).read_text()
    except ImportError as error:  # gs:// needs a package of its own
        raise ValueError(f"{what}={path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = type(error).__name__
        raise ValueError(
            f"{what}={path} is not a readable file ({reason}): check the path"
        ) from None
    name = "gdsd_jax_file_" + hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()[:16]
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__file__ = path
        sys.modules[name] = module  # dataclasses look their module up there
        try:
            exec(compile(source, path, "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(f"{what}={path} fails: {type(error).__name__}: {error}") from error
    return sys.modules[name]
