"""Ctrl-C, from the first import on: one line and exit code 130, and never lost."""

import os
import signal
import sys
import threading

LATER_S = 0.05  # after which an interrupt that was dropped comes again


def watch() -> None:
    """From now on Ctrl-C ends this process by a line, wherever it comes.

    While modules are imported nothing is there to end: one line is said. Where Python calls back
    into code whose exceptions it only prints, such as a collector's or a destructor, the interrupt
    would be lost with them: it comes again behind that.
    """
    uncaught, ignored = sys.excepthook, sys.unraisablehook

    def end(kind, error, trace) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            uncaught(kind, error, trace)
            return
        sys.stderr.write("error: interrupted\n")
        sys.stderr.flush()
        os._exit(130)

    def again(fault) -> None:
        if not issubclass(fault.exc_type, KeyboardInterrupt):
            ignored(fault)
            return
        # a signal, which also ends what the main thread waits for; not in this hook
        main = threading.main_thread().ident
        later = threading.Timer(LATER_S, signal.pthread_kill, (main, signal.SIGINT))
        later.daemon = True
        later.start()

    sys.excepthook, sys.unraisablehook = end, again
