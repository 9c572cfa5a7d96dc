"""Runs a program on an input inside the sandbox, where what it prints is asked for.

Standard library only: the text of this file is put before a program of the form "stdin", whose own
text is `PROGRAM`. Each run is a process of its own with real descriptors, so that a program may
read its input by any means, end itself, or leave things behind. What should be printed is not known
here.
"""

import atexit
import os
import sys
import tempfile
import threading
import types

PROGRAM = ""  # set below, in the sandbox
MOST_BYTES = 8 << 20  # of what a program prints


def printed(given):
    """What the program prints, given this input, as `evenly` spaced; None where it fails."""
    output = output_of(PROGRAM, given)
    return None if output is None else evenly(output)


def evenly(text):
    """The words of each line with one space between, without blank lines at the end."""
    return "\n".join([" ".join(line.split()) for line in text.rstrip().split("\n")])


def output_of(program, given):
    """What a program prints, None where it fails or prints too much."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(given.encode("utf-8", "surrogatepass"))
        source.seek(0)
        process = os.fork()
        if process == 0:
            be_program(program, source.fileno(), target.fileno())
        _, status = os.waitpid(process, 0)
        if status != 0 or os.fstat(target.fileno()).st_size > MOST_BYTES:
            return None
        target.seek(0)
        return target.read().decode("utf-8", "replace")


def be_program(program, source, target):
    """The child's whole life; never returns."""
    leave, status = os._exit, 1
    try:
        os.dup2(source, 0)
        os.dup2(target, 1)
        os.closerange(3, 1024)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
        own = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = sys.__stdout__ = own
        status = ended(program)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()  # where fast writers of competitions print
        for stream in (sys.stdout, own):  # the program may have kept its own, or closed one
            if not getattr(stream, "closed", False):
                stream.flush()
    except BaseException:
        status = 1
    finally:
        leave(status)


def ended(program):
    """Exit status of the program run as the main module."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(program, "program.py", "exec"), module.__dict__)
    except SystemExit as end:
        return 0 if end.code in (None, 0) else 1
    return 0
