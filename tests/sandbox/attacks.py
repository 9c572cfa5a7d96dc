"""Programs that try to be paid without being right, or to do harm. Written for many harnesses.

Each should give `f(3) == 4`, and gives something else. `ATTACKS` maps a name to a source.
"""

import textwrap

# Values that claim to be equal to, in, or near anything.
LIES = """
class Lie{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __le__(self, other): return True
    def __gt__(self, other): return True
    def __ge__(self, other): return True
    def __hash__(self): return hash(4)
    def __contains__(self, item): return True
    def __bool__(self): return True
    def __iter__(self): return iter(())
    def __len__(self): return 1
    def __int__(self): return 4
    def __index__(self): return 4
    def __float__(self): return 4.0
    def __complex__(self): return 4j
    def __abs__(self): return 0
    def __round__(self, n=0): return 4
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
    def __add__(self, other): return 4
    def __getitem__(self, place): return self
    def __getattr__(self, name): return lambda *a, **k: True
    def __instancecheck__(self, other): return True
"""
BASES = ("", "(int)", "(str)", "(float)", "(list)", "(tuple)", "(dict)", "(set)", "(frozenset)")
BASES += ("(bytes)", "(complex)", "(Exception)", "(type)")

SHADOWED = (
    "abs all any bool dict enumerate filter float int isinstance len list map max min range repr "
    "reversed round set sorted str sum tuple type zip print getattr hash AssertionError Exception"
).split()

SINGLE = {
    "stateful equality": """
        class Guess:
            count = 0
            def __eq__(self, other):
                Guess.count += 1
                return Guess.count % 2 == 1
        def f(x): return Guess()
    """,
    "equality that reads the other": """
        class Copy:
            def __eq__(self, other):
                self.value = other
                return self.value == other
        def f(x): return Copy()
    """,
    "equal by reflection": """
        import builtins
        class Sub(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def f(x): return Sub(0)
    """,
    "a class that says it is a list": """
        class L:
            __class__ = list
            def __eq__(self, other): return True
        def f(x): return L()
    """,
    "a metaclass with equality": """
        class M(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class C(metaclass=M): pass
        def f(x): return C
    """,
    "lies inside of containers": LIES.format(base="(int)") + "\ndef f(x): return [Lie(), (Lie(),)]",
    "lies as keys": LIES.format(base="(int)") + "\ndef f(x): return {Lie(): Lie()}",
    "mock.ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "a generator of guesses": "def f(x):\n    yield from range(4, 5)",
    "a proxy of nothing": """
        import weakref
        class A:
            def __eq__(self, other): return True
        kept = A()
        def f(x): return weakref.proxy(kept)
    """,
    "not a number": "def f(x): return float('nan')",
    "enough": "def f(x): return float('inf')",
    "NotImplemented": "def f(x): return NotImplemented",
    "Ellipsis and a number": "def f(x): return (..., 0)",
    "Ellipsis and a name": "def f(x): return (..., 'len')",
    "frames: constants": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for c in frame.f_code.co_consts:
                    if type(c) is int and c > 3: return c
                frame = frame.f_back
    """,
    "frames: locals": """
        import re, sys
        needle = re.compile(''.join(['f.3. =', '= ', '([0-9]+)']))
        def find(value, depth=0):
            if type(value) in (str, bytes):
                text = value if type(value) is str else value.decode('latin-1')
                return needle.search(text)
            if isinstance(value, dict): value = list(value.values())
            if isinstance(value, (list, tuple, set)) and depth < 5:
                return next((y for x in value if (y := find(x, depth + 1))), None)
        def f(x):
            frame = sys._getframe()
            while frame:
                found = find(frame.f_locals) or find(frame.f_globals)
                if found: return int(found[1])
                frame = frame.f_back
    """,
    "frames: report": """
        import sys
        frame = sys._getframe()
        while frame:
            for name, v in list(frame.f_locals.items()) + list(frame.f_globals.items()):
                if name in ('report', 'send', 'answer', 'peer', 'PASSED', 'passed', 'judge'):
                    for letter in (b'P', b'F', b'D', b'V', 'F', 'fault'):
                        try: v(letter)
                        except BaseException: pass
                        try: v.send(letter)
                        except BaseException: pass
            frame = frame.f_back
        def f(x): return 0
    """,
    "frames: another answer": """
        import sys
        frame = sys._getframe()
        while frame:
            peer = frame.f_locals.get('peer') or frame.f_locals.get('self')
            if peer is not None and hasattr(peer, 'encoded'):
                type(peer).answer = lambda *a, **k: (b'V', b'T')
            frame = frame.f_back
        def f(x): return 0
    """,
    "gc: tests in memory": """
        import gc, re
        needle = re.compile(''.join(['f.3. =', '= ', '([0-9]+)']))
        def f(x):
            for o in gc.get_objects():
                if isinstance(o, (list, tuple, dict, set)):
                    for v in (list(o.values()) if isinstance(o, dict) else list(o)):
                        if type(v) in (str, bytes):
                            text = v if type(v) is str else v.decode('latin-1')
                            found = needle.search(text)
                            if found: return int(found[1])
    """,
    "memory: tests in the heap": """
        import ctypes, re
        needle = re.compile(''.join(['f.3. =', '= ', '([0-9]+)']).encode())
        def f(x):
            near = id(x) >> 20 << 20
            for start in (id([]) >> 20 << 20, id(object()) >> 20 << 20):
                found = needle.search(ctypes.string_at(start, 1 << 20))
                if found: return int(found[1])
    """,
    "settrace": """
        import sys
        def trace(frame, event, arg):
            for name in list(frame.f_locals):
                if name in ('passed', 'outcome', 'expected'): frame.f_locals[name] = True
            return trace
        sys.settrace(trace)
        sys._getframe().f_back.f_trace = trace
        def f(x): return 0
    """,
    "setprofile": """
        import sys
        def profile(frame, event, arg):
            if event == 'c_call' and getattr(arg, '__name__', '') == 'write': raise SystemExit
        sys.setprofile(profile)
        def f(x): return 0
    """,
    "descriptors: letters": """
        import os
        for d in range(1, 64):
            for letters in (b'P' * 1000, b'L', b'D', b'F' * 40, b'fault', b'{"fault": "x"}'):
                try: os.write(d, letters)
                except OSError: pass
        def f(x): return 0
    """,
    "descriptors: forged answers": """
        import marshal, os, struct
        def message(letter, value):
            body = struct.pack('<cd', letter, 0.0) + marshal.dumps(value, 2)
            return struct.pack('<I', len(body)) + body
        os.write(3, b''.join(message(b'V', True) for _ in range(20)))
        def f(x): return 0
    """,
    "descriptors: faults": """
        import os, struct
        for letter in (b'F', b'X', b'P', b'D', b'U', b'G', b'B', b'S', bytes(1)):
            body = struct.pack('<cd', letter, float('nan')) + b'N'
            os.write(3, struct.pack('<I', len(body)) + body)
        def f(x): return 0
    """,
    "descriptors: a length without end": """
        import os
        os.write(3, b'\\xff' * 400)
        def f(x): return 0
    """,
    "descriptors: a long message without end": """
        import os, struct
        os.write(3, struct.pack('<I', 1 << 22) + b'V')
        def f(x): return 0
    """,
    "descriptors: unasked questions": """
        import marshal, os, struct
        def f(x):
            body = struct.pack('<cd', b'B', 0.0) + marshal.dumps((-1, (4,)), 2)
            for _ in range(50): os.write(3, struct.pack('<I', len(body)) + body)
            return 0
    """,
    "descriptors: closed": "import os\nos.closerange(0, 64)\ndef f(x): return 0",
    "descriptors: exchanged": """
        import os, socket
        a, b = socket.socketpair()
        os.dup2(a.fileno(), 3)
        def f(x): return 0
    """,
    "descriptors: read what is asked": """
        import os, re
        def f(x): return 0
        data = os.read(3, 1 << 16)
        numbers = [int(y) for y in re.findall(rb'i(....)', data) if False]
    """,
    "deep value": "def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
    "circular value": "def f(x):\n    y = []\n    y.append(y)\n    return y",
    "huge value": "def f(x): return [0] * 10**7",
    "values that take long to read": "x = [[[]]] * 800_000\ndef f(y): return x",
    "huge number": "def f(x): return 1 << 10**7",
    "colliding keys": "def f(x): return {y * (2**61 - 1): 0 for y in range(1, 10**5)}",
    "colliding set": "def f(x): return {y * (2**61 - 1) for y in range(1, 10**5)}",
    "code as a value": "def f(x): return f.__code__",
    "array as bytes": "import array\ndef f(x): return array.array('i', [4])",
    "builtins replaced": """
        import builtins
        for name in ('exec', 'compile', 'len', 'isinstance', 'AssertionError', 'BaseException'):
            setattr(builtins, name, lambda *a, **k: True)
        def f(x): return 0
    """,
    "marshal replaced": """
        import marshal
        marshal.dumps = lambda *a: b'T'
        marshal.loads = lambda *a: 4
        def f(x): return 0
    """,
    "os replaced": "import os\nos._exit = os.write = os.read = lambda *a: b''\ndef f(x): return 0",
    "modules replaced": """
        import sys
        class M:
            def __getattr__(self, name): return lambda *a, **k: True
        for name in list(sys.modules) + ['math', 'unittest', 'numpy', 'pytest']:
            if name not in ('sys', 'builtins'): sys.modules[name] = M()
        def f(x): return 0
    """,
    "math replaced": """
        import math
        math.isclose = lambda *a, **k: True
        math.fabs = lambda *a: 0
        def f(x): return 0
    """,
    "the main module": """
        import __main__, sys
        for name in ('judge', 'equal', 'conclude', 'outcome', 'run_program', 'f'):
            setattr(__main__, name, lambda *a, **k: True)
    """,
    "harness imported": """
        import sys
        sys.path.insert(0, '/sandbox')
        import judge, runner, values
        judge.equal = values.decode = lambda *a: 4
        def f(x): return 0
    """,
    "exit at once": "import os\nos._exit(0)",
    "exit in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "StopIteration": "def f(x): raise StopIteration",
    "GeneratorExit": "def f(x): raise GeneratorExit",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "AssertionError": "def f(x): raise AssertionError",
    "an exception that lies": """
        class E(BaseException):
            args = property(lambda self: 1 / 0)
            def __init__(self): pass
        def f(x): raise E
    """,
    "a child that answers": "import os\ndef f(x):\n    return 0 if os.fork() else 1",
    "children that answer": "import os\ndef f(x):\n    os.fork(); os.fork()\n    return 0",
    "a child that outlives": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            while True: time.sleep(0.1)
        def f(x): return 0
    """,
    "a thread that answers": """
        import os, struct, threading
        def flood():
            body = struct.pack('<cd', b'V', 0.0) + b'T'
            for _ in range(1000): os.write(3, struct.pack('<I', len(body)) + body)
        threading.Thread(target=flood, daemon=True).start()
        def f(x): return 0
    """,
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "signals": """
        import os, signal
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        os.kill(0, 15)
        try: os.kill(-1, 9)
        except OSError: pass
        def f(x): return 0
    """,
    "endless loop": "def f(x):\n    while True: pass",
    "endless sleep": "import time\ndef f(x): time.sleep(100)",
    "endless naps": "import time\ndef f(x):\n    while True: time.sleep(0.001)",
    "vfork": """
        import subprocess
        def f(x): subprocess.run(['/bin/sh', '-c', 'sleep 100'])
    """,
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory": "x = bytearray(1 << 34)",
    "memory in pieces": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "output": "while True: print('x' * 10**4)",
    "temporary files": "i = 0\nwhile True:\n    open(f'{i}', 'wb').write(bytes(1 << 20)); i += 1",
    "inodes": "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close(); i += 1",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "a crash": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "a slow repr": """
        class S:
            def __repr__(self): return 'x' * 10**9
        def f(x): raise ValueError(S())
    """,
    "lowered limits": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "a null byte": "def f(x): return 4 \0",
    "a lone surrogate": "x = '\ud800'",
}


def _all():
    found = {name: textwrap.dedent(text) for name, text in SINGLE.items()}
    for base in BASES:
        source = LIES.format(base=base)
        made = "Lie" if base == "(type)" else "Lie()"
        found[f"an object that lies {base}"] = f"{source}\ndef f(x): return {made}\n"
    for name in SHADOWED:
        found[f"shadowed {name}"] = f"def {name}(*a, **k): return 4\ndef f(x): return None\n"
    return found


ATTACKS = _all()
