"""The judge's side inside the jail: decides which tests a program passes, by the values it gives.

Standard library only. No code of the program runs here, and what a test expects is never sent to
the program's process. There are two ways, one verdict:

- `Asserts`: tests that are asserts of the form `name(literals) == literal`. All calls are sent at
  once, and the bytes of the answers compared, in the worker itself.
- `Forked`: any other test is run as it stands in a confined process of its own. A name that neither
  the test nor Python knows is the program's: its calls are asked of the program's process, with
  their arguments as values (`values.py`), and changes to these arguments come back.

What is of another kind than `values.py` knows is an `Other`: it equals nothing. It can be called
and iterated, which again gives values. Attributes, items and length it has only where it came from
a name like a class's (a capital, no underscore): a class answers for its own methods.
"""

import ast
import builtins
import functools
import importlib
import marshal
import os
import select
import struct
import sys

import kernel  # the files beside this one
import runner
import values

RECORD = struct.Struct("<ci")  # letter, test index
PASSED, FAILED, UNJUDGED, MEMORY, LOADED, ERROR, ANSWERED, GONE, DONE, FAULT = (
    bytes([x]) for x in b"PXUMLEAGDF"
)
LAST = (GONE, DONE, FAULT)
MOST_TEXT = 16 << 20  # of all tests of a program
PLANNED_TEXT = 64 << 10  # of a test whose plan is kept
EXTRA_MEMORY = 1 << 30  # bytes that a forked judge may use beyond a program's limit
UNKNOWN = 1 << 30  # the mark of what the program's process does not have
CHUNK = 1 << 16


class CannotSend(BaseException):
    """A test gives the program what cannot be sent to it."""


class Ended(BaseException):
    """The program's process has ended, or sent what is no message."""


def frame(body):
    return runner.LENGTH.pack(len(body)) + body


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


_short_plan = functools.lru_cache(maxsize=1024)(_plan)


def equal(data, expected):
    """Whether bytes that may be anything are a value equal to the expected one, also as bytes."""
    if data == expected:
        return True
    # An equal value has at most 17 bytes (complex) for one (True): the others are not read.
    if len(data) > 17 * len(expected):
        return False
    try:
        return bool(values.decode(data, Other) == marshal.loads(expected))
    except (values.Garbled, RecursionError):
        return False


class Asserts:
    """Judges plain asserts; `step` reads and writes what it can without waiting."""

    pid = None

    def __init__(self, channel, source, plans, limits):
        channel.setblocking(False)
        self._channel, self._limits = channel, limits
        asserts = [(index, *pair) for index, pairs in enumerate(plans) for pair in pairs]
        questions = [frame(question) for _, question, _ in asserts]
        self._unsent = memoryview(b"".join([frame(marshal.dumps(source, 2)), *questions]))
        self._expected = [(index, expected) for index, _, expected in asserts]
        self._received = bytearray()
        self._answers = 0  # the first is of the source
        self._failed, self._count = set(), len(plans)
        self.seen, self.finished = set(), False

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
        if not (in_time and equal(data, expected)):
            self._failed.add(index)


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
        judge(Peer(channel, limits["cpu_s"], heard), source, tests, report)
    finally:
        os._exit(0)


def judge_limits(limits):
    """What a judge may use: its work is not the program's."""
    return {
        "cpu_s": limits["wall_s"] / 2,
        "memory_bytes": limits["memory_bytes"] + EXTRA_MEMORY,
        "processes": limits["processes"],
    }


def judge(peer, source, tests, report):
    """Runs each test on its own."""
    sys.modules["random"].seed(0)
    try:
        peer.channel.sendall(frame(marshal.dumps(source, 2)))
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
        report(UNJUDGED)
    except (Ended, OSError):
        report(GONE)


def compiled(test):
    """(code, tree) of a test; None of one that is no Python."""
    try:
        tree = ast.parse(test)
        return compile(tree, "test", "exec"), tree
    except (SyntaxError, ValueError):
        return None


def outcome(peer, code, tree):
    peer.cannot_send = False
    try:
        exec(code, {"__name__": "test", "__builtins__": Names(peer, tree)})
        passed = peer.seconds <= peer.limit_s and not peer.ended
    except MemoryError:
        passed, peer.cannot_send = False, not peer.answered
    except BaseException:
        passed = False
    if peer.cannot_send:
        return UNJUDGED
    return PASSED if passed else FAILED


class Names(dict):
    """A test's builtins; behind them come modules of the standard library, then the program."""

    def __init__(self, peer, tree):
        super().__init__(vars(builtins))
        self._peer = peer
        nodes = list(ast.walk(tree))
        calls = [x for x in nodes if isinstance(x, ast.Call) and isinstance(x.func, ast.Name)]
        self._called = {x.func.id for x in calls}
        owners = [x.value for x in nodes if isinstance(x, ast.Attribute)]
        owners = {x.id for x in owners if isinstance(x, ast.Name)} - self._called
        self._modules = owners & sys.stdlib_module_names
        used = {x.id for x in nodes if isinstance(x, ast.Name)}
        if calls and used <= self.keys() | self._modules | _bound(nodes):
            self._shadow(calls)

    def _shadow(self, calls):
        """Where a test uses none but known names, the program's function may be named like one."""
        inner = [x for x in calls if not any(isinstance(y, ast.Call) for y in _below(x))]
        name = inner[0].func.id
        if name in self:
            found = self._peer.ask("name", name)
            if type(found) is Other:
                self[name] = Other(name, self._peer)

    def __missing__(self, name):
        if name in self._modules:
            found = importlib.import_module(name)
        elif name in self._called:
            found = Other(name, self._peer, _is_class(name))
        else:
            found = self._peer.ask("name", name, opened=_is_class(name))
            if type(found) is not Other:
                return found  # a value: it may be another one next time
            found = Other(name, self._peer, _is_class(name))
        self[name] = found
        return found


def _is_class(name):
    return name[0].isupper() and "_" not in name


def _bound(nodes):
    """Names that a test itself gives a meaning to."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
    bound = {x.id for x in nodes if isinstance(x, ast.Name) and not isinstance(x.ctx, ast.Load)}
    bound |= {x.arg for x in nodes if isinstance(x, ast.arg)}
    bound |= {x.name for x in nodes if isinstance(x, kinds)}
    return bound | {x.asname or x.name for x in nodes if isinstance(x, ast.alias)}


def _below(call):
    return (x for part in (*call.args, *call.keywords) for x in ast.walk(part))


class Other:
    """A thing of another kind, kept by the program's process; equal to nothing."""

    __slots__ = ("_mark", "_peer", "_opened")
    __hash__ = object.__hash__

    def __init__(self, mark, peer=None, opened=False):
        for name, value in zip(self.__slots__, (mark, peer, opened)):
            object.__setattr__(self, name, value)

    def __eq__(self, other):
        return False

    def __call__(self, *arguments, **keywords):
        return self._peer.ask("call", self._mark, arguments, keywords, self._opened, look=True)

    def __iter__(self):
        return self._peer.ask("iter", self._mark, opened=self._opened)

    def __next__(self):
        return self._peer.ask("next", self._mark, opened=self._opened)

    def _own(self, operation, *arguments):
        if not self._opened:
            raise TypeError(f"{operation} of what is no value")
        return self._peer.ask(operation, self._mark, arguments, opened=True)

    def __getattr__(self, name):
        if not self._opened or name.startswith("__"):
            raise AttributeError(name)
        return self._own("getattr", name)

    def __setattr__(self, name, value):
        self._own("setattr", name, value)

    def __len__(self):
        return self._own("len")

    def __bool__(self):
        return True

    def __getitem__(self, key):
        return self._own("getitem", key)

    def __setitem__(self, key, value):
        self._own("setitem", key, value)

    def __contains__(self, item):
        return any(item == x for x in self)  # not the program's own word

    def __str__(self):
        return str(self._own("str")) if self._opened else "?"

    def __repr__(self):
        return str(self._own("repr")) if self._opened else "?"


class Peer:
    """The judge's end of the channel to the program's process."""

    def __init__(self, channel, limit_s, heard):
        self.channel, self.limit_s, self.seconds = channel, limit_s, 0.0
        self.lent, self.opened, self.answered, self._heard = [], False, False, heard
        self.ended = self.no_memory = self.cannot_send = False

    def receive(self):
        """(letter, data)."""
        (length,) = runner.LENGTH.unpack(self._read(runner.LENGTH.size))
        if not runner.HEAD.size <= length <= values.MOST_BYTES:
            self._end()
        body = self._read(length)
        letter, seconds = runner.HEAD.unpack_from(body)
        if seconds >= self.seconds:  # also not a NaN
            self.seconds = seconds
        return letter, body[runner.HEAD.size :]

    def ask(self, operation, target, arguments=(), keywords=None, opened=False, look=False):
        """What an operation gives in the program's process; raises what it raises there."""
        self._send(operation, target, arguments, keywords or {}, look)
        while True:
            letter, data = self.receive()
            if not self.answered:
                self.answered = True
                self._heard()
            if letter != runner.BACK:
                break
            self._call_back(data)
        self.opened = opened
        if letter == runner.VALUE:
            value = self._value(data)
            return self._with_changes(value, arguments) if look else value
        if letter == runner.STOPPED and operation == "next":
            raise StopIteration
        if letter == runner.MEMORY:
            self.no_memory = True
            raise MemoryError
        raise self._error(data if letter == runner.RAISED else b"")

    def _send(self, operation, target, arguments, keywords, look):
        inputs, marked = (arguments, keywords), False
        try:
            inputs = marshal.dumps(inputs, values.VERSION)
        except ValueError:
            marked = True  # it holds things of other kinds
        try:
            if marked:
                inputs = values.encode(inputs, self._lend)
            elif len(inputs) > values.MOST_BYTES:
                raise ValueError("so many bytes")
        except ValueError as error:
            # What the program gave may be too large to give back: that is no fault of the test's.
            if self.answered:
                raise ValueError(f"cannot send {error}") from None
            self._cannot_send()
        message = (operation, target, inputs, marked, look)
        try:
            self.channel.sendall(frame(marshal.dumps(message, values.VERSION)))
        except OSError:
            self._end()

    def _lend(self, thing):
        if type(thing) is Other:
            return (thing._mark,) if type(thing._mark) is str else thing._mark
        if not callable(thing):
            self._cannot_send()
        self.lent.append(thing)
        return -len(self.lent)

    def _cannot_send(self):
        self.cannot_send = True
        raise CannotSend

    def _thing_of(self, mark):
        if type(mark) is str and mark in values.BUILTINS:
            return values.BUILTINS[mark]
        known = type(mark) is int and 0 <= mark < UNKNOWN
        return Other(mark if known else UNKNOWN, self, self.opened)

    def _value(self, data):
        try:
            return values.decode(data, self._thing_of)
        except (values.Garbled, RecursionError):
            self._end()

    def _with_changes(self, answer, arguments):
        if type(answer) is not tuple or len(answer) != 2:
            self._end()
        value, changed = answer
        if type(changed) is tuple and len(changed) == len(arguments):
            for old, new in zip(arguments, changed):
                renew(old, new)
        return value

    def _error(self, data):
        try:
            name, arguments = self._value(data)
            kind = values.BUILTINS[name]
            if not issubclass(kind, BaseException) or issubclass(kind, _ENDS):
                return RuntimeError(name)
            return kind(*arguments)
        except Exception:
            return RuntimeError("an error")

    def _call_back(self, data):
        """Answers the program's question for what a function of the test's gives."""
        try:
            mark, arguments = self._value(data)
            value = self.lent[-mark - 1](*arguments)
        except Exception as error:
            name = values.NAMES.get(id(type(error)), "RuntimeError")
            self._send(runner.THROW, name, (), {}, False)
        else:
            self._send(runner.ANSWER, "", (value,), {}, False)

    def _read(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self.channel.recv(min(count - len(data), 1 << 20))
            except OSError:
                chunk = b""
            if not chunk:
                self._end()
            data += chunk
        return bytes(data)

    def _end(self):
        self.ended = True
        raise Ended


# Raised inside of a test's own loops they would end these early, as if all were done.
_ENDS = (StopIteration, StopAsyncIteration, GeneratorExit)


def renew(old, new):
    """Makes a list, dict or set equal to the changed copy, also inside of other containers."""
    if type(old) is not type(new):
        return
    if type(old) in (list, tuple) and len(old) == len(new):
        for place, (x, y) in enumerate(zip(old, new)):
            if type(x) is type(y) and type(x) in (list, dict, set, tuple):
                renew(x, y)
            elif type(old) is list:
                old[place] = y
    elif type(old) is list:
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)
