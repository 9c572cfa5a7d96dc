"""The judge's side inside the jail: decides which tests a program passes, by the values it gives.

Standard library only. No code of the program runs here, and what a test expects is never sent to
the program's process. There are two ways, one verdict:

- `Asserts`: tests that are asserts of the form `name(literals) == literal`. All calls are sent at
  once, and the bytes of the answers compared, in the worker itself.
- `Forked`: any other test is run as it stands in a confined process of its own, where the program's
  names are stand-ins (`stand_ins.py`).
"""

import ast
import functools
import marshal
import os
import select
import struct
import sys
import time

import kernel  # the files beside this one
import runner
import stand_ins
import texts
import values

RECORD = struct.Struct("<ci")  # letter, test index
PASSED, FAILED, UNJUDGED, MEMORY, LOADED, ERROR, ANSWERED, GONE, DONE, FAULT, OVER = (
    bytes([x]) for x in b"PXUMLEAGDFO"
)
LAST = (GONE, DONE, FAULT, OVER)
MOST_TEXT = 16 << 20  # of all tests of a program
PLANNED_TEXT = 16 << 10  # of a test whose plan is kept
EXTRA_MEMORY = 1 << 30  # bytes that a forked judge may use beyond a program's limit
CHUNK = 1 << 16
MOST_LONGER = 64  # times, that the bytes of an equal value may be longer


# ---------------------------------------------------------------- plain asserts


def plan(test):
    """[(question, expected)] as bytes, of asserts of the form `name(literals) == literal`.

    None of a test that holds anything else.
    """
    return _short_plan(test) if len(test) <= PLANNED_TEXT else _plan(test)


def _plan(test):
    try:
        found = [_plan_of(statement) for statement in ast.parse(test).body]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None if None in found else found or None


def _plan_of(statement):
    """(question, expected) of one statement; None of another one."""
    match statement:
        case ast.Assert(ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Eq()], [right])):
            pass
        case _:
            return None
    arguments = tuple([ast.literal_eval(x) for x in call.args])
    keywords = {x.arg: ast.literal_eval(x.value) for x in call.keywords}
    inputs = marshal.dumps((arguments, keywords), values.VERSION)
    question = marshal.dumps(("call", name, inputs, False, False), values.VERSION)
    expected = marshal.dumps(ast.literal_eval(right), values.VERSION)
    if None in keywords or max(len(question), len(expected)) > values.MOST_BYTES:
        return None
    return question, expected


_short_plan = functools.lru_cache(maxsize=512)(_plan)


def equal(data, expected):
    """Whether bytes that may be anything are a value equal to the expected one, also as bytes."""
    if data == expected:
        return True
    # Longer ones, such as a Decimal for True or a defaultdict for {}, have fewer bytes for one.
    if len(data) > MOST_LONGER * len(expected):
        return False
    try:
        return bool(values.decode(data, value_of) == marshal.loads(expected))
    except Exception:  # garbled, too deep, or of a type that compares with nothing
        return False


def value_of(mark):
    """What a mark stands for where no more than its equality is of interest."""
    value = values.held(mark)
    return stand_ins.Other(mark) if value is None else value


class Asserts:
    """Judges plain asserts; `step` reads and writes what it can without waiting."""

    pid = None

    def __init__(self, channel, source, plans, limits):
        channel.setblocking(False)
        self._channel, self._limits = channel, limits
        asserts = [(index, *pair) for index, pairs in enumerate(plans) for pair in pairs]
        questions = [runner.frame(question) for _, question, _ in asserts]
        self._unsent = memoryview(b"".join([runner.frame(marshal.dumps(source, 2)), *questions]))
        self._expected = [(index, expected) for index, _, expected in asserts]
        self._received = bytearray()
        self._answers = 0  # the first is of the source
        self._failed, self._count = set(), len(plans)
        self.seen, self.finished = set(), False
        self._reading_s = 0.0  # CPU seconds that the program's values have taken

    @property
    def passed(self):
        """Of each test, whether all of its asserts were answered and hold."""
        open_ = {index for index, _ in self._expected[max(0, self._answers - 1) :]}
        return [index not in self._failed | open_ for index in range(self._count)]

    def fileno(self):
        return self._channel.fileno()

    def events(self):
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def step(self):
        """At most one round of reading, so that a flood does not keep the worker from its watch."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the program has ended
        try:
            data = self._channel.recv(CHUNK)
            self._received += data
            self.finished = not data
        except BlockingIOError:
            return
        except OSError:
            self.finished = True
        self._read()

    def close(self):
        """The channel is the program's to close."""

    def _read(self):
        size = runner.LENGTH.size
        while len(self._received) >= size and self._answers <= len(self._expected):
            (length,) = runner.LENGTH.unpack_from(self._received)
            if length > values.MOST_BYTES or length < runner.HEAD.size:
                self.finished = True
                return
            if len(self._received) < size + length:
                return
            body = bytes(self._received[size : size + length])
            del self._received[: size + length]
            letter, seconds = runner.HEAD.unpack_from(body)
            self._take(letter, seconds, body[runner.HEAD.size :])
        if self._answers > len(self._expected):
            self.seen.add(DONE)
            self.finished = True

    def _take(self, letter, seconds, data):
        place, self._answers = self._answers - 1, self._answers + 1
        if letter in (runner.MEMORY, runner.ERROR):
            self.seen.add(letter)
        if place < 0:
            self.finished = self.finished or letter != runner.LOADED
            return
        index, expected = self._expected[place]
        # Passes between the limit and the kill do not count: they would depend on the load.
        in_time = letter == runner.VALUE and 0 <= seconds <= self._limits["cpu_s"]
        began = time.thread_time()
        if not (in_time and equal(data, expected)):
            self._failed.add(index)
        self._reading_s += time.thread_time() - began
        if self._reading_s > cpu_limit(self._limits, True):
            self.seen.add(OVER)
            self.finished = True


# ---------------------------------------------------------------- any other test


class Forked:
    """Judges any tests in a process of its own; `step` reads what it reports."""

    def __init__(self, channel, source, tests, jail, limits):
        self._reports, end = os.pipe()
        self.pid = kernel.fork_program(jail)
        if self.pid == 0:
            be_judge(channel, source, tests, jail, limits, end)
        os.close(end)
        self._received = bytearray()
        self.passed = [False] * len(tests)
        self.seen, self.finished = set(), False

    def fileno(self):
        return self._reports

    def events(self):
        return select.POLLIN

    def step(self):
        data = os.read(self._reports, CHUNK)
        self._received += data
        self.finished = not data
        whole = len(self._received) // RECORD.size * RECORD.size
        for letter, index in RECORD.iter_unpack(self._received[:whole]):
            self.seen.add(letter)
            if letter == PASSED:
                self.passed[index] = True
        del self._received[:whole]
        self.finished = self.finished or not self.seen.isdisjoint(LAST)

    def close(self):
        os.close(self._reports)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def be_judge(channel, source, tests, jail, limits, reports):
    """The child's whole life; never returns."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null, target)
        at = 3
        for kept in sorted((channel.fileno(), reports)):
            os.closerange(at, kept)
            at = kept + 1
        os.closerange(at, 1024)

        def report(letter, index=-1):
            os.write(reports, RECORD.pack(letter, index))

        try:
            kernel.limit_resources(judge_limits(limits))
            if jail is not None:
                # Tests are the user's: they need no mounts of their own, which take longest.
                kernel.drop_privileges(jail._replace(uid=jail.uid + 1))
        except OSError:
            report(FAULT)
            return
        heard = functools.partial(report, ANSWERED)
        judge(stand_ins.Peer(channel, limits["cpu_s"], heard), source, tests, report)
    finally:
        os._exit(0)


def cpu_limit(limits, heard):
    """CPU seconds of a judge: ample for long tests, not for what it has heard from a program."""
    return 2 * limits["cpu_s"] if heard else limits["wall_s"] / 2


def judge_limits(limits):
    """What a judge may use at all; the worker watches it more closely."""
    return {
        "cpu_s": cpu_limit(limits, False) + cpu_limit(limits, True),
        "memory_bytes": limits["memory_bytes"] + EXTRA_MEMORY,
        "processes": limits["processes"],
    }


def judge(peer, source, tests, report):
    """Runs each test on its own."""
    sys.modules["random"].seed(0)
    try:
        peer.channel.sendall(runner.frame(marshal.dumps(source, 2)))
        ready = [compiled(test) for test in tests]
        letter, _ = peer.receive()
        report(letter if letter in (LOADED, ERROR, MEMORY) else GONE)
        if letter != LOADED:
            return
        for index, test in enumerate(ready):
            report(outcome(peer, *test) if test else FAILED, index)
            if peer.no_memory:
                report(MEMORY)
        report(GONE if peer.ended else DONE)
    except (RecursionError, MemoryError):
        report(OVER if peer.answered else UNJUDGED)
    except (stand_ins.Ended, OSError):
        report(GONE)


def compiled(test):
    """(code, tree) of a test; None of one that is no Python."""
    try:
        tree = ast.parse(test)
        return compile(tree, "test", "exec"), tree
    except (SyntaxError, ValueError):
        return None


def outcome(peer, code, tree):
    if texts.looks_beyond_values(tree):
        return UNJUDGED
    peer.begin(tree)
    try:
        exec(code, {"__name__": "test", "__builtins__": stand_ins.Names(peer, tree)})
        passed = peer.seconds <= peer.limit_s and not peer.ended
    except MemoryError:
        passed, peer.cannot_send = False, not peer.answered
    except BaseException:
        passed = False
    if peer.cannot_send:
        return UNJUDGED
    return PASSED if passed else FAILED
