"""Work of others, such as a template, within a time and a memory."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import pathlib
import resource
import threading
import time
from typing import Any


class _OutOfTime(BaseException):
    """Ends a thread whose time is over; no handler of `Exception` takes it."""


def within(seconds: float, size: int, work: Callable[[], Any]) -> Any:
    """What `work()` returns, called in a thread of its own.

    For that time this process may not take more than `size` bytes, which holds for its other
    threads too: nothing else should be going on.

    Args:
      seconds: after which the thread is ended, at its next step in Python.
      size: bytes.
      work: pure Python.

    Raises:
      TimeoutError: it takes longer.
      MemoryError: it takes more.
      Exception: what `work()` raises.
    """
    returned, raised = [], []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with no_more_memory(size):
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            end(thread)
    if thread.is_alive() or any(isinstance(error, _OutOfTime) for error in raised):
        raise TimeoutError(f"it takes more than {seconds:g} s")
    if any(isinstance(error, MemoryError) for error in raised):
        raise MemoryError(f"it takes more than {size >> 20} MiB")
    if raised:
        raise raised[0]
    return returned[0]


def end(thread: threading.Thread) -> None:
    """Raises in another thread until it ends, for two seconds at most."""
    until = time.monotonic() + 2.0
    while thread.is_alive() and time.monotonic() < until:
        number = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_OutOfTime))
        thread.join(0.05)


@contextlib.contextmanager
def no_more_memory(size: int) -> Iterator[None]:
    """Within the block this process may take `size` bytes more; where the system does not tell how
    much it has, as only Linux does, as much as it likes."""
    usage = pathlib.Path("/proc/self/statm")
    if not usage.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(usage.read_text().split()[0]) * resource.getpagesize() + size
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
