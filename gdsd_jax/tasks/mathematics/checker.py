"""Compares final answers: numbers and equal texts at once, all others by math-verify.

math-verify runs in processes of its own (`worker.py`), since it may hang, and sets signals.
"""

from collections.abc import Sequence
import concurrent.futures
import contextlib
import importlib.util
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

from gdsd_jax.tasks.mathematics import values

LIMIT_S = 2.0  # of processor time, for one comparison
WALL_S = 60.0  # of real time, after which a silent process counts as lost
START_S = 180.0  # for a process to come up on a loaded machine
MEMORY_BYTES = 2 << 30  # of address space of a process
MEND = "pip install 'math-verify>=0.8' (requirements.txt names it)"


class CheckerError(RuntimeError):
    """No process with math-verify can be had; one line that says the mend."""


class Checker:
    """Judges answers; closed by `close` or `with`, may be called from several threads.

    Processes start when the first answer needs one, and again after a loss.
    """

    def __init__(self, workers: int = 2, limit_s: float = LIMIT_S, wall_s: float = WALL_S):
        self._workers = [_Worker(limit_s, wall_s) for _ in range(workers)]
        self._idle = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "mathematics")

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each (gold, answer) is the same; None where no verdict was possible.

        What takes more than `limit_s` of processor time or too much memory is not the same. None
        is left for an answer that two processes were lost to, by something from outside.

        Raises:
          CheckerError: no process can be started.
        """
        verdicts = {}
        for pair in pairs:
            if pair not in verdicts:
                verdicts[pair] = values.decide(*pair)
        open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
        verdicts.update(zip(open_pairs, self._threads.map(self._ask, open_pairs)))
        return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """Ends the processes; what is being judged gets no verdict."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ask(self, pair: tuple[str, str]) -> bool | None:
        worker = self._idle.get()
        try:
            for _ in range(2):
                with contextlib.suppress(_Lost):
                    return worker.ask(pair)
            return None
        finally:
            self._idle.put(worker)


def check_installed() -> None:
    """ValueError where math-verify is not installed; does not import it, which takes seconds."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(f"answers in mathematics are compared by math-verify: {MEND}")


class _Lost(Exception):
    """A process ended or fell silent."""


class _Worker:
    """One process with math-verify; one thread at a time asks it."""

    def __init__(self, limit_s: float, wall_s: float):
        script = str(pathlib.Path(__file__).with_name("worker.py"))
        # -P: this folder's files are not taken for the library's
        self._command = [sys.executable, "-P", script, str(limit_s), str(MEMORY_BYTES)]
        self._wall_s = wall_s
        self._process = None
        self._closed = False
        self._starting = threading.Lock()

    def ask(self, pair: tuple[str, str]) -> bool:
        """Whether the two are the same; False where the process ran out of its limits.

        Raises:
          _Lost: the process ended otherwise, or was silent.
          CheckerError: it cannot be started.
        """
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(pair).encode() + b"\n")
            return self._reply(self._wall_s)
        except (OSError, _Lost) as error:
            if self.stop() == -signal.SIGXCPU:
                return False
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
            raise CheckerError(f"math-verify does not start ({reason}): {MEND}") from error

    def _reply(self, timeout_s: float) -> bool:
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
