"""What stands in for a program in a test: its names, its things, and the channel to its process.

Standard library only. A name that neither the test nor Python knows is the program's: its calls are
asked of the program's process, with their arguments as values (`values.py`), and changes to these
arguments come back.

What is of another kind than `values.py` knows is an `Other`. It equals no value: two of them are
equal where the program says so, for it made both. It can be called and iterated, which again gives
values, and it has attributes, but no method that values have (`startswith`): that could pretend.
Where it came from a name like a class's (a capital, no underscore) it has all of its methods,
length, items and operators: a class answers for itself. A test that names a class of errors gets a
real one, and errors of the program are of these.
"""

import ast
import builtins
import collections
import importlib
import marshal

import runner  # the files beside this one
import texts
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
        self._called, self._modules = texts.called_names(nodes), texts.module_names(nodes)
        used = {x.id for x in nodes if isinstance(x, ast.Name)}
        if calls and used <= self.keys() | self._modules | texts.bound_names(nodes):
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


def _below(call):
    return (x for part in (*call.args, *call.keywords) for x in ast.walk(part))


class Other:
    """A thing of another kind, kept by the program's process; equal to no value."""

    __slots__ = ("_mark", "_peer", "_opened")

    def __init__(self, mark, peer=None, opened=False):
        for name, value in zip(self.__slots__, (mark, peer, opened)):
            object.__setattr__(self, name, value)

    def _ask(self, operation, *arguments):
        return self._peer.ask(operation, self._mark, arguments, opened=self._opened)

    def _own(self, operation, *arguments):
        if not self._opened:
            raise TypeError(f"{operation} of what is no value")
        return self._ask(operation, *arguments)

    def __eq__(self, other):
        if self is other:
            return True
        # What it says of a value would be its word alone.
        return type(other) is Other and self._ask("eq", other) is True

    def __hash__(self):
        return hash(self._own("hash")) if self._opened else object.__hash__(self)

    def __call__(self, *arguments, **keywords):
        return self._peer.ask("call", self._mark, arguments, keywords, self._opened, look=True)

    def __iter__(self):
        return self._ask("iter")

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Of an iterator, or a coroutine, which runs to its end at once."""
        ended, value = self._ask("send", value)
        if ended:
            raise StopIteration(value)
        return value

    def throw(self, *error):
        raise error[0]

    def close(self):
        """A coroutine has ended when it is closed."""

    def __await__(self):
        ended, value = self._ask("send", None)
        return value
        yield

    def __getattr__(self, name):
        if name.startswith("__") and name not in _TOLD:
            raise AttributeError(name)
        found = self._ask("getattr", name)
        if not self._opened and name in _OF_VALUES and callable(found):
            raise AttributeError(name)
        return found

    def __setattr__(self, name, value):
        self._ask("setattr", name, value)

    def __len__(self):
        return self._own("len")

    def __bool__(self):
        return self._own("bool") is True if self._opened else True

    def __getitem__(self, key):
        return self._own("getitem", key)

    def __setitem__(self, key, value):
        self._own("setitem", key, value)

    def __delitem__(self, key):
        self._own("delitem", key)

    def __contains__(self, item):
        if self._opened:
            return self._own("contains", item) is True
        return any(item == x for x in self)  # not the program's own word

    def __str__(self):
        return str(self._ask("str"))

    def __repr__(self):
        return str(self._ask("repr"))

    def __enter__(self):
        return self._own("enter")

    def __exit__(self, kind, error, _):
        kind = next((x for x in kind.__mro__ if id(x) in values.NAMES), None) if kind else None
        return self._own("exit", kind, None, None) is True

    def __instancecheck__(self, thing):
        return self._ask("isinstance", thing) is True

    def __subclasscheck__(self, kind):
        return self._ask("issubclass", kind) is True

    def __mro_entries__(self, bases):
        # A class of the test's that derives from the program's.
        self._peer.give_up(TypeError("no base"), of_test=True)


def _operators():
    """The operators of things whose class the test names.

    Most are of two things of the program's: how a thing compares with a value of the test's would
    be its word alone, where the test only wants it near.
    """

    def of(name, with_values):
        def operate(self, *others):
            if not with_values and type(others[0]) is not Other:
                return NotImplemented
            return self._own(name, *others)

        return operate

    for name in (*runner.BINARY, *runner.COMPARISONS, *runner.UNARY):
        free = name in ("add", "mul", "matmul", *runner.UNARY)
        setattr(Other, f"__{name.strip('_')}__", of(name, free))
        if name in runner.BINARY:
            setattr(Other, f"__r{name.strip('_')}__", of(f"r{name}", free))


_operators()
_TOLD = ("__name__", "__dict__", "__annotations__")
_OF_VALUES = frozenset(name for kind in values.EXACT for name in dir(kind))
_OF_VALUES |= {x for kind in values.FORMS for x in dir(kind) if x.startswith("is")}


def _holding(kind):
    """A class of values of a type, with the attributes of a thing which the type lacks."""

    def attribute(self, name):
        thing = vars(self).get("_thing")
        if thing is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(thing, name)

    return type(f"Held{kind.__name__}", (kind,), {"__getattr__": attribute})


HOLDING = {kind: _holding(kind) for kind in values.CONTENTS}


class Peer:
    """The judge's end of the channel to the program's process."""

    def __init__(self, channel, limit_s, heard):
        self.channel, self.limit_s, self.seconds = channel, limit_s, 0.0
        self.lent, self.opened, self.answered, self._heard = [], False, False, heard
        self._things, self._kinds, self._numbers = {}, {}, {}  # by number; of classes of errors
        self.ended = self.no_memory = False
        self.begin(None)

    def begin(self, tree):
        """What follows is of another test."""
        self._test, self._called = tree, 0  # how many of its functions the program is calling
        self.cannot_send = self._heard_now = self._gives_back = False

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
            self._heard_now = True
            if not self.answered:
                self.answered = True
                self._heard()
            if letter != runner.BACK:
                break
            self._call_back(data)
        self.opened = opened
        if letter == runner.VALUE:
            value = self._value(data)
            return self._with_changes(value, (arguments, keywords or {})) if look else value
        if letter == runner.MEMORY:
            self.no_memory = True
            raise MemoryError
        raise self._error(data if letter == runner.RAISED else b"")

    def _send(self, operation, target, arguments, keywords, look):
        inputs, marked = (arguments, keywords), False
        try:
            values.refuse_buffers(inputs)
            inputs = marshal.dumps(inputs, values.VERSION)
        except ValueError:
            marked = True  # it holds things of other kinds
        try:
            if marked:
                inputs = values.encode(inputs, self._lend)
            elif len(inputs) > values.MOST_BYTES:
                raise ValueError("so many bytes")
        except ValueError as error:
            # How far it has an iterator run is a program's choice, and so how large its items grow.
            self.give_up(ValueError(f"cannot send {error}"), of_program=operation == runner.ANSWER)
        message = (operation, target, inputs, marked, look)
        try:
            self.channel.sendall(runner.frame(marshal.dumps(message, values.VERSION)))
        except OSError:
            self._end()

    def _lend(self, thing):
        if type(thing) in _HELD and "_thing" in vars(thing):
            thing = thing._thing
        if type(thing) is Other:
            return (thing._mark,) if type(thing._mark) is str else thing._mark
        if thing is ...:
            return UNKNOWN
        if isinstance(thing, type) and thing in self._numbers:
            return self._numbers[thing]
        if getattr(thing, "__self__", None) is builtins:
            return (thing.__name__,)  # such as len: the program's process has its own
        is_iterator = hasattr(thing, "__next__") and not hasattr(thing, "read")
        if not callable(thing) and not is_iterator:
            error = TypeError(f"cannot send a {type(thing).__name__}")
            self.give_up(error, of_test=type(thing).__module__ == "test")
        self.lent.append(thing.__next__ if is_iterator else thing)
        mark = -len(self.lent)
        return (mark, "iterator", None) if is_iterator else mark

    def give_up(self, error, of_test=False, of_program=False):
        """Ends a test that cannot be judged here; raises the error where the program led to it.

        What a function of the test's gives is the choice of the program that called it. What the
        test gives otherwise is the test's until it has heard of the program, later where it hands
        nothing back of what it has heard, and always where it is an instance of its own class.
        """
        if of_program or self._called:
            raise error
        if self._heard_now and not of_test:
            self._gives_back = self._gives_back or texts.gives_back(self._test)
            if self._gives_back:
                raise error
        self.cannot_send = True
        raise CannotSend

    def _thing_of(self, mark):
        if type(mark) is str and mark in values.TYPES:
            return values.TYPES[mark]
        if type(mark) is tuple and len(mark) == 3:
            return self._kind_of(*mark)
        number = mark[0] if type(mark) is tuple and len(mark) == 2 else mark
        if type(number) is str:
            return values.formed(*mark)
        known = type(number) is int and 0 <= number < UNKNOWN
        thing = self._thing(number if known else UNKNOWN)
        return thing if number is mark else self._holder(thing, mark[1])

    def _thing(self, number):
        """The same for the same number, so that the test sees which things are the same."""
        thing = self._things.setdefault(number, Other(number, self))
        if self.opened:
            object.__setattr__(thing, "_opened", True)
        return thing

    def _holder(self, thing, content):
        """What stands in for a thing of a class derived from a type of values."""
        kind = HOLDING.get(type(content))
        if kind is None or (self.opened and kind.__hash__ is None):
            return thing  # what can change is with the program
        value = kind(content)
        vars(value)["_thing"] = thing
        return value

    def _kind_of(self, number, name, base):
        """A class of errors that stands in for the program's own."""
        kinds = isinstance(base, type) and issubclass(base, BaseException)
        if not kinds or issubclass(base, _ENDS) or type(number) is not int or type(name) is not str:
            raise values.Garbled("no class of errors")
        if number not in self._kinds:
            self._kinds[number] = type(name.replace("\0", ""), (base,), {"__str__": _said})
            self._numbers[self._kinds[number]] = number
        return self._kinds[number]

    def _value(self, data):
        try:
            return values.decode(data, self._thing_of)
        except (values.Garbled, RecursionError):
            self._end()

    def _with_changes(self, answer, given):
        if type(answer) is not tuple or len(answer) != 2:
            self._end()
        value, changed = answer
        if type(changed) is tuple:
            self._gives_back = True
            renew(given, changed)
        return value

    def _error(self, data):
        try:
            kind, arguments, said, attributes = self._value(data)
            if not issubclass(kind, BaseException) or issubclass(kind, _ENDS):
                return RuntimeError(kind.__name__)
            error = _made(kind, arguments)
            for name, value in attributes.items():
                if not name.startswith("_"):
                    setattr(error, name, value)
            if said is not None:
                error._said = str(said)
            return error
        except Exception:
            return RuntimeError("an error")

    def _call_back(self, data):
        """Answers the program's question for what a function or iterator of the test's gives."""
        try:
            mark, arguments = self._value(data)
            function = self.lent[-mark - 1]
            # Items come as the test has them: an iterator is not told anything.
            is_call = getattr(function, "__name__", "") != "__next__"
            self._called += is_call
            try:
                self._send(runner.ANSWER, "", (function(*arguments),), {}, False)
            finally:
                self._called -= is_call
        except Exception as error:
            name = values.NAMES.get(id(type(error)), "RuntimeError")
            self._send(runner.THROW, name, (), {}, False)

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


def _made(kind, arguments):
    try:
        return kind(*arguments)
    except TypeError:  # its class wants others than it keeps
        return kind.__new__(kind, *arguments)


def _said(error):
    """The text of an error: the program's, of its own error."""
    return vars(error).get("_said") or BaseException.__str__(error)


_HELD = frozenset(HOLDING.values())


def renew(old, new):
    """Makes a list, dict or set equal to the changed copy, also inside of other containers."""
    if type(old) is not type(new):
        return
    if type(old) in (list, tuple) and len(old) == len(new):
        for place, (x, y) in enumerate(zip(old, new)):
            if type(x) is type(y) and type(x) in _RENEWED:
                renew(x, y)
            elif type(old) is list:
                old[place] = y
    elif type(old) in (list, bytearray):
        old[:] = new
    elif type(old) is dict and old.keys() == new.keys():
        for key, value in new.items():
            if type(value) is type(old[key]) and type(value) in _RENEWED:
                renew(old[key], value)
            else:
                old[key] = value
    elif type(old) in _RENEWED and type(old) is not tuple:
        old.clear()
        (old.extend if type(old) is collections.deque else old.update)(new)


_RENEWED = frozenset((list, tuple, dict, set, bytearray, collections.deque))
_RENEWED |= {collections.Counter, collections.OrderedDict, collections.defaultdict}
