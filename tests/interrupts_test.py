"""Ctrl-C wherever it comes: one line, exit code 130."""

from pathlib import Path
import signal
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
BEGIN = """
import gc, os, signal, sys, time
from gdsd_jax import interrupts
interrupts.watch()
from gdsd_jax.cli import run

def press():
    os.kill(os.getpid(), signal.SIGINT)
"""
PLACES = {
    "imports": "press()\ntime.sleep(60)",
    # a compiled module may crash where an exception comes through it
    "imports, no exception": "try:\n    press()\n    time.sleep(60)\nfinally:\n    print('seen')",
    "the script": "sys.exit(run(lambda: press() or time.sleep(60)))",
    # exceptions of these are printed by Python and dropped
    "a collector": """
def pressed(*_):
    gc.callbacks.remove(pressed)
    press()
    for _ in range(1000):
        pass

gc.callbacks.append(pressed)
sys.exit(run(lambda: gc.collect() * 0 or time.sleep(60)))
""",
    "a destructor": """
class Object:
    def __del__(self):
        press()
        for _ in range(1000):
            pass

sys.exit(run(lambda: Object() and time.sleep(60)))
""",
}


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_is_one_line(place):
    command = [sys.executable, "-c", BEGIN + PLACES[place]]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_other_faults_are_shown_as_ever():
    command = [sys.executable, "-c", BEGIN + "raise LookupError('here')"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.endswith("LookupError: here\n")
