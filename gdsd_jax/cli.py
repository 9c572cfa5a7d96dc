"""What the launch scripts share: flags, config files, output files, one line for an error; quick
to import."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import difflib
import io
import os
import pathlib
import re
import shlex
import sys
import tempfile
import threading
import traceback
from typing import NoReturn, TextIO

from etils import epath

from gdsd_jax import extensions, interrupts, mistakes, paths

PACKAGE = pathlib.Path(__file__).resolve().parent
SHIPPED = PACKAGE / "shipped"  # in a wheel alone
# where configs/ and launch/ lie: a wheel carries them inside the package, a checkout beside it
ROOT = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent
LONGEST = 600  # characters of a fault's own words; those of a compiler have pages
# what wrong input raises, ImportError because gs:// needs a package of its own; all else is a fault
BAD_INPUT = (ValueError, OSError, ImportError, MemoryError, OverflowError, RecursionError)
UNKNOWN = "unrecognized arguments: "  # as argparse begins that line
# flags of other programs that generate: what --sampler takes in their place
OF_SAMPLER = {
    **dict.fromkeys(("max_new_tokens", "max_tokens", "max_length"), "gen_length=N"),
    **dict.fromkeys(("gen_length", "length", "n_predict"), "gen_length=N"),
    **dict.fromkeys(("steps", "diffusion_steps", "num_steps"), "steps=N"),
    **dict.fromkeys(("block_length", "block_size"), "block_length=N"),
    "top_p": "top_p=P",
    **dict.fromkeys(("cfg", "cfg_scale"), "cfg_scale=X"),
    "remasking": "remasking=NAME",
}
# flags of other programs -> ours, where a script has them
FLAGS_ELSEWHERE = {
    **dict.fromkeys(("model", "model_path", "model_name_or_path", "ckpt"), ("--checkpoint",)),
    **dict.fromkeys(("output_dir", "save_dir", "logdir"), ("--workdir",)),
    **dict.fromkeys(("output", "output_file", "output_path"), ("--out",)),
    **dict.fromkeys(("input", "input_file", "prompt_file"), ("--prompts",)),
    **dict.fromkeys(("batch_size", "bs"), ("--batch",)),
    **dict.fromkeys(("temp", "t"), ("--temperature",)),
    **dict.fromkeys(("torch_dtype", "precision"), ("--dtype",)),
    **dict.fromkeys(("num_samples", "n"), ("--samples",)),
    "interactive": ("--chat",),
    "cfg": ("--config",),
}


class Parser(argparse.ArgumentParser):
    """The flags of a script, --debug among them; a wrong one is told in a line, with exit code 2.

    Args:
      doc: the script's docstring, which --help shows.
      add_help: whether --help ends the script at once.
    """

    def __init__(self, doc: str, add_help: bool = True):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, formatter_class=form, add_help=add_help)
        self.add_argument(
            "--debug", action="store_true", help="show the traceback of what a line tells"
        )

    def add_hosts(self) -> None:
        """The flags of several processes, as `hosts.start` takes them."""
        self.add_argument("--coordinator", help="HOST:PORT of process 0, which listens there")
        self.add_argument("--num_processes", type=int)
        self.add_argument("--process_id", type=int)

    def error(self, message: str) -> NoReturn:
        if message.startswith(UNKNOWN):
            given = message.removeprefix(UNKNOWN).split()
            flags = [flag.partition("=")[0] for flag in given if flag.startswith("--")]
            near = [one for flag in flags for one in self.near(flag)]
            message += f"; near it: {', '.join(dict.fromkeys(near))}" if near else ""
            if flags and not near and "--config" in self._option_string_actions:
                message += "; settings follow in --config, as FILE.py:MODEL,key=value"
        raise SystemExit(fail(f"{message}; --help tells all flags", 2))

    def near(self, flag: str) -> list[str]:
        """What may be meant by a flag that there is not."""
        known = self._option_string_actions
        name = flag.lower().replace("-", "_").lstrip("_")
        if name in OF_SAMPLER and "--sampler" in known:
            return [f"--sampler={OF_SAMPLER[name]}"]
        if f"--{name}" in known:
            return [f"--{name}"]
        named = FLAGS_ELSEWHERE.get(name, ())
        found = [other for other in named if other in known]
        return found or difflib.get_close_matches(f"--{name}", known, n=2, cutoff=0.75)

    def checked(
        self, check: Callable[[argparse.Namespace], None], argv: list[str] | None = None
    ) -> argparse.Namespace:
        """The flags, by default of the command line; what `check` finds wrong with them is told as
        a wrong flag is.

        A script calls this before it imports jax, which takes seconds.
        """
        args = self.parse_args(argv)
        try:
            check(args)
        except Exception as error:
            raise SystemExit(told(error, args.debug)) from None
        return args


def place(text: str) -> epath.Path:
    """A folder or file of a flag, as `type` of argparse."""
    try:
        return paths.absolute(text)
    except (ValueError, OSError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def load_config(text: str):
    """What `get_config` of `FILE.py[:ARG]` returns, a ConfigDict for `settings.parse`.

    Args:
      text: FILE.py is local or gs://, or the bare name of a recipe of ours, such as coding.

    Raises:
      ValueError: no such file, or one that fails or has no get_config; one line.
    """
    path, arg = split_config(text)
    recipes = ROOT / "configs"
    if not extensions.is_file(path) and (recipes / f"{path}.py").is_file():
        path = str(recipes / f"{path}.py")
    if not paths.is_remote(path) and not pathlib.Path(path).is_file():
        known = [
            name.stem for name in sorted(recipes.glob("*.py")) if "get_config(" in name.read_text()
        ]
        raise ValueError(f"--config: no file {path}; there are the recipes {', '.join(known)}")
    module = extensions.module_of(path, "--config")
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} has no get_config(arg)")
    try:
        return module.get_config(arg or None)
    except ValueError:
        raise  # says itself what is wrong
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise ValueError(f"--config: get_config of {path} fails: {kind}: {error}") from error


def split_config(text: str) -> tuple[str, str]:
    """(FILE.py, ARG) of `FILE.py[:ARG]`, where FILE.py may be an address such as gs://..."""
    return re.fullmatch(r"((?:\w+://)?[^:]*):?(.*)", text, re.DOTALL).groups()


def output_path(flag: str, path: str | None, *read: str | os.PathLike | None) -> epath.Path | None:
    """Where results will go; ValueError at once where they cannot, or would take the place of a
    file that is read. None where nothing is asked."""
    if not path:
        return None
    place = paths.absolute(path)
    if any(one is not None and paths.absolute(one) == place for one in read):
        raise ValueError(f"{flag}={path} would be written over what is read: name another")
    if place.is_dir():
        raise ValueError(f"{flag}={path}: that is a folder; name a file")
    if not paths.is_remote(place) and not place.parent.is_dir():
        raise ValueError(f"{flag}={path}: no folder {place.parent}; name a file")
    check_writable(flag, path, place.parent)
    return place


def check_writable(flag: str, path: str | os.PathLike, place: epath.Path) -> None:
    """ValueError where nothing can be written at the place that a flag names."""
    reason = paths.why_unwritable(place)
    if reason is not None:
        raise ValueError(f"{flag}={path}: nothing can be written there ({reason}); name another")


def read_of_run(folder: str | os.PathLike | None) -> list[epath.Path]:
    """What commands read of a run's workdir, which no result may take the place of."""
    if folder is None:
        return []
    return [paths.absolute(folder) / name for name in ("config.json", "metrics.jsonl")]


def output_folder(flag: str, path: str | os.PathLike) -> epath.Path:
    """Where a folder of results will be; ValueError at once where it cannot."""
    place = paths.absolute(path)
    if paths.is_remote(place):
        return place
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{flag}={path}: {there} is a file; name a folder")
    return place


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[TextIO]:
    """A file to write text to, which takes its name when complete; after a fault what there is
    stays in NAME.partial. An object store renames nothing: there the text is held until then."""
    partial = path.with_name(f"{path.name}.partial")
    if not paths.is_remote(path):
        with paths.naming(partial), partial.open("w") as file:
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


def command() -> str | None:
    """The command line of this process, as a shell takes it; None where it is no script of ours."""
    program = sys.argv[0]
    if not program.startswith("gdsd "):
        script = pathlib.Path(program)
        if script.resolve().parent != ROOT / "launch":
            return None
        program = f"python launch/{script.name}"
    return f"{program} {shlex.join(sys.argv[1:])}"


def fail(error: BaseException | str, code: int) -> int:
    """Says the error on stderr, each of several mistakes in a line; gives the exit code back."""
    if isinstance(error, str):
        error = ValueError(error)
    for line in mistakes.lines_of(error):
        print("error:", line, file=sys.stderr)
    return code


def told(error: Exception, debug: bool) -> int:
    """Says what ended a script before it began its work, a line for each mistake, and gives the
    exit code: 2 for bad input, 1 for a fault of the program.

    Args:
      error: what was raised.
      debug: of the flag --debug; the traceback stands before the line.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, BAD_INPUT):
        return fail(error, 2)
    return fail(f"{type(error).__name__}: {error} (a fault; --debug shows where)", 1)


def run(main: Callable[[], int]) -> int:
    """The exit code of a script's `main`. What ends its long work, in whatever thread, is told in
    one line too: exit code 1, and 130 after Ctrl-C."""
    interrupts.raises()
    threading.excepthook = lambda told: print(f"error: {fault(told.exc_value)}", file=sys.stderr)
    try:
        return main()
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except Exception as error:
        return fail(fault(error), 1)


def fault(error: BaseException) -> str:
    """What a script did not expect, in one line; the traceback is in a file that it names, or with
    --debug on stderr: who has waited for hours should not have to wait for it again."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    said = said if len(said) <= LONGEST else f"{said[: LONGEST - 100]} ... {said[-95:]}"
    if "--debug" in sys.argv:
        traceback.print_exception(error)
        return said
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="gdsd-fault-", suffix=".txt", errors="replace", delete=False
        ) as file:
            traceback.print_exception(error, file=file)
        return f"{said} (its traceback: {file.name})"
    except OSError:  # such as a full disk
        return said
