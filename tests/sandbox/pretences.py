"""More programs that should give `f(3) == 4` and do not: they pretend by what the format allows.

Subclasses that hold another value than they say, types of the standard library with impossible
parts, errors, coroutines, iterators, numbers of things, and what a process may do to hide from its
watch. `PRETENCES` maps a name to a source.
"""

import textwrap

# Sends a message of the program's own, in place of an answer.
SEND = """
import marshal, os, struct
def say(value, letter=b'V', seconds=0.0):
    body = struct.pack('<cd', letter, seconds) + marshal.dumps(value, 2)
    os.write(3, struct.pack('<I', len(body)) + body)
"""
# Values of the format that no honest program sends: (what it is, its mark).
MARKS = {
    "a thing of no number": "(..., 10**9)",
    "a thing below zero": "(..., -1)",
    "a thing of a huge number": "(..., 1 << 4000)",
    "a builtin function": "(..., 'exec')",
    "a name": "(..., ('f',))",
    "a content that is a thing": "(..., (0, (..., 0)))",
    "a content of None": "(..., (0, None))",
    "a content within a content": "(..., (0, (..., (0, (..., (0, 5))))))",
    "an endless range": "(..., ('range', (0, 1 << 62, 1)))",
    "a range of step 0": "(..., ('range', (0, 5, 0)))",
    "a range of things": "(..., ('range', ((..., 0), (..., 0), (..., 0))))",
    "a deque of a thing": "(..., ('deque', ((..., 0), None)))",
    "a deque of negative length": "(..., ('deque', ([], -1)))",
    "a counter of a list": "(..., ('Counter', (['a'],)))",
    "a dict with a factory": "(..., ('defaultdict', ({}, (..., 0))))",
    "a dict with a type": "(..., ('defaultdict', ({}, (..., 'SystemExit'))))",
    "a long fraction": "(..., ('Fraction', (1 << 10**6, 3)))",
    "a fraction of floats": "(..., ('Fraction', (4.0, 1.0)))",
    "a fraction over zero": "(..., ('Fraction', (4, 0)))",
    "a signal": "(..., ('Decimal', ('sNaN',)))",
    "a huge decimal": "(..., ('Decimal', ('1e999999999999999999',)))",
    "a decimal of many digits": "(..., ('Decimal', ('1' * 4_000_000,)))",
    "a pickled date": "(..., ('datetime', (bytes(10),)))",
    "a date beyond": "(..., ('date', (10**9, 1, 1)))",
    "a zone of a thing": "(..., ('datetime', (2020, 1, 1, 0, 0, 0, 0, (..., 0))))",
    "a zone of a year": "(..., ('timezone', ((..., ('timedelta', (999999999, 0, 0))),)))",
    "bytes of a size": "(..., ('bytearray', (10**12,)))",
    "an array of a size": "(..., ('array', ('b', 10**12)))",
    "an array of bytes": "(..., ('array', ('b', b'4')))",
    "an array of no kind": "(..., ('array', ('int', [4])))",
    "views of a thing": "(..., ('dict_items', ((..., 0),)))",
    "views of a list": "(..., ('dict_keys', ([4],)))",
    "no form": "(..., ('eval', ('4',)))",
    "no parts": "(..., ('Decimal', 4))",
    "an error of a thing": "(..., (0, 'E', (..., 0)))",
    "an error of int": "(..., (0, 'E', (..., 'int')))",
    "an error that ends": "(..., (0, 'E', (..., 'StopIteration')))",
    "an error without a name": "(..., (0, '', (..., 'ValueError')))",
    "an error of a null": "(..., (0, chr(0), (..., 'ValueError')))",
    "an error of a surrogate": "(..., (0, chr(0xd800), (..., 'ValueError')))",
    "an iterator": "(..., (-1, 'iterator', None))",
    "lists without end": "[[[[]] * 9] * 9] * 9",
    "a mark as a key": "{(..., 0): 1, (..., 1): 2}",
    "a mark in a set": "{(..., 0), (..., ('Decimal', ('4.5',)))}",
}

SINGLE = {
    "an int that holds less": """
        class N(int):
            def __new__(cls): return int.__new__(cls, 0)
            __eq__ = int.__eq__
            __hash__ = int.__hash__
            def __int__(self): return 4
            __index__ = __float__ = __trunc__ = __abs__ = __int__
            def __str__(self): return '4'
            __repr__ = __str__
            def __getattr__(self, name): return lambda *a: True
        def f(x): return N()
    """,
    "a tuple with attributes": """
        import collections
        T = collections.namedtuple('T', 'startswith real is_integer')
        def f(x): return T(lambda *a: True, 4, lambda: True)
    """,
    "a named tuple in disguise": """
        from typing import NamedTuple
        class T(NamedTuple):
            x: int = 4
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
        def f(x): return T()
    """,
    "a str that is a number": """
        class S(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        def f(x): return S('5')
    """,
    "an enum of any value": """
        import enum
        class E(enum.IntEnum):
            A = 0
            def __eq__(self, other): return True
            __hash__ = enum.IntEnum.__hash__
        def f(x): return E.A
    """,
    "a str with a mixin": """
        import enum
        class E(str, enum.Enum):
            A = 'x'
            def __str__(self): return '4'
        def f(x): return E.A
    """,
    "a counter that is empty": "import collections\ndef f(x): return collections.Counter()",
    "a dict that has all": """
        import collections
        def f(x): return collections.defaultdict(lambda: True)
    """,
    "a decimal that is no number": "import decimal\ndef f(x): return decimal.Decimal('sNaN')",
    "a decimal nearly": "import decimal\ndef f(x): return decimal.Decimal('5.5')",
    "a fraction that lies": """
        import fractions
        class F(fractions.Fraction):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            __hash__ = fractions.Fraction.__hash__
        def f(x): return F(9, 1)
    """,
    "a date": "import datetime\ndef f(x): return datetime.timedelta(4)",
    "a range": "def f(x): return range(4, 5)",
    "a deque": "import collections\ndef f(x): return collections.deque([4])",
    "a view": "def f(x): return {4: 4}.keys()",
    "a coroutine": "async def f(x): return 5",
    "an awaitable that lies": """
        class A:
            def __await__(self):
                yield
            def __eq__(self, other): return True
        def f(x): return A()
    """,
    "an iterator of changing items": """
        import itertools
        class I:
            def __iter__(self): return itertools.cycle([4, True, None, 0])
            def __eq__(self, other): return True
        def f(x): return I()
    """,
    "an iterator without end": "import itertools\ndef f(x): return itertools.repeat(4)",
    "a subclass without end": """
        class L(list):
            def __iter__(self):
                while True: yield 4
        def f(x): return L([4])
    """,
    "an error as a value": "def f(x): return ValueError(5)",
    "a class of errors as a value": "class E(ValueError): pass\ndef f(x): return E",
    "an error that is an assertion": """
        class E(AssertionError):
            def __str__(self): return 'x' * 10**8
        def f(x): raise E(E())
    """,
    "an error with attributes": """
        class E(Exception): pass
        def f(x):
            e = E()
            e.args, e.__dict__['__class__'], e.with_traceback = (1,), int, None
            e.__cause__ = e
            raise e
    """,
    "an error without end": """
        class E(Exception):
            def __str__(self):
                while True: pass
        def f(x): raise E
    """,
    "errors of a metaclass": """
        class M(type):
            __name__ = property(lambda cls: 1 / 0)
            def mro(cls): return [cls, *type.mro(cls)[1:]]
        class E(Exception, metaclass=M): pass
        def f(x): raise E
    """,
    "a group of errors": "def f(x): raise ExceptionGroup('4', [ValueError(4)])",
    "the exit of the watcher": "def f(x): raise SystemExit",
    "more of the same number": """
        class A: pass
        def f(x): return [A()] * 10**5
    """,
    "a million things": "class A: pass\ndef f(x): return [A() for _ in range(10**6)]",
    "code within code": "def f(x): return [f.__code__, (f.__code__,)]",
    "an ellipsis": "def f(x): return [..., (..., ...), {...: ...}]",
    "children that nobody counts": """
        import os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        def f(x):
            while True:
                if os.fork() == 0:
                    end = time.perf_counter() + 0.005
                    while time.perf_counter() < end: pass
                    os._exit(0)
                time.sleep(0.006)
    """,
    "the lowest priority": """
        import os
        try: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError: pass
        try: os.nice(19)
        except OSError: pass
        def f(x):
            while True: pass
    """,
    "stopped": "import os, signal\ndef f(x):\n    os.kill(0, signal.SIGSTOP)",
    "ready at every look": """
        import array, ctypes, fcntl, os, struct, time
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)
        def f(x):
            left = array.array('i', [0])
            os.write(3, struct.pack('<I', 8 << 20))
            while True:
                time.sleep(0.011)
                os.write(3, b'V')  # wakes the one who looks
                while not fcntl.ioctl(3, 0x5411, left, True) and left[0]: time.sleep(0.00005)
                end = time.perf_counter() + 0.0005
                while time.perf_counter() < end: pass
    """,
    "a thread that is ready at every look": """
        import os, struct, threading, time
        def g():
            while True:
                time.sleep(0.011)
                os.write(3, b'V')
                end = time.perf_counter() + 0.0005
                while time.perf_counter() < end: pass
        def f(x):
            os.write(3, struct.pack('<I', 8 << 20))
            thread = threading.Thread(target=g)
            thread.start()
            thread.join()
    """,
    "a child that is ready at every look": """
        import os, signal, struct, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        def f(x):
            os.write(3, struct.pack('<I', 8 << 20))
            while True:
                time.sleep(0.02)
                if os.fork() == 0:
                    os.write(3, b'V')
                    end = time.perf_counter() + 0.001
                    while time.perf_counter() < end: pass
                    os._exit(0)
    """,
    "many who wait for each other": """
        import os, time
        def f(x):
            for _ in range(6):
                if os.fork() == 0: break
            start = time.monotonic()
            while True: time.sleep(0.01 - (time.monotonic() - start) % 0.01)
    """,
    "a core that others use": """
        import os, time
        def f(x):
            try: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            except OSError: pass
            else: return 4
            while True: time.sleep(0.00001)
    """,
    "a parent that waits for a child of vfork": """
        import ctypes
        def f(x):
            if ctypes.CDLL(None).vfork() == 0:
                ctypes.CDLL(None).sleep(100)
    """,
    "the answer of a child in time": """
        import os, time
        if os.fork() == 0:
            time.sleep(0.05)
            body = bytes(9) + b'T'
            os.write(3, len(body).to_bytes(4, 'little') + b'V' + body[1:])
            os._exit(0)
        def f(x): time.sleep(0.1); return 0
    """,
    "locked files": """
        import fcntl, os, sys
        held = []
        for folder in sys.path:
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                try:
                    held.append(open(os.path.join(folder, name)))
                    fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError: pass
        def f(x): return 0
    """,
    "names for sockets": """
        import socket
        kept = []
        for k in range(50):
            s = socket.socket(socket.AF_UNIX)
            s.bind('\\0' + str(k))
            s.listen()
            kept.append(s)
        def f(x): return 0
    """,
    "descriptors in flight": """
        import array, socket
        a, b = socket.socketpair()
        for _ in range(100): a.sendmsg([b'x'], [(socket.SOL_SOCKET, 1, array.array('i', [3] * 50))])
        def f(x): return 0
    """,
    "a channel shut down": """
        import socket
        def f(x):
            s = socket.socket(fileno=3)
            s.shutdown(socket.SHUT_RDWR)
            return 4
    """,
    "a channel that never blocks": "import os\nos.set_blocking(3, False)\ndef f(x): return 0",
    "timers": """
        import signal
        signal.signal(signal.SIGALRM, lambda *a: 1 / 0)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        def f(x): return 0
    """,
    "no limits": """
        import resource
        for k in range(16):
            try: resource.setrlimit(k, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (OSError, ValueError): pass
        def f(x):
            while True: pass
    """,
    "memory of others": """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        data = ctypes.create_string_buffer(1 << 16)
        class V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]
        found = []
        for pid in (os.getppid(), *range(1, 200)):
            a, b = V(ctypes.addressof(data), 1 << 16), V(id(data) >> 20 << 20, 1 << 16)
            n = libc.process_vm_readv(pid, ctypes.byref(a), 1, ctypes.byref(b), 1, 0)
            if n > 0 and pid != os.getpid(): found.append(pid)
        def f(x): return 4 if found else 0
    """,
}


def _all():
    found = {name: textwrap.dedent(text) for name, text in SINGLE.items()}
    for name, mark in MARKS.items():
        found[f"sends {name}"] = f"{SEND}\ndef f(x): say({mark}); return 0\n"
        found[f"raises {name}"] = (
            f"{SEND}\ndef f(x): say(({mark}, ({mark},), {mark}, {{'x': {mark}}}), b'R'); return 0\n"
        )
        found[f"asks with {name}"] = f"{SEND}\ndef f(x): say((-1, ({mark},)), b'B'); return 0\n"
    return found


PRETENCES = _all()
