"""How sure a mean over problems is: bootstrap intervals; and pass@k without bias.

N problems, R resamples, S seeds.
"""

from collections.abc import Callable, Iterator
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of the intervals
RESAMPLES = 10_000
SEED = 0  # of the resamples
# problems; of fewer, all differing one way is no rarer than one in twenty by a sign test
FEWEST = 6
ROWS = 1000  # resamples that are held at once


class Ratio(NamedTuple):
    """A mean over problems as the quotient of two sums: right cells over empty ones, say.

    For a plain mean `bottom_N` counts the answers of each problem.
    """

    top_N: np.ndarray
    bottom_N: np.ndarray

    @property
    def value(self) -> float | None:
        """The quotient; None where there is nothing to divide by."""
        bottom = self.bottom_N.sum()
        return float(self.top_N.sum() / bottom) if bottom else None


def pass_at_k(answers: int, solved: int, k: int) -> float:
    """Chance that one of k answers is right, of which `solved` of all `answers` are.

    1 - C(answers - solved, k) / C(answers, k), the unbiased estimate of Chen et al. 2021
    (arXiv 2107.03374).
    """
    return 1 - math.comb(answers - solved, k) / math.comb(answers, k)


def powers_to(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def resampled(ratio: Ratio) -> np.ndarray:
    """The quotient over R draws of N problems with repeats, float64 [R]; NaN where it is none.

    The draws follow from SEED and N alone, so that those of two ratios belong together.
    """
    found = [
        np.divide(
            ratio.top_N[index_RxN].sum(axis=1, dtype=np.float64),
            ratio.bottom_N[index_RxN].sum(axis=1, dtype=np.float64),
        )
        for index_RxN in _draws(len(ratio.top_N))
    ]
    return np.concatenate(found)


def _draws(problems: int) -> Iterator[np.ndarray]:
    """The indices of all resamples, some rows [ROWS, N] at a time."""
    rng = np.random.default_rng(SEED)
    for _ in range(RESAMPLES // ROWS):
        yield rng.integers(0, problems, (ROWS, problems))


def interval(ratio: Ratio) -> list[float] | None:
    """[low, high]: the percentile bootstrap over problems; None where there is nothing to average.

    The same numbers in every process: the resamples follow from SEED alone.
    """
    with np.errstate(invalid="ignore"):
        return _percentiles(resampled(ratio)) if ratio.bottom_N.any() else None


def paired_interval(before: Ratio, after: Ratio) -> list[float] | None:
    """[low, high] of `after` minus `before`, over the same N problems in the same order.

    A resample draws problems, and with each of them both of its values.
    """
    return _difference(before, after, resampled)


def crossed_interval(before: Ratio, after: Ratio) -> list[float] | None:
    """[low, high] of `after` minus `before`, whose sums are [S, N]: seeds by problems.

    A resample draws seeds and, for all of them, problems; with each both of its values. Draws of S
    seeds vary by (S - 1) / S of what other S seeds would. So a seed's weight, how often it is
    drawn, is stretched around 1, by the root of the inverse. How much seeds vary is known from
    these S alone: so the interval is never narrower than Student's of the seeds' own differences.
    With one seed it says nothing of others.
    """
    found = _difference(before, after, _crossed)
    seeds = len(before.top_N)
    if found is None or seeds == 1:
        return found
    values_2xS = [one.top_N.sum(axis=1) / one.bottom_N.sum(axis=1) for one in (before, after)]
    own_S = values_2xS[1] - values_2xS[0]
    reach = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * own_S.std(ddof=1) / math.sqrt(seeds)
    low, high = found
    return [float(min(low, own_S.mean() - reach)), float(max(high, own_S.mean() + reach))]


def _crossed(ratio: Ratio) -> np.ndarray:
    """The quotient over R draws of seeds and of problems, float64 [R]."""
    seeds, problems = ratio.top_N.shape
    drawn_RxS = np.random.default_rng([SEED, seeds]).integers(0, seeds, (RESAMPLES, seeds))
    times_RxS = np.sum(drawn_RxS[:, :, None] == np.arange(seeds), axis=1)
    stretch = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    weight_RxS = 1 + stretch * (times_RxS - 1)
    sums = []
    for values_SxN in ratio:
        drawn_SxR = np.concatenate(
            [values_SxN[:, index_RxN].sum(axis=2) for index_RxN in _draws(problems)], axis=1
        )
        sums.append(np.sum(weight_RxS * drawn_SxR.T, axis=1))
    return np.divide(*sums)


def _difference(
    before: Ratio, after: Ratio, resample: Callable[[Ratio], np.ndarray]
) -> list[float] | None:
    """The middle of `after` minus `before` over their resamples, which are drawn together."""
    if not (before.bottom_N.any() and after.bottom_N.any()):
        return None
    with np.errstate(invalid="ignore"):
        return _percentiles(resample(after) - resample(before))


def is_shown(low: float, high: float, problems: int) -> bool:
    """Whether a difference over so many problems is more than chance, by its interval's ends."""
    return problems >= FEWEST and not low <= 0 <= high


def verdict(difference: float, low: float, high: float, problems: int) -> str:
    """A difference in words."""
    if not is_shown(low, high, problems):
        return "no difference shown"
    return "higher" if difference > 0 else "lower"


def _percentiles(values_R: np.ndarray) -> list[float]:
    """The middle LEVEL of the values; resamples without any value count for nothing."""
    tail = (1 - LEVEL) / 2
    return np.nanquantile(values_R, [tail, 1 - tail]).tolist()


def stated() -> dict[str, float]:
    """What the intervals are, for a file that holds some."""
    method = "percentile bootstrap over problems"
    return {"method": method, "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
