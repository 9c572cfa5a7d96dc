"""The program's side inside the jail: forks one process for each program, which answers the judge.

Standard library only. `serve` is the life of one process beside the worker. It never sees a test,
so that no program finds one in its memory. Every program gets a process with, in this order: a PID
namespace of its own in which it is process 1 (its end is the end of all its descendants), a mount
namespace with an empty /tmp and no /proc, resource limits, a user without privileges, no
capabilities, and a system call filter. Then it reads its source from the judge, runs it and answers
questions: what a call gives, what a name stands for.

A message is a 4-byte length and a body. The judge sends the source first and then questions:
(operation, target, its arguments and keywords as bytes, whether these hold marks, whether changes
of the arguments are of interest). The program's process sends a letter, its CPU seconds and a
value. All of this runs beside the program, which may do with it as it likes: nobody believes what
comes from here.
"""

import builtins
import fcntl
import functools
import importlib
import marshal
import operator
import os
import socket
import struct
import sys
import types

import kernel  # the files beside this one
import values

LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<cd")  # letter, CPU seconds so far
PID, END = struct.Struct("<i"), struct.Struct("<id")  # of the program; its exit status, CPU seconds
LOADED, ERROR, MEMORY, VALUE, RAISED, BACK = (bytes([x]) for x in b"LEMVRB")
ANSWER, THROW = "answer", "throw"  # ops that end a question of the program's
BINARY = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift".split()
COMPARISONS, UNARY = "lt le gt ge".split(), "neg pos invert abs".split()


def send_to(thing, value=None):
    """(whether it has ended, what it gives) of an iterator, or of a coroutine, run to its end."""
    try:
        if isinstance(thing, types.CoroutineType):
            return True, importlib.import_module("asyncio").run(thing)
        return False, next(thing) if value is None else thing.send(value)
    except StopIteration as end:
        return True, end.value


OPERATIONS = {
    "call": lambda thing, *arguments, **keywords: thing(*arguments, **keywords),
    "name": lambda thing: thing,
    "iter": iter,
    "send": send_to,
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "str": str,
    "repr": repr,
    "hash": hash,
    "bool": bool,
    "eq": lambda thing, other: bool(thing == other),
    "isinstance": lambda kind, thing: isinstance(thing, kind),
    "issubclass": lambda kind, other: issubclass(other, kind),
    "enter": lambda thing: type(thing).__enter__(thing),
    "exit": lambda thing, *error: bool(type(thing).__exit__(thing, *error)),
}
OPERATIONS |= {name: getattr(operator, name) for name in (*BINARY, *COMPARISONS, *UNARY)}
OPERATIONS |= {
    f"r{name}": lambda right, left, name=name: OPERATIONS[name](left, right) for name in BINARY
}


def frame(body):
    """A message of the judge's."""
    return LENGTH.pack(len(body)) + body


def serve(control, jail, limits):
    """Forks a program for each message, which holds its folder and three descriptors."""
    while True:
        folder, descriptors, _, _ = socket.recv_fds(control, 4096, 3)
        if not folder:
            os._exit(0)
        pid = kernel.fork_program(jail)
        if pid == 0:
            be_program(jail, limits, folder.decode(), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        socket.send_fds(control, [PID.pack(pid)], [process])
        os.close(process)
        _, status, spent = os.wait4(pid, 0)
        control.sendall(END.pack(status, spent.ru_utime + spent.ru_stime))


def be_program(jail, limits, folder, descriptors):
    """The child's whole life; never returns."""
    leave = os._exit
    try:
        os.setsid()
        empty = os.open(os.devnull, os.O_RDONLY)
        channel, output, ready = descriptors
        sources = [fcntl.fcntl(x, fcntl.F_DUPFD, 10) for x in (empty, output, output, channel)]
        ready = fcntl.fcntl(ready, fcntl.F_DUPFD, 20)
        for target, source in enumerate(sources):
            os.dup2(source, target)
        os.dup2(ready, 4)
        os.closerange(5, 1024)
        try:
            if jail is None:
                os.chdir(folder)
                kernel.limit_resources(limits)
            else:
                kernel.confine(jail, limits)
        except OSError as error:
            os.write(4, str(error).encode() or b"no reason")
            return
        os.close(4)  # before the source: no program can claim that the jail broke
        live(3)
    finally:
        leave(0)


def live(descriptor):
    """Runs the source, tells how that went, and answers questions."""
    peer = Peer(descriptor)
    run, base, no_memory = exec, BaseException, MemoryError
    module = types.ModuleType("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.modules["random"].seed(0)  # the same verdict on every run
    builtins.exit = builtins.quit = sys.exit  # as the module site has them, which is left out
    source = marshal.loads(peer.receive())
    try:
        run(compile(source, "program.py", "exec"), module.__dict__)
    except base as error:
        peer.send(MEMORY if type(error) is no_memory else ERROR)
        return
    peer.send(LOADED)
    peer.scope = module.__dict__
    peer.answer_all()


class Peer:
    """The program's end of the channel to the judge."""

    def __init__(self, descriptor):
        self.descriptor, self.scope, self.things = descriptor, {}, []
        self.numbers = {}  # id of a thing -> its number; the list keeps it alive
        self.times, self.sum = os.times, sum
        self.getpid, self.leave, self.pid = os.getpid, os._exit, os.getpid()

    def receive(self):
        def read(count):
            data = bytearray()
            while len(data) < count:
                chunk = os.read(self.descriptor, count - len(data))
                if not chunk:
                    self.leave(0)  # the judge has ended
                data += chunk
            return data

        return read(*LENGTH.unpack(read(LENGTH.size)))

    def send(self, letter, data=b""):
        # A process forked by the program that came back here has nothing to say.
        if self.getpid() != self.pid:
            self.leave(0)
        body = HEAD.pack(letter, self.sum(self.times()[:4])) + data
        data = memoryview(LENGTH.pack(len(body)) + body)
        while data:
            data = data[os.write(self.descriptor, data) :]

    def lend(self, thing):
        number = self.numbers.setdefault(id(thing), len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number

    def thing_of(self, mark):
        """What a mark stands for: a type, a name, a value, a thing of ours, the test's function."""
        if type(mark) is str:
            return values.TYPES[mark]
        if type(mark) is tuple:
            if len(mark) == 1:
                return self.named(mark[0])
            if type(mark[0]) is str:
                return values.formed(*mark)
            if mark[1:] == ("iterator", None):
                return self.items(mark[0])
            mark = mark[0]  # the thing itself is here
        return self.things[mark] if mark >= 0 else functools.partial(self.ask, mark)

    def items(self, mark):
        """What an iterator of the test's gives, item by item."""
        while True:
            try:
                item = self.ask(mark)
            except StopIteration:
                return
            yield item

    def ask(self, mark, *arguments):
        """What a function of the test's gives."""
        self.send(BACK, values.encode((mark, arguments), self.lend))
        return self.answer_all()

    def answer_all(self):
        """Answers questions until the answer to one's own comes, which is returned."""
        while True:
            operation, target, inputs, marked, look = marshal.loads(self.receive())
            arguments, keywords = marshal.loads(inputs)
            if marked:
                arguments, keywords = values.marked((arguments, keywords), self.thing_of)
            if operation == ANSWER:
                return arguments[0]
            if operation == THROW:
                raise values.TYPES[target](*arguments)
            self.send(*self.answer(operation, target, arguments, keywords, look))

    def answer(self, operation, target, arguments, keywords, look):
        try:
            given = (arguments, keywords)
            before = values.encode(given, _nothing) if look else None
            thing = self.named(target) if type(target) is str else self.things[target]
            value = OPERATIONS[operation](thing, *arguments, **keywords)
            if not look:
                return VALUE, self.encoded(value)
            same = values.encode(given, _nothing) == before
            return VALUE, self.encoded(value, (None if same else given,))
        except BaseException as error:
            return self.told(error)

    def named(self, name):
        if name in self.scope:
            return self.scope[name]
        if name in vars(builtins):
            return vars(builtins)[name]
        raise NameError(name)

    def encoded(self, value, changes=()):
        """The bytes of a value, with changes in a tuple; what is too large is of another kind."""
        try:
            return values.encode((value, *changes) if changes else value, self.lend)
        except ValueError:
            mark = (..., self.lend(value))
            return values.encode((mark, None) if changes else mark, self.lend)

    def told(self, error):
        """An exception: class, arguments, text and attributes, as far as these can be sent."""
        kind = type(error)
        if kind is MemoryError:
            return MEMORY, b""
        known = next(x for x in kind.__mro__ if id(x) in values.NAMES)
        tellings = (
            lambda: (kind, error.args, None if kind is known else str(error), {**vars(error)}),
            lambda: (kind, error.args, None, {}),
            lambda: (kind, (), None, {}),
            lambda: (known, (), None, {}),
        )
        for telling in tellings:
            try:
                return RAISED, values.encode(telling(), self.lend)
            except BaseException:
                continue
        return RAISED, b""


def _nothing(thing):
    return 0
