"""One run at a time in a workdir: a lock that a dead run does not leave behind.

On a local disk the system holds it, by flock on WORKDIR/.lock, as long as the process lives. In an
object store WORKDIR/.lock is written again and again, each time on the condition that nobody else
has written it since. Who finds it there watches whether it changes: no clocks are compared.
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import os
import socket
import threading
import uuid

from etils import epath
import tensorstore as ts

from gdsd_jax import hosts, paths

NAME = ".lock"
BEAT_S = 10.0  # from one writing to the next, in an object store
PATIENCE_S = 60.0  # without one, after which the run that wrote it counts as dead


class Lost(Exception):
    """Another run has taken the lock."""


@contextlib.contextmanager
def held(
    workdir: epath.Path,
    say: Callable[[str], None],
    end: Callable[[str], None] = lambda line: hosts.leave(1, line),
) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if need be.

    At the end the lock is what it was before, since a refused run changes nothing: gone, or with
    the name of a run that was killed. Folders that were made and are empty go too.

    Args:
      workdir: local folder or gs:// address.
      say: takes a line where something has to be waited for, or no lock is possible.
      end: ends the process, with a line, where another run has taken the lock: in an object store
        that happens to a run that stood still for too long.

    Raises:
      paths.WorkdirError: another run holds it, or nothing can be written there; one line.
    """
    if paths.is_remote(workdir):
        with leased(workdir, say, end):
            yield
        return
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    file, before = locked(workdir, say)
    sign(file, myself().encode())
    try:
        yield
    finally:
        if before is None:
            with contextlib.suppress(OSError):
                os.unlink(workdir / NAME)
                for folder in made:
                    os.rmdir(folder)  # raises where something lies in it
        else:
            sign(file, before)
        os.close(file)


def check_writable(workdir: epath.Path) -> None:
    """paths.WorkdirError where a local folder could not be made or written in; nothing is."""
    reason = paths.why_unwritable(workdir)
    if reason is not None:
        raise paths.WorkdirError(unwritable(workdir, reason))


def unwritable(workdir: epath.Path, reason: str) -> str:
    """The line that refuses a folder."""
    return f"{workdir}: nothing can be written there ({reason}): give another --workdir"


def locked(workdir: epath.Path, say: Callable[[str], None]) -> tuple[int, bytes | None]:
    """(the open file that holds the lock, what stood in it, None where there was no file); raises
    as `held`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        there = (workdir / NAME).exists()
        file = os.open(workdir / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise paths.WorkdirError(unwritable(workdir, error.strerror)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 200).decode(errors="replace")
        os.close(file)
        raise paths.WorkdirError(busy(workdir, holder)) from None
    except OSError as error:
        say(f"{workdir}: no lock there ({error.strerror}): see to it that no other run uses it")
    if not is_at(workdir / NAME, file):  # the run before took it away meanwhile
        os.close(file)
        return locked(workdir, say)
    return file, os.pread(file, 200, 0) if there else None


def is_at(path: epath.Path, file: int) -> bool:
    """Whether an open file still has that path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def sign(file: int, holder: bytes) -> None:
    """Writes who holds a lock, for others."""
    with contextlib.suppress(OSError):  # a full disk does not matter here
        os.ftruncate(file, 0)
        os.pwrite(file, holder, 0)


def myself() -> str:
    """This process, for the others' message."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def busy(workdir: epath.Path, holder: str) -> str:
    """The line that refuses a second run."""
    return (
        f"{workdir}: another run is at work there, {holder or 'of unknown name'}: wait for its "
        "end, or give another --workdir"
    )


@contextlib.contextmanager
def leased(
    workdir: epath.Path, say: Callable[[str], None], end: Callable[[str], None]
) -> Iterator[None]:
    """`held` in an object store."""
    try:
        lease = Lease(workdir)
        lease.take(say)
    except paths.WorkdirError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise paths.WorkdirError(f"{workdir}: no lock can be written there ({reason})") from None
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            try:
                lease.renew()
            except Lost as error:
                end(str(error))
                return
            except Exception:
                continue  # the network; whether the lease is lost shows when it is back

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lease.drop()


class Lease:
    """An object that the run in a workdir keeps writing."""

    def __init__(self, workdir: epath.Path):
        self.workdir = workdir
        self.store = ts.KvStore.open(paths.kvstore(workdir)).result()
        self.generation = b""

    def take(self, say: Callable[[str], None]) -> None:
        """Raises paths.WorkdirError where another run holds it."""
        found = self.store.read(NAME).result()
        if found.state == "value":
            say(f"{self.workdir}: waiting up to {PATIENCE_S:.0f} s for a run that may be at work")
        waited = 0.0
        while found.state == "value" and waited < PATIENCE_S:
            threading.Event().wait(BEAT_S / 2)
            waited += BEAT_S / 2
            now = self.store.read(NAME).result()
            if now.state == "value" and now.stamp.generation != found.stamp.generation:
                raise paths.WorkdirError(busy(self.workdir, holder_in(now.value)))
            found = now
        self.generation = found.stamp.generation
        try:
            self.renew()
        except Lost as error:
            raise paths.WorkdirError(str(error)) from None

    def renew(self) -> None:
        """Writes it again; Lost where another run has written it since."""
        value = f"{myself()}\n{uuid.uuid4().hex}".encode()
        written = self.store.write(NAME, value, if_equal=self.generation).result().generation
        if not written:
            # or it was written, the answer was lost and the second try refused
            now = self.store.read(NAME).result()
            if now.value != value:
                raise Lost(busy(self.workdir, holder_in(now.value)))
            written = now.stamp.generation
        self.generation = written

    def drop(self) -> None:
        """Takes it away, unless another run has it."""
        with contextlib.suppress(Exception):  # who comes next finds that it changes no more
            self.store.write(NAME, None, if_equal=self.generation).result()


def holder_in(value: bytes) -> str:
    """Who wrote the object."""
    return value.decode(errors="replace").partition("\n")[0]
