r"""Compares answers by math-verify in a process of its own; run by `checker.Checker`.

Reads lines of JSON [gold, answer] and writes lines of JSON true or false. A comparison that takes
more than LIMIT_S seconds of processor time, or too much memory, is false. Where the library does
not heed that, the kernel ends the process.

python worker.py LIMIT_S MEMORY_BYTES
"""

import functools
import json
import logging
import os
import resource
import signal
import sys

GRACE_S = 3  # of processor time beyond the limit, before the kernel ends the process


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


@functools.lru_cache(4096)
def parsed(text: str) -> list:
    """What math-verify reads in an answer; empty where it reads nothing."""
    from math_verify import LatexExtractionConfig, parse

    how = [LatexExtractionConfig(boxed_match_priority=0)]
    return parse(f"\\boxed{{{text}}}", how, fallback_mode="no_fallback", parsing_timeout=None)


def equal(gold: str, answer: str, alarm: Alarm) -> bool:
    """Whether math-verify takes an answer for the gold one."""
    from math_verify import verify

    try:
        with alarm:
            found = parsed(gold), parsed(answer)
            return bool(all(found) and verify(*found, timeout_seconds=None))
    except (TooLong, Exception):  # whatever the library makes of an odd text
        return False


def warm() -> None:
    """Loads all that is needed; an ImportError ends the process."""
    import math_verify  # noqa: F401

    equal(r"\frac{1}{2}", "x", Alarm(60.0))


def main() -> None:
    limit_s, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    # Only replies go to the real output.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    logging.disable()
    warm()
    alarm = Alarm(limit_s)
    replies.write("true\n")
    os.dup2(silent, 2)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        replies.write(json.dumps(equal(gold, answer, alarm)) + "\n")


if __name__ == "__main__":
    main()
