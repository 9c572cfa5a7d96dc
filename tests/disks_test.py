"""Disks that are full, that cannot be written, or that have lost a file: a run ends in one line or
goes on, and nothing is lost. In a mount namespace of its own, where the system allows that."""

from pathlib import Path
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from tests.contents import contents
from tests.processes import (
    ROOT,
    Runs,
    assert_same_run,
    last_state,
    without_clock,
)

MIB = 15  # hold all of a run but its last checkpoint, beside which two of 4 and 7 MiB lie


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    """As root in a namespace of one's own, since modes do not bind root."""
    tried = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("no namespaces here")


@pytest.fixture
def copy(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def run_on(runs: Runs, mount: str, workdir: Path, after: str = "true") -> tuple[int, str]:
    """(exit code, the one line of errors) of a run, with shell commands before and after it."""
    command = shlex.join(runs.command(workdir))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {command}; code=$?; {after}; exit $code"],
        cwd=ROOT,
        env=runs.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    return done.returncode, lines[0]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(runs, undisturbed, stopped, tmp_path):
    """With room again the same command goes on to the same parameters."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={MIB}m none {disk} && cp -a {stopped}/. {disk}"
    code, line = run_on(runs, mount, disk, after=f"cp -a {disk} {kept}")
    assert code == 1 and str(disk) in line and "No space left on device" in line
    assert "the ones before it are kept" in line
    assert "resuming" in runs.finish(kept)
    assert_same_run(kept, undisturbed)


@pytest.mark.slow
def test_a_disk_that_cannot_be_written_ends_the_run_at_once(runs, copy):
    before = contents(copy)
    mount = f"mount --bind {copy} {copy} && mount -o remount,bind,ro {copy}"
    code, line = run_on(runs, mount, copy)
    assert code == 2 and f"{copy}: nothing can be written there (Read-only" in line
    assert contents(copy) == before


@pytest.mark.slow
def test_a_garbled_line_is_named_and_nothing_changes(runs, copy):
    path = copy / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:20] + "\n", *lines[2:]]))
    before = contents(copy)
    code, line = run_on(runs, "true", copy)
    assert code == 2 and f"{path}, line 2 is not JSON" in line and "mend that, or give" in line
    assert contents(copy) == before


@pytest.mark.slow
def test_a_run_goes_on_without_its_metrics(runs, undisturbed, copy):
    """They are told of and gone; the parameters are the same, and so is what is written from there
    on."""
    lines = len((copy / "metrics.jsonl").read_text().splitlines())
    (copy / "metrics.jsonl").unlink()
    output = runs.finish(copy)
    assert f"metrics.jsonl: {lines} of {lines} lines of this run are not there" in output
    state, expected = last_state(copy), last_state(undisturbed)
    for name in expected:
        np.testing.assert_array_equal(state[name], expected[name], err_msg=name)
    assert without_clock(copy) == without_clock(undisturbed)[lines:]
