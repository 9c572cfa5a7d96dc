"""The processes of a run, one a host: starting them, values that all of them learn, and the end of
all when one fails.

What they tell one another here passes through jax's coordination service, not the devices, so that
it works while those compute. Device arrays are the business of sharding.py.
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
import traceback
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name
import numpy as np

BEAT_S = 2.0
SILENCE_S = 30.0  # after which a process counts as dead
MEETING_S = 300  # within which all must have started


class Hosts:
    """This process among all of them. `exchange` and what rests on it must be called by all, in the
    same order; exchanges of different kinds do not wait for one another, so that a stop can be
    agreed on while a thread merges rewards.

    Attributes:
      index: of this process, 0 .. count - 1.
      count: of processes.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count, self._client, self._numbers = index, count, client, Counter()
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
        here, before = (f"exchange/{kind}/{number}/" for number in (number, number - 1))
        self._client.key_value_set_bytes(f"{here}{self.index}", pickle.dumps(value))
        pause = 0.001
        # however long: that the others still live is the business of `watch`, which a blocking call
        # would not let run
        while len(found := self._client.key_value_dir_get_bytes(here)) < self.count:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.1)
        if number > 1:  # whoever has answered this time has read the last one
            self._client.key_value_delete(f"{before}{self.index}")
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
        found, asked = futures.Future(), time.monotonic()
        threading.Thread(target=fulfil, args=(found, work), daemon=True).start()
        while not futures.wait([found], timeout=0.02).done:
            if signalled():
                self.say("stop")
                break
            if time.monotonic() > asked + 1.0:
                if self.said("stop"):
                    break
                asked = time.monotonic()
        if found.done():
            # before the others are waited for: where the work failed the process ends
            found.result()
        return self.any(signalled()), found

    def done(self, timeout: float = 0.0) -> bool:
        """Whether `finish` was called, waiting for it so long."""
        return self._done.wait(timeout)

    def finish(self) -> None:
        """Returns when all processes are here, in process 0 when the others are about to end."""
        self.exchange(None, "ends")
        self._done.set()
        if not self.first:
            self.say(f"bye/{self.index}")
            return
        until = time.monotonic() + SILENCE_S
        while (
            not all(self.said(f"bye/{index}") for index in range(1, self.count))
            and time.monotonic() < until
        ):
            time.sleep(0.1)

    def linger(self) -> None:
        """Process 0 ends a little later than the others: the service ends with it, and jax aborts
        those who need it."""
        if self.first and self.count > 1:
            time.sleep(2 * BEAT_S)

    def one_by_one(self, build: Callable[[], None]) -> None:
        """`build()` in process 0, then in the others, who find it done where the disk is shared."""
        if self.first:
            build()
        self.exchange(None)
        if not self.first:
            build()

    def share(self, count: int) -> slice:
        """This process's part of `count` items; `merge` puts the parts together again."""
        return slice(self.index, count, self.count)

    def merge(self, part: dict, count: int) -> dict:
        """{name: array of `count`} from each process's {name: array of its share}."""
        merged = {}
        for index, theirs in enumerate(self.exchange(part)):
            for name, values in theirs.items():
                whole = merged.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))
                whole[index :: self.count] = values
        return merged

    def say(self, name: str) -> None:
        """Leaves a word for the others, who need not wait for it."""
        if self.count > 1:
            self._client.key_value_set(f"word/{name}", "said", allow_overwrite=True)

    def said(self, name: str) -> bool:
        """Whether any process has said so."""
        if self.count == 1:
            return False
        try:
            self._client.key_value_try_get(f"word/{name}")
        except jax.errors.JaxRuntimeError:
            return False
        return True


def fulfil(found: futures.Future, work: Callable[[], Any]) -> None:
    """Gives `found` what `work()` returns or raises."""
    try:
        with jax.transfer_guard("disallow"):  # guards are a thread's own
            found.set_result(work())
    except BaseException as error:
        found.set_exception(error)


def watch_sigterm() -> Callable[[], bool]:
    """True once SIGTERM has come; the loop asks between device calls and while it waits for one."""
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    return lambda: bool(received)


def start(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> Hosts:
    """Joins the other processes: those named, or on TPU VMs those of the slices, or none. Before
    jax looks at devices.

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
            "or on TPU VMs none"
        )
    else:
        check_address(*given)
    # it would swallow SIGTERM until the loop listens
    jax.config.update("jax_enable_preemption_service", False)
    meeting = (
        f"the processes did not all meet at {coordinator or 'the first'} within {MEETING_S} s: "
        "start all of them"
    )
    before_abort(lambda: meeting)
    # jax aborts all when one has missed its heartbeats, which come twice in that time: from half of
    # it on after a death
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        initialization_timeout=MEETING_S,
        heartbeat_timeout_seconds=int(4 * SILENCE_S),
    )
    hosts = Hosts(jax.process_index(), jax.process_count(), distributed.global_state.client)
    names = hosts.exchange(socket.gethostname())
    # when process 0 ends, the service does, and jax aborts the others before `watch` can speak
    before_abort(
        lambda: (
            None if answers(distributed.global_state.coordinator_address) else gone(0, hosts, names)
        )
    )
    if hosts.count > 1:
        threading.Thread(target=watch, args=(hosts, names), daemon=True).start()
    return hosts


def check_address(coordinator: str, count: int, index: int) -> None:
    """ValueError, one line, where the processes cannot meet there; jax would abort, or wait for
    minutes."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(
            f"--coordinator={coordinator}: give HOST:PORT, the host of process 0 and "
            "a free port there"
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
    """From now on, what C++ code ends by abort() ends with the line that `explain` returns, unless
    that is None."""

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def on_abort(_) -> None:
        if (line := explain()) is not None:
            leave(1, line)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(on_abort))  # C holds it
    # not by the module `signal`, whose handlers run only between two steps of the main thread
    ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)


def on_tpu_vm() -> bool:
    """Whether this machine has TPU chips; v5e and later show up as vfio groups, beside a TPU VM's
    variables."""
    return any(Path("/dev").glob("accel[0-9]*")) or (
        any(Path("/dev/vfio").glob("[0-9]*"))
        and any(name.startswith("TPU_") for name in os.environ)
    )


def watch(hosts: Hosts, names: list[str]) -> None:
    """Ends this process when another one has been silent for `SILENCE_S`, with a line that names
    it."""
    client, beat = distributed.global_state.client, 0
    # its last beat, and since when
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
        key, (_, since) = min(seen.items(), key=lambda entry: entry[1][1])
        if now - since > SILENCE_S:
            hosts.linger()  # so that the others find out by themselves
            leave(1, gone(int(key.rpartition("/")[2]), hosts, names))


def gone(index: int, hosts: Hosts, names: list[str]) -> str:
    again = "start all of them again, they go on from the last checkpoint"
    return f"process {index} of {hosts.count}, on {names[index]}, is gone: {again}"


@contextlib.contextmanager
def naming_failures(hosts: Hosts) -> Iterator[None]:
    """Ends this process where the block raises, with a line that names the process that failed:
    this or another one."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        complain(f"process {hosts.index} of {hosts.count}: {type(error).__name__}: {error}")
        if isinstance(error, jax.errors.JaxRuntimeError):
            # an exchange breaks when another process ends: `watch` soon names it
            hosts.done(1.5 * SILENCE_S)
        leave(1)


def leave(code: int, line: str | None = None) -> None:
    """Ends this process at once, without waiting for the others, who then notice."""
    if line is not None:
        complain(line)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def complain(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)
