"""Right programs of common kinds pass: those of `honest.txt`, which plain CPython passes too."""

import json
import pathlib
import subprocess
import sys

import pytest

from gdsd_jax.sandbox import Limits, Program, SandboxError, open_sandbox

TEXT = pathlib.Path(__file__).with_name("honest.txt").read_text(encoding="utf-8")


def programs():
    """Program and tests of each block of the file, by the block's name."""
    found = {}
    for block in TEXT.split("######## ")[1:]:
        name, _, rest = block.partition("\n")
        source, *tests = rest.split("#### test\n")
        found[name] = Program(source, tuple(tests))
    return found


PROGRAMS = programs()


def test_plain_python_passes_them():
    """So that the file holds nothing wrong; each program is a module of its own."""
    script = """
import json, sys, types
failed = []
for name, (source, tests) in json.load(sys.stdin).items():
    sys.modules["program"] = module = types.ModuleType("program")
    exec(source, vars(module))
    for test in tests:
        try:
            exec(test, dict(vars(module)))
        except BaseException as error:
            failed.append((name, test, repr(error)))
print(json.dumps(failed))
"""
    command, text = [sys.executable, "-P", "-c", script], json.dumps(PROGRAMS)
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/tmp")
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


@pytest.mark.parametrize("mode", ["bwrap", "unshare"])
def test_honest_programs_pass(mode):
    try:
        opened = open_sandbox(mode, workers=2, limits=Limits(cpu_s=3.0, wall_s=30.0))
    except SandboxError as error:
        pytest.skip(str(error))
    with opened:
        verdicts = opened.run(list(PROGRAMS.values()))
    failed = [
        (name, verdict.status, test)
        for (name, program), verdict in zip(PROGRAMS.items(), verdicts)
        for test, passed in zip(program.tests, verdict.passed)
        if not passed
    ]
    assert len(PROGRAMS) > 80 and not failed
