"""A run of many minutes under kills: it ends as one that is left alone, and neither memory nor
files, processes or disk grow with the rounds.

GDSD_SOAK_MINUTES says how many, in all: 15 without it. `-s` shows the numbers.
"""

import contextlib
import os
from pathlib import Path
import random
import signal
import subprocess
import time
from typing import NamedTuple

import numpy as np
import pytest

from gdsd_jax.checkpoint import Checkpoints
from tests.processes import TAUGHT, Runs, assert_same_run, children_of, without_clock

MINUTES = float(os.environ.get("GDSD_SOAK_MINUTES", "15"))
ENDLESS = "rounds=1000000,eval_every=10,checkpoint_every=2"
GROWING = ("metrics.jsonl", "report.html", "samples")  # as the run tells of more rounds
SAMPLE_S = 5.0


class Use(NamedTuple):
    """What a run holds at a moment: MiB of memory and disk, numbers of the others."""

    memory: float  # resident, of the run and what it started
    files: int  # open in the run
    threads: int  # of the run
    processes: int
    disk: float
    temporary: int  # entries of its folder for temporary files


def family_of(pid: int) -> list[int]:
    """The process and all that come from it."""
    found = [pid]
    for one in found:
        found += children_of(one)
    return found


def resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def use_of(pid: int, workdir: Path, temporary: Path) -> Use:
    family, own = family_of(pid), Path(f"/proc/{pid}")
    size = 0
    for path in workdir.rglob("*"):
        with contextlib.suppress(OSError):
            growing = path.relative_to(workdir).parts[0] in GROWING
            size += 0 if growing or path.is_dir() else path.stat().st_size
    return Use(
        memory=sum(map(resident, family)),
        files=len(list((own / "fd").iterdir())),
        threads=len(list((own / "task").iterdir())),
        processes=len(family),
        disk=size / 2**20,
        temporary=len(list(temporary.iterdir())),
    )


def rollouts_in(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count('"phase": "rollout"') if path.exists() else 0


def watched(process: subprocess.Popen, workdir: Path, temporary: Path, longest_s: float) -> list:
    """What the run holds every few seconds from its third round on, until it ends or the time is
    over; before that it imports, compiles, and evaluates for the first time."""
    uses, began = [], time.monotonic()
    while process.poll() is None and time.monotonic() < began + longest_s:
        with contextlib.suppress(OSError, ValueError):  # it ends just now
            if rollouts_in(workdir) > 2:
                uses.append(use_of(process.pid, workdir, temporary))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_S)
    return uses


def disturbed(
    runs: Runs, workdir: Path, temporary: Path, seconds: float, short_s: float
) -> tuple[int, int]:
    """Trains under kills and stops, each after about the seconds of a short run; (how many of
    them, finished rounds)."""
    chance, until, number = random.Random(4), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        process = runs.start(workdir, ENDLESS, TMPDIR=str(temporary), quiet=True)
        watched(process, workdir, temporary, short_s * chance.uniform(0.5, 2.0))
        assert process.poll() is None, process.returncode
        process.send_signal(signal.SIGTERM if number % 3 == 2 else signal.SIGKILL)
        assert process.wait() in (143, -signal.SIGKILL, -signal.SIGTERM)
        number += 1
    checkpoints = Checkpoints(workdir / "checkpoints")
    newest = checkpoints.latest()
    return number, 0 if newest is None else checkpoints.host(newest)["round"]


@pytest.mark.long
def test_a_run_may_take_as_long_as_it_likes(data_dir, tmp_path):
    killed, alone, temporary = (tmp_path / name for name in ("killed", "alone", "temporary"))
    temporary.mkdir()
    with contextlib.closing(Runs(data_dir, TAUGHT)) as runs:
        began = time.monotonic()
        runs.finish(tmp_path / "short")  # compiles all that the others use
        short_s = time.monotonic() - began
        kills, rounds = disturbed(runs, killed, temporary, 30 * MINUTES, short_s)
        assert rounds > 0, "give it more minutes"
        end = f"{ENDLESS},rounds={rounds + 1}"
        runs.finish(killed, end, TMPDIR=str(temporary))
        process = runs.start(alone, end, TMPDIR=str(temporary), quiet=True)
        uses = watched(process, alone, temporary, np.inf)
        assert process.returncode == 0
    assert_same_run(killed, alone)
    print(f"\n{kills} kills and stops, {rounds + 1} rounds, {len(without_clock(alone))} lines")
    assert len(uses) > 10, "give it more minutes"
    thirds = {}
    for name in Use._fields:
        values = np.array([getattr(use, name) for use in uses], float)
        thirds[name] = [np.median(part) for part in np.array_split(values, 3)]
        told = ", ".join(f"{median:.4g}" for median in thirds[name])
        print(f"{name}: {told}; at most {values.max():.4g}")
    for name, (_, middle, end) in thirds.items():
        assert end <= 1.05 * middle + 1, name
