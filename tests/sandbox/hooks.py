"""Further programs that should give `f(3) == 4` and do not.

What Python offers to watch, to hook into or to break itself, forged messages, and objects that are
called in unusual ways. `HOOKS` maps a name to a source.
"""

import textwrap

SINGLE = {
    "a descriptor as f": """
        class D:
            def __get__(self, o, t=None): return lambda x: self
            def __eq__(self, o): return True
            def __call__(self, x): return self
        class H: f = D()
        f = H().f
    """,
    "a metaclass that calls": """
        class M(type):
            def __call__(cls, *a): return cls
            def __eq__(cls, o): return True
            __hash__ = type.__hash__
            def __instancecheck__(cls, x): return True
        class f(metaclass=M): pass
    """,
    "a module as f": """
        import sys, types
        class Mod(types.ModuleType):
            def __call__(self, x): return self
            def __eq__(self, o): return True
            __hash__ = None
        f = Mod('f')
    """,
    "a coroutine of lies": """
        async def f(x):
            class A:
                def __eq__(s, o): return True
            return A()
    """,
    "a bound method of a liar": """
        class A(int):
            def __eq__(s, o): return True
            def f(s, x): return s
        f = A(0).f
    """,
    "Enum that equals": """
        import enum
        class E(enum.IntEnum):
            A = 5
            def __eq__(s, o): return True
            __hash__ = int.__hash__
        def f(x): return E.A
    """,
    "Decimal sNaN": """
        import decimal
        def f(x): return decimal.Decimal('sNaN')
    """,
    "Decimal huge": """
        import decimal
        def f(x): return decimal.Decimal('1e999999')
    """,
    "complex nan": """
        def f(x): return complex('nan+nanj')
    """,
    "range huge": """
        def f(x): return range(4, 10**18)
    """,
    "tz": """
        import datetime
        class T(datetime.tzinfo):
            def utcoffset(s, d): return datetime.timedelta(0)
        def f(x): return datetime.datetime(1,1,1,tzinfo=T())
    """,
    "namedtuple liar": """
        import collections
        N = collections.namedtuple('N', 'a')
        N.__eq__ = lambda s, o: True
        def f(x): return N(4)
    """,
    "ordered dict liar": """
        from collections import OrderedDict
        class O(OrderedDict):
            __eq__ = lambda s, o: True
        def f(x): return O()
    """,
    "sys.monitoring": """
        import sys
        m = getattr(sys, 'monitoring', None)
        if m:
            m.use_tool_id(0, 'x')
            m.register_callback(0, m.events.PY_START, lambda *a: None)
            m.set_events(0, m.events.PY_START)
        def f(x): return 0
    """,
    "audit hook raises": """
        import sys
        def h(e, a):
            raise RuntimeError
        sys.addaudithook(h)
        def f(x): return 0
    """,
    "faulthandler exit": """
        import faulthandler
        faulthandler.dump_traceback_later(0.05, exit=True, repeat=True)
        import time
        def f(x): time.sleep(0.5); return 4
    """,
    "a crash by faulthandler": """
        import faulthandler
        def f(x): faulthandler._sigsegv()
    """,
    "sys.exit in __del__": """
        import sys
        class A:
            def __del__(s): sys.exit(0)
        def f(x): A(); return 0
    """,
    "gc callbacks": """
        import gc
        gc.callbacks.append(lambda p, i: 1 / 0)
        gc.set_threshold(1)
        def f(x): return [[] for _ in range(10)]
    """,
    "sys.modules main": """
        import sys
        sys.modules['__main__'] = None
        sys.modules.clear()
        def f(x): return 0
    """,
    "stdout is channel": """
        import os
        os.dup2(3, 1)
        print('P' * 100)
        def f(x): return 0
    """,
    "two readers of a channel": """
        import os
        if os.fork() == 0:
            data = os.read(3, 10**6)
            os._exit(0)
        def f(x): return 0
    """,
    "half a message": """
        import os, struct
        os.write(3, struct.pack('<I', 100) + b'V')
        os._exit(0)
    """,
    "zero length": """
        import os
        os.write(3, bytes(4 * 1000))
        def f(x): return 0
    """,
    "negative count": """
        import os, struct
        def f(x):
            b = struct.pack('<cd', b'V', 0.) + b'[' + struct.pack('<i', -1)
            os.write(3, struct.pack('<I', len(b)) + b); return 0
    """,
    "refs of marshal": """
        import os, struct
        def f(x):
            b = struct.pack('<cd', b'V', 0.) + bytes([ord('[') | 128])
            b += struct.pack('<i', 1) + b'r' + bytes(4)
            os.write(3, struct.pack('<I', len(b)) + b); return 0
    """,
    "negative seconds": """
        import os, struct, marshal
        def f(x):
            b = struct.pack('<cd', b'V', -1e308) + marshal.dumps(5, 2)
            os.write(3, struct.pack('<I', len(b)) + b); return 0
    """,
    "loaded twice": """
        import os, struct
        for _ in range(5):
            b = struct.pack('<cd', b'L', 0.)
            os.write(3, struct.pack('<I', len(b)) + b)
        def f(x): return 0
    """,
    "says loaded then raises": """
        import os, struct
        b = struct.pack('<cd', b'L', 0.)
        os.write(3, struct.pack('<I', len(b)) + b)
        1 / 0
    """,
    "exceptions chained without end": """
        def f(x):
            e = ValueError(4)
            e.__cause__ = e
            e.__context__ = e
            raise e
    """,
    "an exception of many classes": """
        E = ValueError
        for i in range(900): E = type('E', (E,), {})
        def f(x): raise E(4)
    """,
    "recursion in eq": """
        class A:
            def __eq__(s, o): return s == o
        def f(x): return A()
    """,
    "recursion in getattr": """
        class A:
            def __getattr__(s, n): return getattr(s, n + 'x')
        def f(x): return A()
    """,
    "endless iterator of things": """
        import itertools
        def f(x): return (object() for _ in itertools.count())
    """,
    "symlinks out": """
        import os
        for p in ('/etc/passwd', '/root', '/home', '/work', '/proc/1/environ'):
            try:
                os.symlink(p, '/tmp/l'); print(os.listdir('/tmp/l'))
            except OSError: pass
            finally:
                try: os.unlink('/tmp/l')
                except OSError: pass
        def f(x): return 0
    """,
    "deep folders": """
        import os
        for _ in range(10**5):
            os.mkdir('a'); os.chdir('a')
        def f(x): return 0
    """,
    "shared mmap forks": """
        import mmap, os
        m = mmap.mmap(-1, 100 << 20)
        for _ in range(6):
            if os.fork() == 0:
                m.write(bytes(100 << 20)); os._exit(0)
        def f(x): return 0
    """,
    "exec with the channel": """
        import os, sys
        os.set_inheritable(3, True)
        os.execv('/bin/sh', ['sh', '-c', 'while :; do printf LLLLVVVV >&3; done'])
    """,
    "a code object made bad": """
        def g(): pass
        g.__code__ = g.__code__.replace(co_code=b'\\xff' * 100)
        def f(x): return g()
    """,
    "ctypes make 0 a 4": """
        import ctypes
        ctypes.c_long.from_address(id(0) + 24).value = 4
        def f(x): return 0
    """,
    "prctl games": """
        import ctypes
        l = ctypes.CDLL(None)
        for o in (1, 4, 15, 36, 29):
            l.prctl(o, 1, 0, 0, 0)
        def f(x): return 0
    """,
    "sockets": """
        import socket
        for fam in (2, 10, 16, 17, 38, 40, 44):
            for kind in (1, 2, 3):
                try: socket.socket(fam, kind); ok = 1
                except OSError: pass
        def f(x): return 4 if 'ok' in globals() else 0
    """,
    "__builtins__ deleted": """
        import builtins
        for n in list(vars(builtins)):
            if n not in ('exec',): delattr(builtins, n)
    """,
    "a class that hides its mro": """
        class M(type):
            def mro(cls): return [cls, int, object] if False else type.mro(cls)
            __mro__ = property(lambda c: (int, object))
        class A(metaclass=M):
            def __eq__(s, o): return True
        def f(x): return A()
    """,
    "__class__ property int": """
        class A:
            __class__ = property(lambda s: int)
            def __eq__(s, o): return True
            def __int__(s): return 4
            __index__ = __int__
        def f(x): return A()
    """,
    "a key function thief": """
        import inspect
        def f(x):
            for fr in inspect.stack():
                if 'expected' in fr.frame.f_locals: return fr.frame.f_locals['expected']
    """,
}
HOOKS = {name: textwrap.dedent(text) for name, text in SINGLE.items()}
