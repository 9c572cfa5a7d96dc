"""pass@k against counting, intervals against the same resamples drawn and averaged by a loop."""

import itertools

import numpy as np
import pytest

from gdsd_jax.evaluation import intervals
from gdsd_jax.evaluation.intervals import Ratio


@pytest.mark.parametrize("answers", [1, 2, 5, 6])
def test_pass_at_k_counts_the_choices_with_a_right_answer(answers):
    for solved in range(answers + 1):
        right = [number < solved for number in range(answers)]
        for k in range(1, answers + 1):
            choices = list(itertools.combinations(right, k))
            counted = sum(map(any, choices)) / len(choices)
            assert intervals.pass_at_k(answers, solved, k) == pytest.approx(counted, abs=1e-12)


def test_powers():
    assert intervals.powers_to(8) == [1, 2, 4, 8] and intervals.powers_to(7) == [1, 2, 4]
    assert intervals.powers_to(1) == [1] and intervals.powers_to(0) == []


def percentiles_by_hand(pairs):
    """The 2.5 and 97.5 percentiles of the quotient, one resample and one problem at a time."""
    rng, found = np.random.default_rng(intervals.SEED), []
    for _ in range(intervals.RESAMPLES):
        chosen = [pairs[index] for index in rng.integers(0, len(pairs), len(pairs))]
        bottom = sum(pair[1] for pair in chosen)
        if bottom:
            found.append(sum(pair[0] for pair in chosen) / bottom)
    return np.percentile(found, [2.5, 97.5])


@pytest.mark.parametrize("rows", [1, 50])
def test_intervals_are_those_of_a_loop(rows, monkeypatch):
    """Right cells over empty ones; a problem without a verdict has 0 of 0. How many resamples are
    held at once changes nothing."""
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    monkeypatch.setattr(intervals, "ROWS", rows)
    pairs = [(3, 8), (0, 6), (5, 5), (0, 0), (7, 10)]
    ratio = Ratio(*np.array(pairs).T)
    assert ratio.value == pytest.approx(15 / 29)
    found = intervals.interval(ratio)
    np.testing.assert_allclose(found, percentiles_by_hand(pairs), rtol=1e-12)
    assert found[0] < ratio.value < found[1] and intervals.interval(ratio) == found


def test_nothing_to_average_has_no_interval():
    nothing = Ratio(np.zeros(3), np.zeros(3))
    assert nothing.value is None and intervals.interval(nothing) is None
    assert intervals.paired_interval(nothing, Ratio(np.ones(3), np.ones(3))) is None


def test_the_interval_of_a_mean_is_near_the_normal_one():
    rng = np.random.default_rng(7)
    solved_N = rng.random(400) < 0.3
    low, high = intervals.interval(Ratio(solved_N.astype(float), np.ones(400)))
    half = 1.96 * solved_N.std() / 20
    assert [low, high] == pytest.approx([solved_N.mean() - half, solved_N.mean() + half], abs=0.006)


def test_seeds_and_problems_are_drawn_together():
    """As a loop over resamples says, with each seed's weight stretched around 1; of one seed over
    its problems alone."""
    rng = np.random.default_rng(3)
    seeds, problems = 3, 40
    bottom_SxN = rng.integers(1, 4, (seeds, problems)).astype(float)
    before = Ratio(rng.integers(0, 2, (seeds, problems)) * bottom_SxN, bottom_SxN)
    gain_Sx1 = np.array([[0.18], [0.2], [0.22]])
    gain_SxN = gain_Sx1 + 0.6 * rng.standard_normal(problems)
    after = Ratio(before.top_N + gain_SxN * bottom_SxN, bottom_SxN)
    values = []
    for _ in range(4000):
        rows, columns = rng.integers(0, seeds, seeds), rng.integers(0, problems, problems)
        weights = [1 + (1.5**0.5) * (list(rows).count(s) - 1) for s in range(seeds)]
        pairs = [(weights[s], s, n) for s in range(seeds) for n in columns]
        top = sum(weight * (after.top_N - before.top_N)[s, n] for weight, s, n in pairs)
        values.append(top / sum(weight * bottom_SxN[s, n] for weight, s, n in pairs))
    found = intervals.crossed_interval(before, after)
    assert found == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    assert found[1] - found[0] > 0.2
    # no problem of a seed differs
    gain_Sx1 = np.array([[0.0], [0.2], [0.4]])
    after = Ratio(before.top_N + gain_Sx1 * bottom_SxN, bottom_SxN)
    student = 0.2 + np.array([-1, 1]) * 4.302653 * 0.2 / 3**0.5  # of two degrees of freedom
    assert intervals.crossed_interval(before, after) == pytest.approx(student, abs=1e-6)
    for seed, gain in enumerate(gain_Sx1[:, 0]):
        pair = [Ratio(*(sums[[seed]] for sums in one[:2])) for one in (before, after)]
        assert intervals.crossed_interval(*pair) == pytest.approx([gain, gain])
    nothing = Ratio(np.zeros((2, 3)), np.zeros((2, 3)))
    assert intervals.crossed_interval(nothing, nothing) is None


def test_pairs_are_drawn_together():
    """Two numbers that differ by 0.1 at each problem differ by 0.1 in each resample."""
    values_N, ones_N = np.linspace(0, 0.9, 30), np.ones(30)
    found = intervals.paired_interval(Ratio(values_N, ones_N), Ratio(values_N + 0.1, ones_N))
    assert found == pytest.approx([0.1, 0.1])
    alone = intervals.interval(Ratio(values_N, ones_N))
    assert alone[1] - alone[0] > 0.1


def test_problems_of_a_cluster_are_drawn_together():
    """As one problem that tells their sums would be; drawn by themselves, copies of problems seem
    surer than they are."""
    rng = np.random.default_rng(6)
    top_SxC, bottom_SxC = rng.random((3, 2, 30)), np.ones((2, 30))
    names = np.repeat(np.arange(30), 4)[rng.permutation(120)]
    before, after, other = (
        Ratio(top_SxN, bottom_SxC[:, names], names) for top_SxN in top_SxC[..., names]
    )
    once = [Ratio(4 * sums_SxC, 4 * bottom_SxC) for sums_SxC in top_SxC]
    assert before.value == pytest.approx(once[0].value) and before.independent == 30
    found = intervals.crossed_interval(before, after)
    assert found == pytest.approx(intervals.crossed_interval(*once[:2]))
    first, second = (Ratio(one.top_N[0], one.bottom_N[0], names) for one in (before, other))
    found = intervals.paired_interval(first, second)
    single = [Ratio(one.top_N[0], one.bottom_N[0]) for one in (once[0], once[2])]
    assert found == pytest.approx(intervals.paired_interval(*single))
    low, high = intervals.interval(first)
    assert [low, high] == pytest.approx(intervals.interval(single[0]))
    alone = intervals.interval(first._replace(cluster_N=None))
    assert (alone[1] - alone[0]) / (high - low) == pytest.approx(0.5, abs=0.05)
    told = first._replace(bottom_N=np.where(names < 4, first.bottom_N, 0))
    assert told.independent == 4 and told._replace(cluster_N=None).independent == 16


@pytest.mark.parametrize("seeds, spread", [(3, 0.0), (2, 0.06), (3, 0.06), (8, 0.06)])
def test_intervals_of_few_seeds_hold_the_truth_as_often_as_they_say(seeds, spread, monkeypatch):
    """Seeds that are only drawn again would hold it in 75 of 100 trials of two that differ."""
    monkeypatch.setattr(intervals, "RESAMPLES", 2000)
    rng, held, trials = np.random.default_rng(5), 0, 200
    ones_SxN = np.ones((seeds, 60))
    for _ in range(trials):
        truth_Sx1 = 0.1 + spread * rng.standard_normal((seeds, 1))
        start_SxN = 0.3 * rng.standard_normal((seeds, 60))
        end_SxN = start_SxN + truth_Sx1 + 0.2 * rng.standard_normal((seeds, 60))
        low, high = intervals.crossed_interval(Ratio(start_SxN, ones_SxN), Ratio(end_SxN, ones_SxN))
        held += low <= 0.1 <= high
    assert held / trials > 0.91  # at 0.95 one of a hundred such tests would fall below
