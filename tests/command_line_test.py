"""What is wrong with a command line is told before jax is imported, by every script and as
`gdsd`."""

from pathlib import Path
import runpy
import subprocess
import sys

import pytest

from gdsd_jax.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
CODING = f"--config={ROOT}/configs/coding.py"
NO_FILE = "--config=/no/file.py"
WRONG = {  # command -> (flags, what each line says)
    "train": [
        ([], ["--config"]),
        ([CODING, "--round=3"], ["unrecognized arguments: --round=3"]),
        ([NO_FILE, "--workdir=http://x"], ["no file /no/file.py", "http://x: give a local"]),
        ([f"{CODING}:huge"], ["unknown model 'huge'"]),
        ([f"{CODING}:tiny,rounds"], ["override 'rounds' is not of the form"]),
    ],
    "eval": [
        ([], ["--checkpoint=DIR, --again=FILE"]),
        (["--nope"], ["unrecognized arguments: --nope"]),
        (
            ["--checkpoint=x", NO_FILE, "--out=/no/x", "--lengths=a", "--samples=0"],
            ["no file /no/file.py", "--out=/no/x: no folder", "--lengths=a", "--samples=0"],
        ),
    ],
    "generate": [
        (["--nope"], ["--checkpoint"]),
        (
            ["--checkpoint=x", "--prompt=a", "--batch=0", "--seed=-1", "--out=/no/x"],
            ["--batch=0 must be", "--seed=-1 must be", "--out=/no/x: no folder"],
        ),
    ],
    "convert": [
        (["--from_hf=x", "--nope"], ["unrecognized arguments: --nope"]),
        (
            ["--from_hf=x", "--mask_token=m", "--max_shard_gb=0"],
            ["--max_shard_gb=0.0 must be", "give either --from_hf", "--mask_token belongs"],
        ),
    ],
    "plan": [
        ([CODING], ["--topology"]),
        ([NO_FILE, "--topology=v5e:4x4", "--json=/no/x"], ["no file", "--json=/no/x: no folder"]),
    ],
    "compare": [
        ([CODING], ["NAME=OVERRIDES"]),
        (
            [NO_FILE, "--out=gs://b/o", "--seeds=a", "b"],
            ["variant 'b' is not", "--seeds=a: give whole", "no file", "--out=gs://b/o: give"],
        ),
    ],
    "bench": [
        (["--size=huge"], ["invalid choice: 'huge'"]),
        (["--json=/no/x", "--parts=all"], ["'all' is none of", "--json=/no/x: no folder"]),
    ],
    "harness": [
        ([], ["--tasks"]),
        (
            ["--checkpoint=x", "--tasks=a", "--draws=0", "--out=/no/x", "--include=/no/y"],
            ["--draws=0 must be", "--out=/no/x: no folder", "--include=/no/y: no such folder"],
        ),
    ],
}
RUN = """
import runpy, sys
try:
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    heavy = {"jax", "numpy", "flax", "orbax"} & set(sys.modules)
    print(stop.code, *sorted(heavy))
"""


def run(script: Path, *flags: str) -> tuple[str, list[str]]:
    """(exit code and what was imported of jax and the like, lines on stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(script), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return done.stdout.strip(), done.stderr.splitlines()


def check(lines: list[str], said: list[str]) -> None:
    assert len(lines) == len(said), lines
    for line, part in zip(lines, said):
        assert line.startswith("error: ") and part in line, lines


def test_every_command_is_here():
    assert WRONG.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_line_is_told_before_jax_is_imported(command):
    for flags, said in WRONG[command]:
        code, lines = run(ROOT / "launch" / COMMANDS[command][0], *flags)
        check(lines, said)
        assert code == "2"
    code, lines = run(ROOT / "gdsd_jax" / "__main__.py", command, *flags)
    check(lines, said)
    assert code == "2"


@pytest.mark.parametrize("script", ["eval", "compare", "convert"])
def test_what_cannot_be_written_is_told_at_once(monkeypatch, capsys, tmp_path, script):
    """Not after hours of work; root may write everywhere."""
    flags = {
        "eval": ["--checkpoint=x", f"--out={tmp_path}/out"],
        "compare": [CODING, f"--out={tmp_path}/out", "a="],
        "convert": ["--from_hf=x", f"--to_orbax={tmp_path}/out"],
    }[script]
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    with pytest.raises(SystemExit, match="^2$"):
        runpy.run_path(ROOT / "launch" / f"{script}.py", run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"={tmp_path}/out: nothing can be written there (Permission denied); name" in line


def test_a_wrong_setting_is_told_after_it():
    """So that the test above would notice."""
    code, lines = run(ROOT / "launch" / "main.py", f"{CODING}:tiny,rounds=x")
    check(lines, ["config key 'rounds' takes int values"])
    assert code.startswith("2 ") and "jax" in code
