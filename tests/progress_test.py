"""Long work is told while it goes on: in a live line on a terminal, in plain lines elsewhere."""

import contextlib
import fcntl
import importlib.util
import io
import os
from pathlib import Path
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from gdsd_jax import progress
from gdsd_jax.hosts import Hosts
from gdsd_jax.progress import phase, say, shown

ROOT = Path(__file__).resolve().parents[1]
WORK = """
import sys, time
from gdsd_jax import progress
from gdsd_jax.progress import phase, say, shown
progress.QUIET_S, progress.REDRAW_S = 0.3, 0.02
with shown():
    say("begins")
    with phase("round 1/2"):
        for _ in progress.counted(range(3), "update"):
            time.sleep(0.3)
    say("round 1/2 is done")
    for _ in range(2):
        with phase("rollout"):
            time.sleep(1.1)
print("ends")
"""


def on_a_terminal(columns: int) -> str:
    """What WORK writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-c", WORK]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # which the end of the terminal is
        while data := os.read(master, 65536):
            written += data
    os.close(master)
    assert process.wait() == 0, written
    return written.decode()


def screen_of(written: str) -> list[str]:
    """The lines that stay on a terminal, of text, returns and new lines alone."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*[A-Z]", "", written).split("\n"):
        shown = ""
        for drawn in line.split("\r"):
            shown = drawn + shown[len(drawn) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def test_a_terminal_shows_a_live_line_and_keeps_the_others():
    written = on_a_terminal(100)
    assert screen_of(written) == ["begins", "round 1/2 is done", "ends"]
    drawn = [line.rstrip() for line in written.split("\r")]
    assert any(re.fullmatch(r"round 1/2: update \[1/3\] \|█.*\| 00:00", line) for line in drawn)
    assert any(re.match(r"rollout \|.*\| 00:00 \(the last one took 00:01\)", x) for x in drawn)


def test_a_narrow_terminal_is_not_overrun():
    written = on_a_terminal(12)
    drawn = [line for line in re.split("[\r\n]", written) if line.startswith("round 1/2:")]
    assert drawn and max(len(line.rstrip()) for line in drawn) < 12


def test_a_pipe_gets_plain_lines_where_it_was_quiet():
    done = subprocess.run(
        [sys.executable, "-c", WORK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "\r" not in done.stdout and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "begins" and lines[-1] == "ends" and "round 1/2 is done" in lines
    told = [line for line in lines if line.startswith("round 1/2: update [")]
    assert told and all(re.fullmatch(r"round 1/2: update \[\d/3\], 00:0\d", one) for one in told)


def told_in(stream, quiet_s: float, seconds: float, monkeypatch) -> str:
    """What a phase of so many seconds writes to a stream that is no terminal."""
    monkeypatch.setattr(progress, "QUIET_S", quiet_s)
    monkeypatch.setattr(progress, "REDRAW_S", 0.01)
    with shown(stream), phase("work"):
        time.sleep(seconds)
    return stream.getvalue()


def test_nothing_is_told_of_what_is_quick(monkeypatch):
    assert told_in(io.StringIO(), 30, 0.1, monkeypatch) == ""
    assert "work, 00:00" in told_in(io.StringIO(), 0.05, 0.2, monkeypatch)


def test_outside_of_the_block_phases_say_nothing(capsys):
    with phase("work", 2) as step:
        step()
    say("a line")
    assert capsys.readouterr().out == "a line\n" and not progress._open


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stream_that_is_closed_does_no_harm(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "REDRAW_S", 0.01)
    stream = io.StringIO()
    with shown(stream), phase("work"):
        stream.close()
        time.sleep(0.1)


def test_a_phase_ends_with_what_it_raises():
    with pytest.raises(ValueError), phase("outer"), phase("inner"):
        raise ValueError
    assert not progress._open


def test_steps_may_come_from_many_threads():
    with phase("work", 400) as step:
        threads = [threading.Thread(target=lambda: [step() for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert progress.names_of(progress._open) == "work [400/400]"


def test_it_asks_nothing_of_the_devices(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "REDRAW_S", 0.001)
    x = jnp.ones(4)
    double = jax.jit(lambda x: 2 * x)
    stream = io.StringIO()
    with shown(stream), jax.transfer_guard("disallow"), phase("rollout"):
        for _ in range(50):
            x = double(x)
            time.sleep(0.001)
        jax.block_until_ready(x)
    assert "rollout, 00:00" in stream.getvalue()


def test_the_first_process_alone_tells(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "REDRAW_S", 0.01)
    spec = importlib.util.spec_from_file_location("launch_main", ROOT / "launch" / "main.py")
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    for index, is_told in ((1, False), (0, True)):
        with main.shown(Hosts(index, 2)), phase("work"):
            time.sleep(0.1)
        assert ("work, 00:00" in capsys.readouterr().out) == is_told
