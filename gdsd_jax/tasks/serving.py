r"""Runs a judge in a process of its own; started by `judges.Judges`.

Reads lines of JSON, one request each, and writes a line of JSON for each. A request that takes more
than LIMIT_S seconds of processor time, or too much memory, or fails, gets FAILED. Where the judge
does not heed that, the kernel ends the process.

python serving.py FILE LIMIT_S MEMORY_BYTES FAILED
"""

import importlib.util
import json
import logging
import os
import resource
import signal
import sys
from types import ModuleType
from typing import Any

GRACE_S = 3  # of processor time beyond the limit, before the kernel ends the process
WARM_S = 60.0  # of processor time, to load what the judge needs


class TooLong(BaseException):
    """No Exception, since the library takes those for its own."""


class Alarm:
    """Raises TooLong in the main thread when the time is over, and again while that is caught."""

    def __init__(self, limit_s: float):
        self._limit_s = limit_s
        self._armed = False
        signal.signal(signal.SIGPROF, self._ring)

    def _ring(self, *_) -> None:
        if self._armed:
            raise TooLong

    def __enter__(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        kernel_s = int(used.ru_utime + used.ru_stime + self._limit_s) + GRACE_S
        resource.setrlimit(resource.RLIMIT_CPU, (kernel_s, resource.RLIM_INFINITY))
        self._armed = True
        signal.setitimer(signal.ITIMER_PROF, self._limit_s, 0.2)

    def __exit__(self, *_) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)


def load(file: str) -> ModuleType:
    """The judge as a module."""
    spec = importlib.util.spec_from_file_location("judge", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge"] = module
    spec.loader.exec_module(module)
    return module


def verdict(judge: ModuleType, request: Any, alarm: Alarm, failed: Any) -> Any:
    """What the judge returns, or `failed`."""
    try:
        with alarm:
            return judge.judge(request)
    except BaseException:  # TooLong, and whatever a library makes of an odd text, also SystemExit
        return failed


def main() -> None:
    file, limit_s, memory_bytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    failed = json.loads(sys.argv[4])
    # Only requests come from the real input, and only replies go to the real output.
    requests = os.fdopen(os.dup(0), "r")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 0)
    os.dup2(silent, 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    logging.disable()
    judge = load(file)
    with Alarm(WARM_S):
        judge.warm()
    alarm = Alarm(limit_s)
    replies.write("true\n")
    os.dup2(silent, 2)
    for line in requests:
        replies.write(json.dumps(verdict(judge, json.loads(line), alarm, failed)) + "\n")


if __name__ == "__main__":
    main()
