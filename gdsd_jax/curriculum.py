"""What changes from round to round: how long completions may be, how sure a proposal must be
(OPDLM, arXiv 2606.06712)."""

from collections.abc import Callable
import dataclasses
import math

from gdsd_jax.mistakes import Gathered, check_choices

SHAPES: dict[str, Callable[[float], float]] = {  # 0..1 -> 0..1
    "linear": lambda share: share,
    "cos": lambda share: 1 - math.cos(math.pi * share / 2),  # slow at first
    "sin": lambda share: math.sin(math.pi * share / 2),
}


@dataclasses.dataclass(frozen=True)
class LengthRamp:
    """How long completions may be.

    Attributes:
      start: tokens that the ramp goes from; None = the sampler's gen_length throughout.
      rounds: rounds until gen_length is reached.
      shape: "linear", "cos" (slow at first) or "sin" (fast at first).
    """

    start: int | None = None
    rounds: int = 0
    shape: str = "cos"

    def __post_init__(self):
        wrong = Gathered()
        with wrong.check():
            check_choices(self, shape=SHAPES)
        with wrong.check():
            check_counts(rounds=self.rounds, start=self.start or 0)
        wrong.end()


@dataclasses.dataclass(frozen=True)
class ThresholdRamp:
    """How sure a proposal must be to be committed beside the schedule's.

    Attributes:
      end: the threshold in the end, a probability; None = the first one throughout.
      hold: rounds at the first threshold.
      rounds: rounds from the first threshold to the last.
      shape: "linear", "cos" (slow at first) or "sin" (fast at first).
    """

    end: float | None = None
    hold: int = 0
    rounds: int = 0
    shape: str = "cos"

    def __post_init__(self):
        wrong = Gathered()
        with wrong.check():
            check_choices(self, shape=SHAPES)
        with wrong.check():
            check_counts(hold=self.hold, rounds=self.rounds)
        if self.end is not None and not 0 < self.end <= 1:
            wrong.lines.append(f"end={self.end} must lie in (0, 1]")
        wrong.end()


def check_counts(**counts: int) -> None:
    """Mistakes naming the counts that are negative."""
    wrong = Gathered()
    for key, value in counts.items():
        if value < 0:
            wrong.lines.append(f"{key}={value} must not be negative")
    wrong.end()


def longest(number: int, gen_length: int, block: int, ramp: LengthRamp) -> int:
    """Tokens that a completion of round `number` (from 0) may have.

    A multiple of `block` tokens, at least one block.
    """
    if ramp.start is None:
        return gen_length
    share = SHAPES[ramp.shape](min((number + 1) / max(ramp.rounds, 1), 1.0))
    tokens = ramp.start + (gen_length - ramp.start) * share
    return max(block, min(gen_length, block * round(tokens / block)))


def threshold(number: int, start: float | None, ramp: ThresholdRamp) -> float:
    """The confidence threshold of round `number` (from 0), a probability; infinity = none."""
    if start is None:
        return math.inf
    if ramp.end is None or number + 1 <= ramp.hold:
        return start
    share = SHAPES[ramp.shape](min((number + 1 - ramp.hold) / max(ramp.rounds, 1), 1.0))
    return start + (ramp.end - start) * share
