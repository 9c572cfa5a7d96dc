"""How sure a mean over problems is: bootstrap intervals; and pass@k without bias.

N problems, C clusters of them, R resamples, S seeds.
"""

from collections.abc import Callable, Iterator
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of the intervals
RESAMPLES = 10_000
SEED = 0  # of the resamples
# problems that differ; of fewer, all one way is no rarer than one in twenty by a sign test
FEWEST = 6
ROWS = 1000  # resamples that are held at once


class Ratio(NamedTuple):
    """A mean over problems as the quotient of two sums: right cells over empty ones, say.

    For a plain mean `bottom_N` counts the answers of each problem. Problems of the same number in
    `cluster_N` are drawn together; None = each by itself.
    """

    top_N: np.ndarray
    bottom_N: np.ndarray
    cluster_N: np.ndarray | None = None

    @property
    def value(self) -> float | None:
        """The quotient; None where there is nothing to divide by."""
        bottom = self.bottom_N.sum()
        return float(self.top_N.sum() / bottom) if bottom else None

    @property
    def joined(self) -> "Ratio":
        """The same quotient with the sums of clusters, [..., C], in place of those of problems."""
        if self.cluster_N is None:
            return self
        known, place_N = np.unique(self.cluster_N, return_inverse=True)
        belongs_NxC = place_N[:, None] == np.arange(len(known))
        return Ratio(self.top_N @ belongs_NxC, self.bottom_N @ belongs_NxC)

    @property
    def independent(self) -> int:
        """How many clusters tell anything."""
        bottom_C = self.joined.bottom_N
        return int(np.count_nonzero(bottom_C.any(axis=tuple(range(bottom_C.ndim - 1)))))


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
    """[low, high]: the percentile bootstrap over problems, or over their clusters; None where there
    is nothing to average.

    The same numbers in every process: the resamples follow from SEED alone.
    """
    with np.errstate(invalid="ignore"):
        return _percentiles(resampled(ratio.joined)) if ratio.bottom_N.any() else None


def paired_interval(before: Ratio, after: Ratio) -> list[float] | None:
    """[low, high] of `after` minus `before`, over the same N problems in the same order.

    A resample draws problems, or clusters, and with each of them both of its values.
    """
    return _difference(before, after, resampled)


def crossed_interval(before: Ratio, after: Ratio) -> list[float] | None:
    """[low, high] of `after` minus `before`, whose sums are [S, N]: seeds by problems.

    A resample draws seeds and, for all of them, problems or clusters; with each both of its values.
    Draws of S seeds vary by (S - 1) / S of what other S seeds would. So a seed's weight, how often
    it is drawn, is stretched around 1, by the root of the inverse. How much seeds vary is known
    from these S alone: so the interval is never narrower than Student's of the seeds' own
    differences. With one seed it says nothing of others.
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
    for values_SxN in (ratio.top_N, ratio.bottom_N):
        drawn_SxR = np.concatenate(
            [values_SxN[:, index_RxN].sum(axis=2) for index_RxN in _draws(problems)], axis=1
        )
        sums.append(np.sum(weight_RxS * drawn_SxR.T, axis=1))
    return np.divide(*sums)


def alike(before: Ratio, after: Ratio) -> tuple[Ratio, Ratio]:
    """Both with the clusters that one of them knows."""
    cluster_N = before.cluster_N if after.cluster_N is None else after.cluster_N
    return before._replace(cluster_N=cluster_N), after._replace(cluster_N=cluster_N)


def _difference(
    before: Ratio, after: Ratio, resample: Callable[[Ratio], np.ndarray]
) -> list[float] | None:
    """The middle of `after` minus `before`, of the same clusters, over their resamples, which are
    drawn together."""
    if not (before.bottom_N.any() and after.bottom_N.any()):
        return None
    with np.errstate(invalid="ignore"):
        return _percentiles(resample(after.joined) - resample(before.joined))


def changed(before: Ratio, after: Ratio) -> int:
    """How many problems, or clusters, of the same in both, have another value after, with any
    seed."""
    old, new = before.joined, after.joined
    differs = old.top_N * new.bottom_N != new.top_N * old.bottom_N
    return int(np.count_nonzero(differs.any(axis=tuple(range(differs.ndim - 1)))))


def is_shown(low: float, high: float, differing: int) -> bool:
    """Whether a difference is more than chance, by its interval's ends and by how many problems,
    or clusters, differ: what a few do, a resample that misses them all does not see."""
    return differing >= FEWEST and not low <= 0 <= high


def verdict(difference: float, low: float, high: float, differing: int) -> str:
    """A difference in words."""
    if not is_shown(low, high, differing):
        return "no difference shown"
    return "higher" if difference > 0 else "lower"


def _percentiles(values_R: np.ndarray) -> list[float]:
    """The middle LEVEL of the values; resamples without any value count for nothing."""
    tail = (1 - LEVEL) / 2
    return np.nanquantile(values_R, [tail, 1 - tail]).tolist()


def stated(has_clusters: bool = False) -> dict[str, float]:
    """What the intervals are, for a file that holds some."""
    method = f"percentile bootstrap over {'clusters of ' if has_clusters else ''}problems"
    return {"method": method, "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
