"""Bad inputs, each as a user would give it: exit code 2, one line on stderr that names the thing
and the mend, no traceback, and nothing on the disk that was not there before."""

from collections.abc import Iterator
import importlib.util
from pathlib import Path
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings

import pytest

from gdsd_jax import cli, settings, train
from tests import folders
from tests.bad_inputs import case, flags, model_folders, overrides, row_files
from tests.contents import contents
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
CASES = [*overrides.CASES, *row_files.CASES, *model_folders.CASES, *flags.CASES]


def script(name: str):
    """A script of launch/ as a module, the same one each time."""
    if name not in SCRIPTS:
        spec = importlib.util.spec_from_file_location(
            f"launch_{name}", ROOT / "launch" / f"{name}.py"
        )
        SCRIPTS[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(SCRIPTS[name])
    return SCRIPTS[name]


SCRIPTS: dict = {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders that are not damaged, by their names in a case's command."""
    base = tmp_path_factory.mktemp("whole")
    folders.write(base / "hf", folders.LLADA)
    folders.write_tokenizer(base / "hf", folders.LLADA)
    patch = pytest.MonkeyPatch()
    patch.setattr(warnings, "showwarning", warnings.showwarning)
    assert script("convert").main([f"--from_hf={base / 'hf'}", f"--to_orbax={base / 'good'}"]) == 0
    patch.undo()
    return {"HF": base / "hf", "GOOD": base / "good", "DATA": base / "data", "ROOT": ROOT}


def outcome(one: case.Case, folder: Path, whole: dict, patch, capsys):
    """(exit code, text on stderr) of a case's command."""

    def filled(text: str) -> str:
        for name, place in whole.items():
            text = text.replace(name, str(place))
        return text.replace("DIR", str(folder)).replace("=configs/", f"={ROOT}/configs/")

    case.write(folder, one.files)
    for name in ("hf", "good"):
        if f"DIR/{name}" in one.command:
            shutil.copytree(whole[name.upper()], folder / name)
    if one.build is not None:
        one.build(folder)
    before = contents(folder)
    name, *arguments = shlex.split(one.command, comments=True)
    patch.chdir(folder)
    patch.setattr(warnings, "showwarning", warnings.showwarning)
    patch.setattr(train, "train", lambda *_, **__: pytest.fail("accepted, and training began"))
    if name == "compare":  # others may open the sandbox
        patch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a run began"))
    patch.setattr(sys, "argv", [f"{name}.py", *map(filled, arguments)])
    module = script(name)
    capsys.readouterr()
    code = code_of(module.main)
    errors = capsys.readouterr().err
    assert contents(folder) == before, "something was written"
    return code, errors, [filled(said) for said in one.said]


def test_debug_shows_where_and_the_line_stays_the_last(tmp_path, whole, monkeypatch, capsys):
    command = f"main {flags.CODING},seed=-1 --workdir=DIR/work"
    for wanted in (False, True):
        one = case.Case(command + " --debug" * wanted, ())
        code, errors, _ = outcome(one, tmp_path, whole, monkeypatch, capsys)
        *before, last = errors.splitlines()
        assert code == 2 and last == "error: seed=-1 must be at least 0"
        assert bool(before) == wanted == ("Traceback" in errors)


def test_a_fault_of_ours_is_told_as_one(tmp_path, whole, monkeypatch, capsys):
    """In one line too, but with exit code 1: the input need not be wrong."""
    monkeypatch.setattr(settings, "parse", lambda _: [][0])
    one = case.Case(f"main {flags.CODING} --workdir=DIR/work", ())
    code, errors, _ = outcome(one, tmp_path, whole, monkeypatch, capsys)
    assert code == 1 and errors.startswith("error: IndexError: list index out of range (a fault;")


@pytest.fixture
def heeding() -> Iterator[None]:
    """Ctrl-C as a terminal's programs have it; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_ends_long_work_is_one_line_and_a_file(capsys, monkeypatch, tmp_path, heeding):
    """Also where a thread of its own fails; with --debug the traceback stands before the line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fails():
        raise KeyError("a column\nof rows" + "x" * 10_000)

    def in_a_thread():
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
        return 0

    for main, code in ((fails, 1), (in_a_thread, 0)):
        monkeypatch.setattr(sys, "argv", ["main.py"])
        assert cli.run(main) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: KeyError: 'a column") and len(line) < 1000
        told = Path(re.search(r"\(its traceback: (.*)\)", line)[1])
        assert told.parent == tmp_path and "in fails" in told.read_text()
        monkeypatch.setattr(sys, "argv", ["main.py", "--debug"])
        assert cli.run(main) == code
        *before, line = capsys.readouterr().err.splitlines()
        assert "Traceback (most recent call last):" in before and "its traceback" not in line
    monkeypatch.setattr(sys, "argv", ["main.py"])
    assert cli.run(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.command[:90])
def test_it_ends_with_one_line(one, tmp_path, whole, monkeypatch, capsys):
    code, errors, said = outcome(one, tmp_path, whole, monkeypatch, capsys)
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and len(line) < 1000, line
    for part in said:
        assert part in line, line
