"""Ctrl-C, from the first import on: one line and exit code 130, and never lost."""

import os
import signal
import sys
import threading

LATER_S = 0.05  # after which an interrupt that was dropped comes again


def watch() -> None:
    """From now on Ctrl-C ends this process at once by a line, until `raises` is called; a process
    that ignores it goes on doing so.

    For while modules are imported nothing is there to end, and an exception in the midst of a
    compiled one may crash the interpreter.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(*_) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(130)


def raises() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, as there is work that has to end.

    Where Python calls back into code whose exceptions it only prints, such as a collector's or a
    destructor, the interrupt would be lost with them: it comes again behind that.
    """
    if signal.getsignal(signal.SIGINT) is not end:
        return
    ignored = sys.unraisablehook

    def again(fault) -> None:
        if not issubclass(fault.exc_type, KeyboardInterrupt):
            ignored(fault)
            return
        # a signal, which also ends what the main thread waits for; not in this hook
        main = threading.main_thread().ident
        later = threading.Timer(LATER_S, signal.pthread_kill, (main, signal.SIGINT))
        later.daemon = True
        later.start()

    sys.unraisablehook = again
    signal.signal(signal.SIGINT, signal.default_int_handler)
