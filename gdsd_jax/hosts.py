"""The processes of a run, one a host: starting them, values that all of them learn, and the end of all when one fails.

What they tell one another here passes through jax's coordination service, not the devices, so that it works while those
compute. Device arrays are the business of sharding.py.
"""
from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import pickle
import socket
import sys
import threading
import time
import traceback
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the service's client has no public name

BEAT_S = 2.0
SILENCE_S = 30.0  # after which a process counts as dead


class Hosts:
    """This process among all of them. `exchange` and what rests on it must be called by all, in the same order.

    Attributes:
      index: of this process, 0 .. count - 1.
      count: of processes.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count, self._client, self._number = index, count, client, 0
        self._done = threading.Event()

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def exchange(self, value: Any) -> list:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        self._number += 1
        key = lambda number, index: f"exchange/{number}/{index}"  # noqa: E731
        self._client.key_value_set_bytes(key(self._number, self.index), pickle.dumps(value))
        values = [pickle.loads(self._read(key(self._number, index))) for index in range(self.count)]
        if self._number > 1:  # whoever has answered this time has read the last one
            self._client.key_value_delete(key(self._number - 1, self.index))
        return values

    def _read(self, key: str) -> bytes:
        """Waits for the key, however long; that its writer still lives is `watch`'s business, which a blocking call of the
        service would not let run."""
        while True:
            try:
                return self._client.key_value_try_get_bytes(key)
            except jax.errors.JaxRuntimeError:
                time.sleep(0.002)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.exchange(flag))

    def done(self, timeout: float = 0.0) -> bool:
        """Whether `finish` was called, waiting for it so long."""
        return self._done.wait(timeout)

    def finish(self) -> None:
        """Returns when all processes are here; from then on they may end."""
        self.exchange(None)
        self._done.set()
        if self.count > 1 and self.first:
            time.sleep(1.0)  # the service ends with process 0, which leaves last

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


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> Hosts:
    """Joins the other processes: those named, or on TPU VMs those of the slices, or none. Before jax looks at devices.

    Raises:
      ValueError: some of the three are missing or impossible; one line says which.
    """
    given = (coordinator, count, index)
    if given == (None, None, None) and not on_tpu_vm():
        return Hosts()
    if coordinator is not None or count is not None or index is not None:
        if None in given:
            raise ValueError("give --coordinator=HOST:PORT, --num_processes and --process_id together, or none of them on TPU VMs")
        if not 0 <= index < count or ":" not in coordinator:
            raise ValueError(f"--process_id={index} must lie in 0 .. {count - 1}, and --coordinator={coordinator} be HOST:PORT")
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=60)
    hosts = Hosts(jax.process_index(), jax.process_count(), distributed.global_state.client)
    if hosts.count > 1:
        names = hosts.exchange(socket.gethostname())
        threading.Thread(target=watch, args=(hosts, names), daemon=True).start()
    return hosts


def on_tpu_vm() -> bool:
    """Whether this machine has TPU chips; v5e and later show up as vfio groups, beside a TPU VM's variables."""
    return any(Path("/dev").glob("accel[0-9]*")) or (
        any(Path("/dev/vfio").glob("[0-9]*")) and any(name.startswith("TPU_") for name in os.environ)
    )


def watch(hosts: Hosts, names: list[str]) -> None:
    """Ends this process when another one has been silent for `SILENCE_S`, with a line that names it."""
    client, beat = distributed.global_state.client, 0
    seen = {f"beat/{index}": ("", time.monotonic()) for index in range(hosts.count)}  # its last beat, and since when
    while not hosts.done(BEAT_S):
        beat += 1
        try:
            client.key_value_set(f"beat/{hosts.index}", str(beat), allow_overwrite=True)
            beats = dict(client.key_value_dir_get("beat/"))
        except jax.errors.JaxRuntimeError:
            if not hosts.done():
                lost(0, names[0], hosts)  # the service lives in process 0
            return
        now = time.monotonic()
        for key, value in beats.items():
            if seen[key][0] != value:
                seen[key] = (value, now)
        key, (_, since) = min(seen.items(), key=lambda entry: entry[1][1])
        if now - since > SILENCE_S:
            index = int(key.rpartition("/")[2])
            lost(index, names[index], hosts)


def lost(index: int, name: str, hosts: Hosts) -> None:
    leave(1, f"process {index} of {hosts.count}, on {name}, is gone: start all of them again, they go on from the last checkpoint")


@contextlib.contextmanager
def naming_failures(hosts: Hosts) -> Iterator[None]:
    """Ends this process where the block raises, with a line that names the process that failed: this or another one."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        hosts.done(2 * SILENCE_S)  # an exchange breaks when another process ends: `watch` soon names it
        leave(1, f"process {hosts.index} of {hosts.count}: {error}")
    except Exception as error:
        traceback.print_exc()
        leave(1, f"process {hosts.index} of {hosts.count}: {type(error).__name__}: {error}")


def leave(code: int, error: BaseException | str | None = None) -> None:
    """Ends this process at once, without waiting for the others, who then notice."""
    if error is not None:
        print(f"error: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
