"""Runs that are killed and stopped at any moment end with the same parameters and lines as one that
is left alone, bit for bit; nothing of them stays behind."""

from collections.abc import Iterator
import contextlib
import ctypes
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.processes import (
    SFT_STEPS,
    TAUGHT,
    Runs,
    assert_same_run,
    children_of,
    ended,
    last_state,
)

STOP_S = 25.0  # from a signal to the end of the process
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130}
# A run kills itself when it is here for the n-th time since its start; in this order each finds
# what the one before has left. When a program is graded depends on what the model has learnt, so
# that this comes last.
PLACES = {
    "a checkpoint, its arrays written": (
        "orbax.checkpoint:JsonCheckpointHandler.async_save",
        3,
    ),
    "a checkpoint, as it takes its name": ("os:rename", 3),
    "between two updates": ("gdsd_jax.loop:Loop.stopping", 1),
    "an evaluation": ("gdsd_jax.evaluation.answers:answer", 2),
    "a program, after the one that tries the sandbox": (
        "gdsd_jax.sandbox.pool:_Worker._receive",
        3,
    ),
}


@pytest.fixture
def orphans() -> Iterator[None]:
    """What the runs leave behind becomes a child of this process; the test fails where something
    lives on."""
    libc, subreaper = ctypes.CDLL(None), 36
    libc.prctl(subreaper, 1)
    before = set(children_of("self"))
    try:
        yield
        until = time.monotonic() + 10.0
        while (left := set(children_of("self")) - before) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        assert not left, [command_of(pid) for pid in left]
    finally:
        libc.prctl(subreaper, 0)


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"ended"


def assert_clean(workdir) -> None:
    """Complete checkpoints alone, none of them damaged."""
    assert all(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())
    assert not (workdir / "damaged").exists()


@pytest.mark.slow
def test_killed_at_the_worst_places(runs, undisturbed, tmp_path, orphans):
    for name, (place, count) in PLACES.items():
        process = runs.start(tmp_path, killed=(place, count, signal.SIGKILL))
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{name}: {errors}"
    assert "resuming" in runs.finish(tmp_path)
    assert_same_run(tmp_path, undisturbed)
    assert_clean(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
def test_stopped_in_the_middle(runs, undisturbed, tmp_path, orphans, number):
    """Between two updates; the programs that it started get a Ctrl-C too, as in a terminal."""
    process = runs.start(tmp_path, killed=("gdsd_jax.loop:Loop.stopping", SFT_STEPS + 1, number))
    _, errors = process.communicate()
    assert process.returncode == ENDS[number], errors
    assert "Traceback" not in errors
    assert "resuming" in runs.finish(tmp_path)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("slices", [1, 4])
def test_a_round_goes_on_in_other_slices(runs, undisturbed, stopped, tmp_path, slices):
    """To the same parameters, but for the order of sums."""
    workdir = shutil.copytree(stopped, tmp_path / "run")
    assert f"slices=2 is now {slices}" in runs.finish(workdir, f"slices={slices}")
    state, expected = last_state(workdir), last_state(undisturbed)
    names = [name for name in expected if "['trainable']" in name]
    assert len(names) > 10
    for name in names:
        bound = 1e-5 * np.abs(expected[name]).max()
        np.testing.assert_allclose(state[name], expected[name], rtol=0, atol=bound, err_msg=name)


# ---------------------------------------------------------------- random moments, for an hour


def after_a_while(process: subprocess.Popen, chance: random.Random, longest_s: float) -> bool:
    """Sleeps for a random while; whether the run is still at work."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.0, longest_s))
    return process.poll() is None


@pytest.fixture(scope="module")
def whole_s(runs, undisturbed, tmp_path_factory) -> float:
    """Seconds of a run that compiles nothing."""
    began = time.monotonic()
    runs.finish(tmp_path_factory.mktemp("timed"))
    return time.monotonic() - began


@pytest.mark.long
def test_killed_at_twenty_random_moments(runs, undisturbed, whole_s, tmp_path, orphans):
    """Five a run."""
    chance, kills = random.Random(1), 0
    while kills < 20:
        process = runs.start(tmp_path / str(kills // 5))
        if after_a_while(process, chance, whole_s):
            process.kill()
            kills += 1
        process.communicate()
    for folder in tmp_path.iterdir():
        runs.finish(folder)
        assert_same_run(folder, undisturbed)
        assert_clean(folder)


@pytest.mark.long
@pytest.mark.parametrize("number", ENDS)
def test_stopped_at_ten_random_moments(runs, undisturbed, whole_s, tmp_path, orphans, number):
    """Soon and with their own exit code; before the run has begun the system's own will do."""
    chance, stops, slowest_s = random.Random(2), 0, 0.0
    while stops < 10:
        process = runs.start(tmp_path / str(stops // 5))
        if after_a_while(process, chance, whole_s):
            began = time.monotonic()
            process.send_signal(number)
            output, errors = process.communicate()
            slowest_s = max(slowest_s, time.monotonic() - began)
            codes = {ENDS[number]} if "sft step" in output else {ENDS[number], -number}
            # it may have ended by itself at that very moment
            assert process.returncode in codes | {0}, (output, errors)
            stops += process.returncode != 0
        process.communicate()
    assert slowest_s < STOP_S
    for folder in tmp_path.iterdir():
        runs.finish(folder)
        assert_same_run(folder, undisturbed)
        assert_clean(folder)


@pytest.mark.long
def test_two_processes_killed_at_random_moments(data_dir, tmp_path, orphans):
    """One of them, by turns: the other one ends too, and they go on together."""
    together = Runs(data_dir, TAUGHT, "mesh.data=2")
    with contextlib.closing(together):
        for name in ("first", "alone"):  # the second compiles nothing
            began = time.monotonic()
            found = ended(together.start_together(tmp_path / name, 2))
            assert [code for code, *_ in found] == [0, 0], found
        whole_s, kills, chance = time.monotonic() - began, 0, random.Random(3)
        while kills < 6:
            processes = together.start_together(tmp_path / "killed", 2)
            if after_a_while(processes[kills % 2], chance, whole_s):
                processes[kills % 2].kill()
                kills += 1
            ended(processes)
        found = ended(together.start_together(tmp_path / "killed", 2))
    assert [code for code, *_ in found] == [0, 0], found
    assert_same_run(tmp_path / "killed", tmp_path / "alone")
    assert_clean(tmp_path / "killed")
