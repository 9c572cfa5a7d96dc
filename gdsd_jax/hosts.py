"""The processes of a run, one on each host: starting them, values that all of them learn, and the
end of all when one fails.

What they tell one another passes through jax's coordination service, not through the devices, so it
works while the devices compute. Device arrays are the business of sharding.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import ctypes
import os
from pathlib import Path
import pickle
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the service's client has no public name
import numpy as np

BEAT_S = 2.0
SILENCE_S = 30.0  # after which a process counts as dead
MEETING_S = 300  # within which all must have started


class Hosts:
    """This process among all of them.

    All processes must call `exchange`, and what is built on it, in the same order. Exchanges of
    different kinds do not wait for one another: a stop can be agreed on while a thread merges
    rewards.

    Attributes:
      index: of this process, 0 .. count - 1.
      count: of processes.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count, self._client = index, count, client
        self._numbers = Counter()  # exchanges so far, by kind
        self._done = threading.Event()

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def exchange(self, value: Any, kind: str = "values") -> list:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        self._numbers[kind] += 1
        number = self._numbers[kind]
        here = f"exchange/{kind}/{number}/"
        self._client.key_value_set_bytes(f"{here}{self.index}", pickle.dumps(value))
        # It may take any time. Whether the others still live is the business of `watch`, which a
        # blocking call of the client would not let run.
        pause = 0.001
        found = self._client.key_value_dir_get_bytes(here)
        while len(found) < self.count:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.1)
            found = self._client.key_value_dir_get_bytes(here)
        if number > 1:  # who has answered this time has read the values of the last time
            self._client.key_value_delete(f"exchange/{kind}/{number - 1}/{self.index}")
        values = {int(key.rpartition("/")[2]): pickle.loads(value) for key, value in found}
        return [values[index] for index in range(self.count)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.exchange(flag, "flags"))

    def run_until_stopped(
        self, work: Callable[[], Any], signalled: Callable[[], bool]
    ) -> tuple[bool, futures.Future]:
        """Runs `work()` in a thread; returns early when any process gets SIGTERM. Returns
        (stopped, future).

        All processes must call it together, and all get the same `stopped`: what the work exchanges
        must not be flags (`any`), whose order it would disturb. Unless stopped, the future is done.
        Where stopped, the work may still run, until it ends or the process does. What it raises is
        raised here, or by the future's `result()` where it was stopped first.

        Args:
          work: called under jax's transfer guard "disallow", without arguments.
          signalled: whether this process got SIGTERM, from `watch_sigterm`.
        """
        future = futures.Future()
        asked = time.monotonic()  # when it last looked whether another process stops
        threading.Thread(target=fulfil, args=(future, work), daemon=True).start()
        while not futures.wait([future], timeout=0.02).done:
            if signalled():
                self.say("stop")
                break
            if time.monotonic() > asked + 1.0:
                if self.said("stop"):
                    break
                asked = time.monotonic()
        if future.done():
            # Before waiting for the others: where the work failed, this process ends.
            future.result()
        return self.any(signalled()), future

    def done(self, timeout: float = 0.0) -> bool:
        """Whether `finish` was called; waits up to `timeout` seconds for it."""
        return self._done.wait(timeout)

    def finish(self) -> None:
        """Returns when all processes have called it; in process 0 when the others are about to
        end."""
        self.exchange(None, "ends")
        self._done.set()
        if not self.first:
            self.say(f"bye/{self.index}")
            return
        others = range(1, self.count)
        until = time.monotonic() + SILENCE_S
        while time.monotonic() < until and not all(self.said(f"bye/{i}") for i in others):
            time.sleep(0.1)

    def linger(self) -> None:
        """Waits a little in process 0, so that the others end before it: the service ends with it,
        and jax aborts those who still need the service."""
        if self.first and self.count > 1:
            time.sleep(2 * BEAT_S)

    def one_by_one(self, build: Callable[[], Any]) -> Any:
        """What `build()` returns here; process 0 calls it first, the others find its files on a
        shared disk."""
        if self.first:
            built = build()
            self.exchange(None)
            return built
        self.exchange(None)
        return build()

    def share(self, count: int) -> slice:
        """The indices of this process's share of `count` items; `merge` joins the shares."""
        return slice(self.index, count, self.count)

    def merge(self, part: dict, count: int) -> dict:
        """{name: array of `count` rows} from each process's {name: array of its share}.

        A process whose share is empty may give {}.
        """
        merged = {}
        for index, theirs in enumerate(self.exchange(part)):
            for name, values in theirs.items():
                if name not in merged:
                    merged[name] = np.empty((count, *values.shape[1:]), values.dtype)
                merged[name][index :: self.count] = values
        return merged

    def say(self, name: str) -> None:
        """Leaves a word that the others can look for by `said`; waits for nobody."""
        if self.count > 1:
            self._client.key_value_set(f"word/{name}", "said", allow_overwrite=True)

    def said(self, name: str) -> bool:
        """Whether any process, this one too, has left that word by `say`; False where it is alone,
        for then nobody leaves any."""
        if self.count == 1:
            return False
        try:
            self._client.key_value_try_get(f"word/{name}")
        except jax.errors.JaxRuntimeError:
            return False
        return True


def fulfil(future: futures.Future, work: Callable[[], Any]) -> None:
    """Calls `work()` and gives the future what it returns or raises."""
    try:
        with jax.transfer_guard("disallow"):  # each thread has a guard of its own
            future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def trim_heap() -> None:
    """Gives the system back what the host has freed; glibc keeps what its threads allocated, after
    a checkpoint about half the size of it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@contextlib.contextmanager
def watch_sigterm() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM is noted and has no other effect; afterwards it does what it did
    before. To be entered in the main thread.

    Yields `signalled()`, which tells whether it has come. That is no `threading.Event`: a second
    SIGTERM, while the handler of the first one sets it, would wait for its lock for ever.
    """
    received = []
    former = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        # None: a handler that C code installed, which Python cannot install again
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


def start(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> Hosts:
    """Joins the other processes. To be called before jax looks at devices.

    Given an address, a number and an index, these say who meets where. Given none, the processes
    are those of the TPU VMs' slices, or on another machine this one alone.

    Raises:
      ValueError: some of the three are missing or impossible; one line says which.
    """
    given = (coordinator, count, index)
    if given == (None, None, None):
        if not on_tpu_vm():
            return Hosts()
    elif None in given:
        raise ValueError(
            "give --coordinator=HOST:PORT, --num_processes and --process_id together, "
            "or on TPU VMs none of them"
        )
    else:
        check_address(*given)
    # it would swallow SIGTERM until the loop listens
    jax.config.update("jax_enable_preemption_service", False)
    place = coordinator or "the first"
    meeting = f"the processes did not all meet at {place} within {MEETING_S} s: start all of them"
    before_abort(lambda: meeting)
    # A process sends two heartbeats in this time. jax aborts all when one of them has missed its
    # own, so that it takes from half of the time to the whole of it.
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        initialization_timeout=MEETING_S,
        heartbeat_timeout_seconds=int(4 * SILENCE_S),
    )
    hosts = Hosts(jax.process_index(), jax.process_count(), distributed.global_state.client)
    names = hosts.exchange(socket.gethostname())

    def explain() -> str | None:
        """When process 0 ends, so does the service, and jax aborts the others before `watch` can
        speak."""
        if answers(distributed.global_state.coordinator_address):
            return None
        return gone(0, hosts, names)

    before_abort(explain)
    if hosts.count > 1:
        threading.Thread(target=watch, args=(hosts, names), daemon=True).start()
    return hosts


def check_address(coordinator: str, count: int, index: int) -> None:
    """ValueError, one line, where the processes cannot meet at that address. jax would abort, or
    wait for minutes."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(
            f"--coordinator={coordinator}: give HOST:PORT, the host of process 0 and a free port "
            "there"
        )
    if not 0 <= index < count:
        raise ValueError(
            f"--process_id={index} must lie in 0 .. {count - 1}, below --num_processes={count}"
        )
    try:
        socket.getaddrinfo(host.strip("[]"), port)
        if index == 0:
            socket.create_server(("", int(port))).close()
    except OSError as error:
        raise ValueError(
            f"--coordinator={coordinator}: {error.strerror}; process 0 listens there"
        ) from None


def answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        return True
    except OSError:
        return False


def before_abort(explain: Callable[[], str | None]) -> None:
    """From now on, when C++ code calls abort(), the process ends with the line that `explain`
    returns; where that is None it aborts as usual."""

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def on_abort(_) -> None:
        line = explain()
        if line is not None:
            leave(1, line)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(on_abort))  # C holds it
    # not by the module `signal`, whose handlers run only between two steps of the main thread
    ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)


def on_tpu_vm() -> bool:
    """Whether this machine has TPU chips."""
    if any(Path("/dev").glob("accel[0-9]*")):
        return True
    # v5e and later show up as vfio groups, as other devices may: a TPU VM's variables decide
    has_groups = any(Path("/dev/vfio").glob("[0-9]*"))
    return has_groups and any(name.startswith("TPU_") for name in os.environ)


def watch(hosts: Hosts, names: list[str]) -> None:
    """Ends this process when another one has been silent for `SILENCE_S`, with a line that names
    it."""
    client = distributed.global_state.client
    beat = 0
    # of each process its last beat, and when it was first seen
    seen = {f"beat/{index}": ("", time.monotonic()) for index in range(hosts.count)}
    while not hosts.done(BEAT_S):
        beat += 1
        try:
            client.key_value_set(f"beat/{hosts.index}", str(beat), allow_overwrite=True)
            beats = dict(client.key_value_dir_get("beat/"))
        except jax.errors.JaxRuntimeError:
            if not hosts.done():
                leave(1, gone(0, hosts, names))  # the service lives in process 0
            return
        now = time.monotonic()
        for key, value in beats.items():
            if seen[key][0] != value:
                seen[key] = (value, now)
        silent = min(seen, key=lambda key: seen[key][1])
        if now - seen[silent][1] > SILENCE_S:
            hosts.linger()  # so that the others find out by themselves
            leave(1, gone(int(silent.rpartition("/")[2]), hosts, names))


def gone(index: int, hosts: Hosts, names: list[str]) -> str:
    """The line that says that a process has ended; `names` are those of the hosts."""
    again = "start all of them again, they go on from the last checkpoint"
    return f"process {index} of {hosts.count}, on {names[index]}, is gone: {again}"


@contextlib.contextmanager
def naming_failures(hosts: Hosts, told: Callable[[BaseException], str]) -> Iterator[None]:
    """Ends this process where the block raises, with a line that names the process that failed, be
    it this or another one; `told` says of an error what the line says."""
    try:
        yield
    except Exception as error:
        complain(f"process {hosts.index} of {hosts.count}: {told(error)}")
        if isinstance(error, jax.errors.JaxRuntimeError):
            # an exchange breaks when another process ends: `watch` soon names it
            hosts.done(1.5 * SILENCE_S)
        leave(1)


def run_together(
    hosts: Hosts, work: Callable[[], int], told: Callable[[BaseException], str]
) -> int:
    """The exit code that `work` returns. One of several processes does not come back: it ends when
    all have; `told` is that of `naming_failures`."""
    if hosts.count == 1:
        return work()
    with naming_failures(hosts, told):
        code = work()
        if code in (0, 143):
            hosts.finish()
    hosts.linger()
    leave(code)


def leave(code: int, line: str | None = None) -> NoReturn:
    """Ends this process at once, without waiting for the others, who then notice."""
    if line is not None:
        complain(line)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def complain(line: str) -> None:
    """Prints an error for the user."""
    print(f"error: {line}", file=sys.stderr, flush=True)
