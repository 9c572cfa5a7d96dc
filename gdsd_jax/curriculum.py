"""What changes from round to round: how long completions may be, how sure a proposal must be
(specs/opdlm.md section 6)."""

from collections.abc import Callable
import math

SHAPES: dict[str, Callable[[float], float]] = {  # 0..1 -> 0..1
    "linear": lambda share: share,
    "cos": lambda share: 1 - math.cos(math.pi * share / 2),  # slow at first
    "sin": lambda share: math.sin(math.pi * share / 2),
}


def of_round(config, number: int) -> tuple[float, int]:
    """(threshold, longest completion in tokens) of round `number`, from 0."""
    gen_length, block = config.sampler.gen_length, config.sampler.block_length or 1
    return threshold(number, config.threshold, **config.threshold_ramp), longest(
        number, gen_length, block=block, **config.length_ramp
    )


def longest(
    number: int, gen_length: int, *, start: int | None, rounds: int, shape: str, block: int
) -> int:
    """Tokens that a completion of round `number` (from 0) may have: from `start` to `gen_length`
    over so many rounds.

    A multiple of the block, at least one; `start` None = `gen_length` throughout.
    """
    if start is None:
        return gen_length
    share = SHAPES[shape](min((number + 1) / max(rounds, 1), 1.0))
    return max(
        block, min(gen_length, block * round((start + (gen_length - start) * share) / block))
    )


def threshold(
    number: int, start: float | None, *, end: float | None, hold: int, rounds: int, shape: str
) -> float:
    """The confidence threshold of round `number` (from 0), a probability: `start` for `hold`
    rounds, then on to `end`.

    `start` None = no threshold, infinity; `end` None = `start` throughout.
    """
    if start is None:
        return math.inf
    if end is None or number + 1 <= hold:
        return start
    return start + (end - start) * SHAPES[shape](min((number + 1 - hold) / max(rounds, 1), 1.0))
