"""Runs a program on an input inside the sandbox: what it prints is compared, line by line.

Standard library only: the text of this file is put before a program of the form "stdin", whose own
text is `PROGRAM`. Each run is a process of its own with real descriptors, so that a program may
read its input by any means, end itself, or leave things behind.
"""

import atexit
import os
import sys
import threading
import types

PROGRAM = ""  # set below, in the sandbox
FILE = ".harness"
MOST_BYTES = 8 << 20  # of what a program prints


def prints(given, expected):
    """Whether the program, given this input, prints the expected lines; spaces do not matter."""
    output = output_of(PROGRAM, given)
    return output is not None and words_of(output) == words_of(expected)


def words_of(text):
    """The words of each line, without blank lines at the end."""
    return [line.split() for line in text.rstrip().split("\n")]


def output_of(program, given):
    """What a program prints, None where it fails or prints too much."""
    source, target = nameless_file(), nameless_file()
    try:
        with open(source, "wb", closefd=False) as file:
            file.write(given.encode("utf-8", "surrogatepass"))
        os.lseek(source, 0, os.SEEK_SET)
        process = os.fork()
        if process == 0:
            be_program(program, source, target)
        _, status = os.waitpid(process, 0)
        if status != 0 or os.fstat(target).st_size > MOST_BYTES:
            return None
        with open(target, "rb", closefd=False) as file:
            file.seek(0)
            return file.read().decode("utf-8", "replace")
    finally:
        os.close(source)
        os.close(target)


def nameless_file():
    """Descriptor of an empty file in the current folder, which is private, without a name."""
    descriptor = os.open(FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.unlink(FILE)
    return descriptor


def be_program(program, source, target):
    """The child's whole life; never returns."""
    leave, status = os._exit, 1
    try:
        os.dup2(source, 0)
        os.dup2(target, 1)
        os.closerange(3, 1024)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
        status = ended(program)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()  # where fast writers of competitions print
        sys.stdout.flush()
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
