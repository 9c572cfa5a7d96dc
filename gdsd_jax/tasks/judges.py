"""Judges answers in processes of their own, since what judges them may hang, or end its process.

A judge is a file with `warm()`, which loads what it needs, and `judge(request)`; a request and what
is returned are values that JSON can hold. `serving.py` runs it.
"""

from collections.abc import Sequence
import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

LIMIT_S = 2.0  # of processor time, for one request
WALL_S = 60.0  # of real time, after which a silent process counts as lost
START_S = 180.0  # for a process to come up on a loaded machine
MEMORY_BYTES = 2 << 30  # of address space of a process


class JudgesError(RuntimeError):
    """No process with the library can be had; one line that says the mend."""


class Judge(NamedTuple):
    """What a process runs.

    Attributes:
      file: of the judge.
      library: that it needs, for messages.
      mend: how to get it.
      failed: what is returned for a request that takes too much time or memory, or fails.
    """

    file: pathlib.Path
    library: str
    mend: str
    failed: Any


class Judges:
    """Processes that judge; closed by `close` or `with`, may be called from several threads.

    Processes start when the first request comes, and again after a loss.
    """

    def __init__(
        self, judge: Judge, workers: int = 2, limit_s: float = LIMIT_S, wall_s: float = WALL_S
    ):
        self._workers = [_Worker(judge, limit_s, wall_s) for _ in range(workers)]
        self._idle = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "judges")

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """What the judge returns for each request; None where no verdict was possible.

        What takes more than `limit_s` of processor time or too much memory gets `Judge.failed`.
        None is left for a request that two processes were lost to, by something from outside.

        Raises:
          JudgesError: no process can be started.
        """
        return list(self._threads.map(self._ask, requests))

    def close(self) -> None:
        """Ends the processes; what is being judged gets no verdict."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ask(self, request: Any) -> Any:
        worker = self._idle.get()
        try:
            for _ in range(2):
                with contextlib.suppress(_Lost):
                    return worker.ask(request)
            return None
        finally:
            self._idle.put(worker)


class _Lost(Exception):
    """A process ended or fell silent."""


class _Worker:
    """One process with a judge; one thread at a time asks it."""

    def __init__(self, judge: Judge, limit_s: float, wall_s: float):
        script = str(pathlib.Path(__file__).with_name("serving.py"))
        # -P: this folder's files are not taken for the library's
        self._command = [sys.executable, "-P", script, str(judge.file)]
        self._command += [str(limit_s), str(MEMORY_BYTES), json.dumps(judge.failed)]
        self._judge = judge
        self._wall_s = wall_s
        self._process = None
        self._closed = False
        self._starting = threading.Lock()

    def ask(self, request: Any) -> Any:
        """What the judge returns; `Judge.failed` where the process ran out of its limits.

        Raises:
          _Lost: the process ended otherwise, or was silent.
          JudgesError: it cannot be started.
        """
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return self._reply(self._wall_s)
        except (OSError, _Lost) as error:
            if self.stop() == -signal.SIGXCPU:
                return self._judge.failed
            raise _Lost(str(error)) from error

    def close(self) -> None:
        """Ends the process, from any thread, and starts no other."""
        with self._starting:
            self._closed = True
            self._kill()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        with self._starting:
            if self._closed:
                raise _Lost("closed")
            self._process = subprocess.Popen(
                self._command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                # The order of sets is the same on every run.
                env=os.environ | {"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        try:
            self._reply(START_S)
        except (OSError, _Lost) as error:
            self._kill()
            lines = self._process.stderr.read().decode(errors="replace").split("\n")
            self.stop()
            reason = next((x.strip() for x in reversed(lines) if x.strip()), str(error))
            if self._closed:
                raise _Lost("closed") from error
            raise JudgesError(
                f"{self._judge.library} does not start ({reason}): {self._judge.mend}"
            ) from error

    def _reply(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        descriptor, data = self._process.stdout.fileno(), b""
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while not data.endswith(b"\n"):
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Lost("no answer in time")
            chunk = os.read(descriptor, 4096)
            if not chunk:
                raise _Lost("the process ended")
            data += chunk
        return json.loads(data)

    def _kill(self) -> None:
        process = self._process  # another thread may set it to None meanwhile
        if process is not None:
            process.kill()

    def stop(self) -> int | None:
        """Ends the process; what it ended with, which is -SIGXCPU where its time was over."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)  # it may be ending of itself
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        return process.returncode
