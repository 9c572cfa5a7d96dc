"""Runs inside the jail: has one program after the other run, watched and judged.

Standard library only, and no import of the package: `pool.py` starts this file by path inside
bubblewrap or `unshare`, with the other files of the jail beside it.

    python worker.py enter CONFIG   build a read-only root, then serve
    python worker.py serve CONFIG   answer requests on stdin/stdout

CONFIG is a JSON object: `limits` (the fields of `pool.Limits`), `jailed`, `uid` (for programs, when
the worker is root), and for `enter` `mounts`, as (kind, source, path), `command` and `root`, a
folder to build on. A message is a 4-byte big-endian length, then JSON.

The worker itself runs neither a program nor a test. Programs are children of a process beside it
(`runner.py`), which knows no tests; tests are judged by `judge.py`. The two sides of a program meet
in a socket alone.
"""

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time

import judge  # the files beside this one
import kernel
import runner
import usage

WARM_MODULES = (
    "abc array bisect collections copy dataclasses datetime decimal enum fractions "
    "functools heapq io itertools json math operator queue random re statistics "
    "string threading time typing"
).split()
OURS = ("judge", "kernel", "runner", "stand_ins", "texts", "usage", "values")
POLL_S = usage.POLL_S


class Program:
    """A running program, from outside.

    Attributes:
      cause: the limit that it broke, or None; "late" where real time ran out though it was not
        idle.
      again: whether a second try may end otherwise: the machine may be to blame.
      fault: why the kernel refused the jail, b"" where it did not.
    """

    def __init__(self, zygote, jailed, limits):
        self._zygote, self._jailed, self._limits = zygote, jailed, limits
        self.folder = None if jailed else tempfile.mkdtemp()
        self.channel, channel_end = socket.socketpair()
        self._output, output_end = os.pipe()
        self._ready, ready_end = os.pipe()
        ends = (channel_end.fileno(), output_end, ready_end)
        socket.send_fds(zygote, [(self.folder or "/").encode()], ends)
        channel_end.close()
        os.close(output_end)
        os.close(ready_end)
        data, (self._process,), _, _ = socket.recv_fds(zygote, runner.PID.size, 1)
        (self.pid,) = runner.PID.unpack(data)
        os.set_blocking(self._output, False)
        self.cause, self.again, self._written, self._judge_s = None, False, 0, 0.0

    def watch(self, tests, own):
        """Until the tests are judged, or a limit is broken."""
        poller = select.poll()
        poller.register(self._output, select.POLLIN)
        poller.register(self._process, select.POLLIN)
        poller.register(0, 0)  # the host hanging up
        used = usage.Usage(self.pid, own, tests.pid, self._jailed)
        deadline, check_at = time.monotonic() + self._limits["wall_s"], time.monotonic() + POLL_S
        while not tests.finished and self.cause is None:
            poller.register(tests.fileno(), tests.events())
            ready = {descriptor for descriptor, _ in poller.poll(1 + POLL_S * 1000)}
            if 0 in ready:
                self.kill()
                os._exit(0)
            if self._process in ready:
                poller.unregister(self._process)
                self.kill()  # what it leaves behind, without a jail
            if self._output in ready and self._read_output():
                poller.unregister(self._output)
            if tests.fileno() in ready:
                tests.step()
            if not tests.finished and self.cause is None and time.monotonic() >= check_at:
                used.read()
                self._check(used, tests, deadline)
                check_at = time.monotonic() + POLL_S

    def _read_output(self):
        """Counts what was written; whether the other end is closed."""
        for _ in range(16):  # a flood must not keep the worker from its watch
            try:
                chunk = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            self._written += len(chunk)
            if self._written > self._limits["output_bytes"]:
                self.cause = "output"
                return False
        return False

    def _check(self, used, tests, deadline):
        """Names the limit that was passed, by the program or by the judge of its values."""
        heard = judge.ANSWERED in tests.seen
        if not heard:
            self._judge_s = used.judge_s
        judge_s = used.judge_s - self._judge_s if heard else used.judge_s
        if used.cpu_s > self._limits["cpu_s"]:
            self.cause = "cpu"
        elif used.resident > self._limits["memory_bytes"]:
            self.cause = "memory"
        elif judge_s > judge.cpu_limit(self._limits, heard):
            self.cause = "judge"
        elif used.idle_s > self._limits["cpu_s"]:
            self.cause, self.again = "wall", used.blocked
        elif time.monotonic() > deadline and used.hidden_s > self._limits["wall_s"] / 2:
            self.cause = "cpu"  # not the load: too short-lived to be seen
        elif time.monotonic() > deadline:
            # Where its values gave the judge much to do, the program is to blame, not the load.
            busy = judge_s > judge.cpu_limit(self._limits, heard) / 10
            self.cause, self.again = "judge" if busy else "late", True

    def kill(self):
        try:
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
            if not self._jailed:
                os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def end(self):
        """(exit status, CPU seconds, why the jail failed), after all of it is gone."""
        self.kill()
        status, cpu_s = runner.END.unpack(receive_exactly(self._zygote, runner.END.size))
        if not self._jailed:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            shutil.rmtree(self.folder, ignore_errors=True)
        os.set_blocking(self._ready, False)
        try:
            fault = os.read(self._ready, 4096).decode(errors="replace")
        except BlockingIOError:
            fault = ""
        self.channel.close()
        for descriptor in (self._output, self._ready, self._process):
            os.close(descriptor)
        return status, cpu_s, fault


def conclude(program, tests, exit_status, cpu_s, limits):
    """The word for how a program and its tests ended."""
    seen = tests.seen
    early = tests.pid is not None and judge.ANSWERED not in seen
    if judge.UNJUDGED in seen or program.cause == "late" or (early and program.cause == "judge"):
        return "unjudged"
    if program.cause:
        return program.cause
    if cpu_s > limits["cpu_s"]:
        return "cpu"
    if judge.MEMORY in seen:
        return "memory"
    if judge.ERROR in seen:
        return "error"
    if judge.DONE in seen:
        return "ok"
    if judge.OVER in seen:
        return "judge"
    if tests.pid is not None and judge.GONE not in seen:
        # The judge went beyond its own limits, at fault only where it has heard of the program.
        return "unjudged" if early else "judge"
    killed = os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) != signal.SIGKILL
    return "crash" if killed else "exit"


def run_program(zygote, own, jail, limits, request):
    """The reply to one request: {"status", "passed", "again"}, or {"fault"}."""
    source, tests = request["source"], request["tests"]
    if sum(map(len, tests)) > judge.MOST_TEXT:
        return {"status": "unjudged", "passed": [False] * len(tests), "again": False}
    plans = [judge.plan(test) for test in tests]
    program = Program(zygote, jail is not None, limits)
    if all(plans):
        judging = judge.Asserts(program.channel, source, plans, limits)
    else:
        judging = judge.Forked(program.channel, source, tests, jail, limits)
    program.watch(judging, own)
    exit_status, cpu_s, fault = program.end()
    judging.close()
    if fault or judge.FAULT in judging.seen:
        return {"fault": fault or "the judge was refused its limits"}
    status = conclude(program, judging, exit_status, cpu_s, limits)
    return {"status": status, "passed": judging.passed, "again": program.again}


def receive_exactly(control, count):
    data = b""
    while len(data) < count:
        chunk = control.recv(count - len(data))
        if not chunk:
            raise EOFError("the runner has ended")
        data += chunk
    return data


def receive(descriptor):
    """The next message, or None once the host has hung up."""

    def read(count):
        data = bytearray()
        while len(data) < count and (chunk := os.read(descriptor, count - len(data))):
            data += chunk
        return data

    header = read(4)
    return json.loads(read(int.from_bytes(header, "big"))) if len(header) == 4 else None


def send(descriptor, message):
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def serve(config):
    jail = None
    # Programs import neither this folder's files nor what was imported from it.
    del sys.path[0]
    for name in OURS:
        del sys.modules[name]
    if config["jailed"]:
        jail = kernel.open_jail(config["uid"])
    for name in WARM_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each fork's collections copy the warm pages
    control, far = socket.socketpair()
    zygote = os.fork()
    if zygote == 0:
        control.close()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        runner.serve(far, jail, config["limits"])
    far.close()
    own = (os.getpid(), zygote)
    send(1, {"ready": True})
    # from here on nobody reads it, and Python warns there of odd escapes in tests
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while (request := receive(0)) is not None:
        send(1, run_program(control, own, jail, config["limits"], request))


if __name__ == "__main__":
    {"enter": kernel.enter_root, "serve": serve}[sys.argv[1]](json.loads(sys.argv[2]))
