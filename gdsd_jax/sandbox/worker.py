"""Runs inside the jail: one warm Python that forks one process per program.

Standard library only, and no import of the package: `pool.py` starts this file by path inside
bubblewrap or `unshare`, with `kernel.py` beside it.

    python worker.py enter CONFIG   build a read-only root, then serve
    python worker.py serve CONFIG   answer requests on stdin/stdout

CONFIG is a JSON object: `limits` (the fields of `pool.Limits`), `jailed`, `uid` (for programs, when
the worker is root), and for `enter` `mounts`, as (kind, source, path), `command` and `root`, a
folder to build on. A message is a 4-byte big-endian length, then JSON.

Every program gets, in this order: a PID namespace of its own in which it is process 1 (its end is
the end of all its descendants), a mount namespace with an empty /tmp and no /proc, resource limits,
a user without privileges, no capabilities, and a system call filter.
"""

import ast
import gc
import importlib
import json
import operator
import os
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import types

import kernel  # the file beside this one

WARM_MODULES = (
    "abc array bisect collections copy dataclasses datetime decimal enum fractions "
    "functools heapq io itertools json math operator queue random re statistics "
    "string threading time typing"
).split()
POLL_S = 0.02
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RECORD = struct.Struct("<16scid")  # nonce, kind, test index, CPU seconds so far
LOADED, ERROR, MEMORY, PASSED, FAILED, DONE, FAULT = (bytes([x]) for x in b"LEMPXDF")


class GuardOperands(ast.NodeTransformer):
    """Passes every operand of a comparison through the function `name`."""

    def __init__(self, name):
        self.name = name

    def visit_Compare(self, node):
        self.generic_visit(node)

        def guard(x):
            return ast.Call(ast.Name(self.name, ast.Load()), [x], [])

        return ast.Compare(guard(node.left), node.ops, [guard(x) for x in node.comparators])


def compile_test(test, guard_name):
    """Code object, or None where the test does not compile."""
    try:
        tree = GuardOperands(guard_name).visit(ast.parse(test))
        return compile(ast.fix_missing_locations(tree), "test", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def make_guard():
    """`guard(value) -> value`, refusing values that equal just anything.

    A value (or an item of a list, tuple, set or dict) that calls itself equal to, or ordered with,
    an object it cannot know would pass any assertion.
    """
    compare = (operator.eq, operator.lt, operator.le, operator.gt, operator.ge)
    plain = (int, float, complex, str, bytes, bool, type(None), range)
    exact = frozenset(plain)
    stranger, type_, isinstance_ = object(), type, isinstance
    base, cheat = BaseException, AssertionError
    mapping, groups = dict, (list, tuple, set, frozenset)

    def agreeable(leaf):
        for operation in compare:
            try:
                if operation(leaf, stranger):
                    return True
            except base:
                pass
        return False

    def guard(value):
        todo, seen = [value], set()
        while todo:
            item = todo.pop()
            if type_(item) in exact or id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance_(item, mapping):
                todo += [*mapping.keys(item), *mapping.values(item)]
            elif isinstance_(item, groups):
                todo += [x for x in item]
            if agreeable(item):
                raise cheat("a value equal to anything")
        return value

    return guard


def judge(source, tests, report):
    """Runs the source, then each test on its own; `report` tells the worker.

    Everything it needs is bound before the source runs, so that replacing builtins changes the
    program's own view only.
    """
    name = f"guard_{os.urandom(8).hex()}"
    codes = [compile_test(test, name) for test in tests]
    extras = {"__builtins__": dict(vars(sys.modules["builtins"])), name: make_guard()}
    run, base, no_memory, all_tests = exec, BaseException, MemoryError, list(enumerate(codes))
    module = types.ModuleType("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.modules["random"].seed(0)  # the same verdict on every run
    try:
        run(compile(source, "program.py", "exec"), module.__dict__)
    except base as error:
        report(MEMORY if type(error) is no_memory else ERROR)
        return
    report(LOADED)
    for index, code in all_tests:
        outcome = FAILED
        try:
            if code is not None:
                run(code, {**module.__dict__, **extras})
                outcome = PASSED
        except base as error:
            if type(error) is no_memory:
                outcome = MEMORY
        report(outcome, index)
    report(DONE)


def make_report(descriptor, nonce):
    pack, write, times, sum_ = RECORD.pack, os.write, os.times, sum
    getpid, leave, judge_pid = os.getpid, os._exit, os.getpid()

    def report(kind, index=-1):
        # A process forked by the program that came back here is no judge.
        if getpid() != judge_pid:
            leave(0)
        write(descriptor, pack(nonce, kind, index, sum_(times()[:4])))

    return report


def be_program(jail, limits, folder, nonce, pipes, request):
    """The child's whole life; never returns."""
    result, output = pipes
    leave = os._exit
    try:
        os.setsid()
        empty = os.open(os.devnull, os.O_RDONLY)
        # The sources lie above 3: the read ends took the lowest free numbers.
        for source, target in ((empty, 0), (output, 1), (output, 2), (result, 3)):
            os.dup2(source, target)
        os.closerange(4, 1024)
        report = make_report(3, nonce)
        try:
            if jail is None:
                os.chdir(folder)
                kernel.limit_resources(limits)
            else:
                kernel.confine(jail, limits)
        except OSError as error:
            os.write(2, str(error).encode())
            report(FAULT)
            return
        judge(request["source"], request["tests"], report)
    finally:
        leave(0)


def usage(pid, jailed):
    """(CPU seconds, resident bytes) of the program and its descendants now."""
    cpu, resident, own = 0.0, 0, str(os.getpid())
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # gone meanwhile
        # In a jail every other process is the program's.
        if jailed or int(fields[3]) == pid:
            cpu += sum(map(int, fields[11:15])) / TICKS_PER_S
            resident += int(fields[21]) * PAGE_BYTES
    return cpu, resident


def kill(pid, jailed):
    end = os.kill if jailed else os.killpg
    try:
        end(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def drain(descriptor):
    """(bytes at hand, whether the other end is closed), without waiting."""
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return b"".join(chunks), False
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
        if len(chunks) == 16:  # a flood must not keep the worker from its watch
            return b"".join(chunks), False


def exceeded(pid, jailed, limits, deadline):
    """The name of the limit the running program has passed, or None."""
    cpu, resident = usage(pid, jailed)
    if cpu > limits["cpu_s"]:
        return "cpu"
    if resident > limits["memory_bytes"]:
        return "memory"
    return "wall" if time.monotonic() > deadline else None


def watch(pid, result, output, jailed, limits):
    """Until the program has ended: (limit it broke or None, records, first output)."""
    ended = os.pidfd_open(pid)
    poller = select.poll()
    for descriptor in (result, output, ended):
        poller.register(descriptor, select.POLLIN)
    poller.register(0, 0)  # the host hanging up
    deadline, check_at = time.monotonic() + limits["wall_s"], time.monotonic() + POLL_S
    cause, alive, records, written, head = None, True, b"", 0, b""
    while alive:
        ready = {descriptor for descriptor, _ in poller.poll(1 + POLL_S * 1000)}
        alive = ended not in ready
        if 0 in ready:
            kill(pid, jailed)
            os._exit(0)
        # After its end both are read once more, whatever the poller says.
        readable = {result, output} & ready if alive else {result, output}
        for descriptor in readable:
            data, closed = drain(descriptor)
            if closed and alive:
                poller.unregister(descriptor)
            if descriptor == output:
                written, head = written + len(data), head or data[:200]
            elif len(records) < 1 << 20:
                records += data
        if written > limits["output_bytes"]:
            cause = cause or "output"
        if alive and cause is None and time.monotonic() >= check_at:
            cause = exceeded(pid, jailed, limits, deadline)
            check_at = time.monotonic() + POLL_S
        if cause:
            kill(pid, jailed)
    os.close(ended)
    return cause, records, head


def conclude(cause, records, nonce, exit_status, cpu, count, limits):
    """(status, passed): what the records that carry the nonce amount to."""
    passed, kinds = [False] * count, set()
    for at in range(0, len(records) - RECORD.size + 1, RECORD.size):
        mark, kind, index, when = RECORD.unpack_from(records, at)
        if mark != nonce:
            continue
        kinds.add(kind)
        # Passes between the limit and the kill do not count: they would depend on the load.
        if kind == PASSED and 0 <= index < count and when <= limits["cpu_s"]:
            passed[index] = True
    if FAULT in kinds:
        status = "fault"
    elif cause:
        status = cause
    elif cpu > limits["cpu_s"]:
        status = "cpu"
    elif MEMORY in kinds:
        status = "memory"
    elif ERROR in kinds:
        status = "error"
    elif DONE in kinds:
        status = "ok"
    else:
        status = "crash" if os.WIFSIGNALED(exit_status) else "exit"
    return status, passed


def run_program(jail, limits, request):
    """The reply to one request: {"status", "passed"}, or {"fault"}."""
    nonce = os.urandom(16)
    folder = tempfile.mkdtemp() if jail is None else None
    result, result_end = os.pipe()
    output, output_end = os.pipe()
    try:
        pid = kernel.fork_program(jail)
        if pid == 0:
            be_program(jail, limits, folder, nonce, (result_end, output_end), request)
    finally:
        os.close(result_end)
        os.close(output_end)
    for descriptor in (result, output):
        os.set_blocking(descriptor, False)
    cause, records, head = watch(pid, result, output, jail is not None, limits)
    _, exit_status, spent = os.wait4(pid, 0)
    os.close(result)
    os.close(output)
    if jail is None:
        kill(pid, False)
        shutil.rmtree(folder, ignore_errors=True)
    cpu = spent.ru_utime + spent.ru_stime
    status, passed = conclude(
        cause, records, nonce, exit_status, cpu, len(request["tests"]), limits
    )
    if status == "fault":
        return {"fault": head.decode(errors="replace")}
    return {"status": status, "passed": passed}


def receive(descriptor):
    """The next message, or None once the host has hung up."""

    def read(count):
        data = b""
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
    del sys.path[0], sys.modules["kernel"]
    if config["jailed"]:
        jail = kernel.open_jail(config["uid"])
    for name in WARM_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each fork's collections copy the warm pages
    send(1, {"ready": True})
    while (request := receive(0)) is not None:
        send(1, run_program(jail, config["limits"], request))


if __name__ == "__main__":
    {"enter": kernel.enter_root, "serve": serve}[sys.argv[1]](json.loads(sys.argv[2]))
