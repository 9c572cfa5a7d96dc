"""Runs model-written Python in a jail of Linux namespaces, many programs at once.

Each worker is a warm Python inside one jail (`jail.py`). The jail has no network, no host
environment and no other processes. Its root is read-only and holds only the system's libraries and
the interpreter. One process per program is forked (`runner.py`). It starts with an empty /tmp and a
PID namespace of its own, and it loses every privilege.

What this protects, against programs that are wrong, greedy or hostile: the host's files, network,
processes, keys and environment, other programs, and the trainer's pace. What it does not protect
against: bugs of the kernel, and timing channels. Memory is limited per process, and every 20 ms
over the resident sum of a program's processes.

Tests are judged outside of the program's process (`judge.py`), which is asked for values and never
learns what is expected. Whatever a program does to its own process, it is paid for giving the right
values, and for nothing else. README.md says what cannot be judged so.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from gdsd_jax.sandbox import jail
from gdsd_jax.sandbox.jail import SandboxError

START_S = 60.0  # for a worker to come up on a loaded machine
GRACE_S = 60.0  # beyond wall_s, for long tests to be read, before a silent worker is lost
LEAST_MIB = 32  # Python and the modules it is warm with take about 24
MEND = (
    "install the package `bubblewrap` (or util-linux >= 2.37); in a container allow namespaces "
    "with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt "
    "systempaths=unconfined, as root also --cap-add SYS_ADMIN; on a host set "
    "user.max_user_namespaces > 0, kernel.unprivileged_userns_clone=1 and "
    "kernel.apparmor_restrict_unprivileged_userns=0; or, without any protection, choose "
    "sandbox.mode=unsafe by hand"
)
PROBE = """
import os, socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=0.1)
    network = True
except PermissionError:
    network = False
def pid(): return os.getpid()
def is_root(): return 0 in (*os.getresuid(), *os.getresgid())
def connects(): return network
def listed(path): return os.listdir(path)
def writes(path): return open(path, "w").write("x")
def read_only(path): return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
"""
PROBE_TESTS = {
    "a program is not process 1 of its own namespace": "assert pid() == 1",
    "a program runs as root": "assert is_root() == False",
    "a program can reach the network": "assert connects() == False",
    "a program sees /proc": "assert listed('/proc') == []",
    "/tmp is not empty": "assert listed('/tmp') == []",
    "/tmp is not writable": "assert writes('/tmp/x') == 1",
    "the root is writable": "assert read_only('/') == True",
    "/usr is writable": "assert read_only('/usr') == True",
}


class _Lost(Exception):
    """A worker died or fell silent."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program, with all the processes it starts, may use.

    Attributes:
      cpu_s: CPU seconds, of source and calls together. As many seconds of real time may pass in
        which it neither runs nor waits for a core.
      wall_s: seconds of real time; at least ten times `cpu_s`, so that verdicts do not depend on
        the load. Tests that are more than asserts of calls may take half as many CPU seconds until
        the program has answered, and then twice `cpu_s`.
      memory_bytes: address space of each process, and resident bytes of all. /tmp holds a quarter
        of it.
      processes: processes and threads at one time.
      output_bytes: written to stdout and stderr together.

    Raises:
      ValueError: a limit that is not positive, or wall_s too small.
    """

    cpu_s: float = 1.0
    wall_s: float = 20.0
    memory_bytes: int = 512 << 20
    processes: int = 16
    output_bytes: int = 64 << 10

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise ValueError(f"sandbox limit {name}={value} should be positive")
        if self.wall_s < 10 * self.cpu_s:
            raise ValueError(
                f"sandbox limit wall_s={self.wall_s} should be at least ten times "
                f"cpu_s={self.cpu_s}: verdicts would depend on the load"
            )


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """The settings `sandbox.*` of a run; opened by `open_sandbox(config.mode, limits=...)`.

    Attributes:
      mode: "bwrap", "unshare", "auto" (the first of the two that works), or "unsafe" (limits only,
        no protection of files, network and processes).
      cpu_s: CPU seconds of one program, its tests included.
      wall_s: seconds of real time of one program, at least ten times `cpu_s`.
      memory_mib: MiB of memory of one program.

    Raises:
      ValueError: an unknown mode, or a limit that cannot work; one line names the key.
    """

    mode: str = "auto"
    cpu_s: float = 1.0
    wall_s: float = 20.0
    memory_mib: int = 512

    def __post_init__(self):
        if self.mode not in jail.MODES:
            raise ValueError(f"sandbox.mode={self.mode!r}: choose one of {', '.join(jail.MODES)}")
        if not 0 < self.cpu_s < math.inf:
            raise ValueError(f"sandbox.cpu_s={self.cpu_s} must be a number of seconds above 0")
        if not 10 * self.cpu_s <= self.wall_s < math.inf:
            raise ValueError(
                f"sandbox.wall_s={self.wall_s} must be at least ten times sandbox.cpu_s="
                f"{self.cpu_s}: verdicts would depend on the load"
            )
        if type(self.memory_mib) is not int or self.memory_mib < LEAST_MIB:
            raise ValueError(
                f"sandbox.memory_mib={self.memory_mib} must be a whole number of MiB, at least "
                f"{LEAST_MIB}: Python itself takes most of that"
            )

    @property
    def limits(self) -> Limits:
        """What one program may use."""
        return Limits(self.cpu_s, self.wall_s, self.memory_mib << 20)


class Program(NamedTuple):
    """A program and the tests it is judged by."""

    source: str
    tests: tuple[str, ...]  # statements run after the source, each counted on its own


class Verdict(NamedTuple):
    """`passed` holds one entry per test; a test that never ran did not pass.

    `status` is "ok" (source and tests ran to the end), "error" (the source raised, no test ran),
    "exit" (the process ended itself, or sent what is no answer), "crash" (a signal ended it), the
    limit it broke ("cpu", "wall", "memory", "output"), "judge" (its values led the tests beyond
    what a judge may use) or "killed" (two workers were lost to it). Tests passed before a limit was
    broken count. "unjudged": no verdict was possible, and the program is not to blame.
    """

    passed: tuple[bool, ...]
    status: str

    @property
    def judged(self) -> bool:
        return self.status != "unjudged"


class _Worker:
    """One warm worker process, started at first use and again after a loss."""

    def __init__(self, command: list[str], answer_s: float):
        self._command = command
        self._answer_s = answer_s
        self._process = None

    def ask(self, request: dict) -> dict:
        """The worker's reply.

        Raises:
          _Lost: it died or was silent.
          SandboxError: it never came up or could not build the jail; the reason alone.
        """
        if self._process is None:
            self._start()
        data = json.dumps(request).encode()
        try:
            self._process.stdin.write(len(data).to_bytes(4, "big") + data)
            reply = self._receive(self._answer_s)
        except (OSError, ValueError, _Lost) as error:
            self.stop()
            raise _Lost(str(error)) from error
        if "fault" in reply:
            raise SandboxError(reply["fault"])
        return reply

    def kill(self) -> None:
        """From any thread; the one that waits for a reply is told that the worker ended."""
        process = self._process  # another thread may set it to None meanwhile
        if process is None:
            return
        # A group of its own holds tool and worker; the kernel ends the rest.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop(self) -> None:
        if self._process is None:
            return
        self.kill()
        process, self._process = self._process, None
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()

    def _start(self) -> None:
        tool = shutil.which(self._command[0])
        if tool is None:
            raise SandboxError("not installed")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [tool, *self._command[1:]],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            env=jail.ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        try:
            self._receive(START_S)
        except (OSError, _Lost) as error:
            os.killpg(self._process.pid, signal.SIGKILL)
            lines = self._process.stderr.read().decode(errors="replace").split("\n")
            self.stop()
            reason = next((x.strip() for x in reversed(lines) if x.strip()), str(error))
            raise SandboxError(reason) from error

    def _receive(self, timeout_s: float) -> dict:
        deadline = time.monotonic() + timeout_s
        size = int.from_bytes(self._read(4, deadline), "big")
        return json.loads(self._read(size, deadline))

    def _read(self, count: int, deadline: float) -> bytes:
        descriptor, data = self._process.stdout.fileno(), b""
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while len(data) < count:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Lost("the worker did not answer in time")
            chunk = os.read(descriptor, count - len(data))
            if not chunk:
                raise _Lost("the worker ended")
            data += chunk
        return data


class Sandbox:
    """A pool of warm workers; made by `open_sandbox`, closed by `close` or `with`."""

    def __init__(self, mode: str, workers: int, limits: Limits):
        self.mode = mode
        self._idle = queue.SimpleQueue()
        self._workers = []
        for uid in jail.users(workers):
            config = {
                "limits": dataclasses.asdict(limits),
                "jailed": mode != "unsafe",
                "uid": uid,
            }
            worker = _Worker(jail.COMMANDS[mode](config), limits.wall_s + GRACE_S)
            self._workers.append(worker)
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "sandbox")

    def run(
        self, programs: Sequence[Program], step: Callable[[], None] = lambda: None
    ) -> list[Verdict]:
        """One verdict per program, in order; may be called from several threads. `step` is called
        whenever one has run.

        A program that the wall clock ended though it was not idle, or that a worker was lost to, is
        tried once more after all the others: a loaded machine may be to blame.

        Raises:
          SandboxError: the jail broke.
        """
        programs = [Program(source, tuple(tests)) for source, tests in programs]

        def run_one(program: Program) -> tuple[Verdict, bool]:
            found = self._run_one(program)
            step()
            return found

        first = list(self._threads.map(run_one, programs))
        verdicts = [verdict for verdict, _ in first]
        places = [i for i, (_, again) in enumerate(first) if again]
        second = self._threads.map(self._run_one, [programs[i] for i in places])
        for i, (verdict, _) in zip(places, second):
            verdicts[i] = verdict
        return verdicts

    def close(self) -> None:
        """Ends what still runs; whoever waits for its verdicts gets an error."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown()
        for worker in self._workers:
            worker.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _run_one(self, program: Program) -> tuple[Verdict, bool]:
        """The verdict, and whether a second try may give another one."""
        worker = self._idle.get()
        try:
            reply = worker.ask({"source": program.source, "tests": program.tests})
        except _Lost:
            return Verdict((False,) * len(program.tests), "killed"), True
        except SandboxError as error:
            raise SandboxError(f"the {self.mode} sandbox broke: {error}; {MEND}") from error
        finally:
            self._idle.put(worker)
        return Verdict(tuple(reply["passed"]), reply["status"]), reply["again"]

    def _probe(self) -> None:
        """SandboxError, with the reason alone, unless the first worker's jail holds."""
        program = {"source": PROBE, "tests": list(PROBE_TESTS.values())}
        try:
            reply = self._workers[0].ask(program)
        except _Lost as error:
            raise SandboxError(str(error)) from error
        failed = [name for name, passed in zip(PROBE_TESTS, reply["passed"]) if not passed]
        if failed:
            raise SandboxError(f"{failed[0]} ({reply['status']})")


def open_sandbox(
    mode: str = "auto", workers: int | None = None, limits: Limits = Limits()
) -> Sandbox:
    """A sandbox whose jail has been tried out.

    Args:
      mode: "bwrap", "unshare", "auto" (the first of the two that works), or "unsafe":
        resource limits only, no protection of files, network and processes.
      workers: programs run at a time; by default one per CPU this process may use.
      limits: what one program may use.

    Raises:
      ValueError: an unknown mode, or no workers.
      SandboxError: no jail works here; one line naming the mend.
    """
    if mode not in jail.MODES:
        raise ValueError(f"sandbox.mode={mode!r} should be one of {', '.join(jail.MODES)}")
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise ValueError(f"sandbox workers={workers} should be at least 1")
    if mode == "unsafe":
        print(
            "warning: sandbox.mode=unsafe runs model-written programs without isolation: they can "
            "read and write this user's files and reach the network",
            file=sys.stderr,
        )
        return Sandbox(mode, workers, limits)
    reasons = []
    for candidate in ("bwrap", "unshare") if mode == "auto" else (mode,):
        sandbox = Sandbox(candidate, workers, limits)
        try:
            sandbox._probe()
            return sandbox
        except SandboxError as error:
            sandbox.close()
            reasons.append(f"{candidate}: {error}")
    raise SandboxError(f"no sandbox works here ({'; '.join(reasons)}); {MEND}")
