"""One run at a time in a workdir: a second one is refused, a dead one leaves nothing behind."""

import contextlib
import fcntl
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

from etils import epath
import pytest

from gdsd_jax import locks, paths

ROOT = Path(__file__).resolve().parents[1]
REMOTE = epath.Path("gs://bucket/run")
HOLD = """
import sys, time
from etils import epath
from gdsd_jax import locks

with locks.held(epath.Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path, other):
    """With the other's number; a killed process leaves no lock behind."""
    workdir = epath.Path(tmp_path / "run")
    with pytest.raises(
        paths.WorkdirError, match=f"at work there, process {other.pid} on "
    ) as error:
        with locks.held(workdir, print):
            pytest.fail("held twice")
    assert "\n" not in str(error.value)
    other.send_signal(signal.SIGKILL)
    other.wait()
    for _ in range(2):
        with locks.held(workdir, pytest.fail):
            pass


def test_a_folder_made_in_vain_goes_again(tmp_path):
    """One in which something lies stays, and so does one that was there, without a lock."""
    there, new, used = (epath.Path(tmp_path / name) for name in ("there", "new", "used"))
    there.mkdir()
    for folder in (there, new, new / "deep" / "run"):
        with locks.held(folder, pytest.fail):
            assert folder.is_dir()
    with locks.held(used, pytest.fail):
        (used / "file").touch()
    assert list(there.iterdir()) == [] and not new.exists()
    assert [path.name for path in used.iterdir()] == ["file"]


@pytest.mark.parametrize("stood", [None, "", "process 7 on another"])
def test_a_lock_is_left_as_it_was(tmp_path, stood):
    """By a run that is refused behind it; one that was killed left its name."""
    path = tmp_path / locks.NAME
    if stood is not None:
        path.write_text(stood)
    with contextlib.suppress(KeyError), locks.held(epath.Path(tmp_path), pytest.fail):
        assert path.read_text() == locks.myself()
        raise KeyError
    assert (path.read_text() if path.exists() else None) == stood


def test_a_lock_that_goes_while_it_is_opened_is_none(tmp_path, monkeypatch):
    """The run before ended between the opening and the locking; a third could make the file anew
    and hold it too."""
    path, lock = tmp_path / locks.NAME, fcntl.flock
    path.touch()

    def late(file, operation):
        monkeypatch.undo()
        path.unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locks.held(epath.Path(tmp_path), pytest.fail):
        with pytest.raises(paths.WorkdirError, match=f"at work there, {locks.myself()}:"):
            with locks.held(epath.Path(tmp_path), pytest.fail):
                pytest.fail("held twice")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(paths.WorkdirError, match="run: nothing can be written there .Not a dir"):
        with locks.held(epath.Path(tmp_path / "file" / "run"), print):
            pass


def test_a_disk_without_locks_is_told_of(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with locks.held(epath.Path(tmp_path), said.append):
        pass
    assert len(said) == 1 and "no lock there (No locks available)" in said[0]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    monkeypatch.setattr(locks, "PATIENCE_S", 0.5)


def lock_of(bucket) -> bytes | None:
    return bucket.objects.get("bucket/run/.lock", (0, None))[1]


def test_a_bucket_refuses_a_second_run_while_the_first_beats(bucket, quick):
    with locks.held(REMOTE, pytest.fail):
        with pytest.raises(paths.WorkdirError, match=f"at work there, process {os.getpid()} on"):
            with locks.held(REMOTE, str):
                pytest.fail("held twice")
    assert lock_of(bucket) is None
    with locks.held(REMOTE, pytest.fail):
        assert lock_of(bucket) is not None


def test_a_dead_runs_object_is_taken_over_and_it_ends_if_it_wakes(bucket, quick, monkeypatch):
    """No clock says that it is dead, only that the object no longer changes."""
    asleep, ended = threading.Event(), []
    renew = locks.Lease.renew

    def beat(lease):
        if asleep.is_set() and lease is first[0]:
            raise ConnectionError("no network")
        renew(lease)

    first = []
    monkeypatch.setattr(locks.Lease, "renew", beat)
    take = locks.Lease.take
    monkeypatch.setattr(
        locks.Lease, "take", lambda lease, say: (first.append(lease), take(lease, say))
    )
    woken = threading.Event()

    def end(line):
        ended.append(line)
        woken.set()

    with locks.held(REMOTE, pytest.fail, end):
        asleep.set()
        said = []
        with locks.held(REMOTE, said.append, pytest.fail):
            assert len(said) == 1 and "waiting up to" in said[0]
            asleep.clear()
            assert woken.wait(10), "the first run goes on beside the second"
            taken = lock_of(bucket)
            first[0].drop()
            assert lock_of(bucket) is not None and taken is not None
    assert "another run is at work there" in ended[0]


def test_of_two_that_find_nothing_one_wins(bucket, quick):
    one, two = locks.Lease(REMOTE), locks.Lease(REMOTE)
    found = two.store.read(locks.NAME).result()
    one.take(pytest.fail)
    two.generation = found.stamp.generation
    with pytest.raises(locks.Lost, match=f"process {os.getpid()} on"):
        two.renew()
    one.renew()
