"""Compares answers by math-verify; a judge as `gdsd_jax/tasks/judges.py` wants it."""

import functools


@functools.lru_cache(4096)
def parsed(text: str) -> list:
    """What math-verify reads in an answer; empty where it reads nothing."""
    from math_verify import LatexExtractionConfig, parse

    how = [LatexExtractionConfig(boxed_match_priority=0)]
    return parse(f"\\boxed{{{text}}}", how, fallback_mode="no_fallback", parsing_timeout=None)


def judge(request: tuple[str, str]) -> bool:
    """Whether math-verify takes an answer for the gold one."""
    from math_verify import verify

    gold, answer = request
    found = parsed(answer)  # first, since most wrong ones cannot be read
    wanted = found and parsed(gold)
    return bool(wanted and verify(wanted, found, timeout_seconds=None))


def warm() -> None:
    """Loads all that is needed, also what sympy loads when it first simplifies: no answer's time
    has it. An ImportError ends the process."""
    judge((r"\frac{1}{2}", "x"))
    judge((r"\cos 2k + \sqrt{k}", r"\cos(k + k) + k^{0.5}"))
