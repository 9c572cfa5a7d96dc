"""What stands in for a program in a test: its names, its things, and the channel to its process.

Standard library only. A name that neither the test nor Python knows is the program's: its calls are
asked of the program's process, with their arguments as values (`values.py`), and changes to these
arguments come back.

What is of another kind than `values.py` knows is an `Other`: it equals nothing. It can be called
and iterated, which again gives values. Attributes, items and length it has only where it came from
a name like a class's (a capital, no underscore): a class answers for its own methods.
"""

import ast
import builtins
import importlib
import marshal
import sys

import runner  # the files beside this one
import values

UNKNOWN = 1 << 30  # the mark of what the program's process does not have


class CannotSend(BaseException):
    """A test gives the program what cannot be sent to it."""


class Ended(BaseException):
    """The program's process has ended, or sent what is no message."""


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
            self.channel.sendall(runner.frame(marshal.dumps(message, values.VERSION)))
        except OSError:
            self._end()

    def _lend(self, thing):
        if type(thing) is Other:
            return (thing._mark,) if type(thing._mark) is str else thing._mark
        if getattr(thing, "__self__", None) is builtins:
            return (thing.__name__,)  # such as len: the program's process has its own
        if not callable(thing):
            self._cannot_send()
        self.lent.append(thing)
        return -len(self.lent)

    def _cannot_send(self):
        self.cannot_send = True
        raise CannotSend

    def _thing_of(self, mark):
        if type(mark) is str and mark in values.TYPES:
            return values.TYPES[mark]
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
            kind = values.TYPES[name]
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
