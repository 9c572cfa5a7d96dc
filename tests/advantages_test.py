"""Advantages and softmax over groups, against plain loops."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax.advantages import (
    from_group_mean,
    group_count,
    group_softmax,
    leave_one_out,
    used_share,
)

REWARDS = [0.0, 1.0, 0.5, 2.0, -1.0, 3.0, 3.0, 3.0, 3.0, 0.25, 0.5, 4.0]


@pytest.mark.parametrize("group_size", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("scale", [False, True])
def test_each_reward_is_compared_with_the_others_of_its_prompt(group_size, scale):
    wanted = []
    for start in range(0, len(REWARDS), group_size):
        group = REWARDS[start : start + group_size]
        for i, reward in enumerate(group):
            others = group[:i] + group[i + 1 :]
            advantage = reward - statistics.mean(others)
            wanted.append(advantage / (statistics.stdev(group) + 1e-4) if scale else advantage)
    found = np.asarray(leave_one_out(jnp.array(REWARDS), group_size, scale))
    # float32 rounding; a group of equal rewards divided by 1e-4 must still be 0 to it
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, -2.7, 1e30])
@pytest.mark.parametrize("baseline", [leave_one_out, from_group_mean])
@pytest.mark.parametrize("scale", [False, True])
def test_equal_rewards_teach_nothing(reward, baseline, scale):
    """Exactly: what is next to nothing would be a target that moves are measured by."""
    for group_size in range(2, 17):
        judged = jnp.arange(3 * group_size) % 5 != 1
        rewards = jnp.where(judged, reward, 7.0)
        found = jax.jit(baseline, static_argnums=(1, 2))(rewards, group_size, scale, judged)
        assert not np.any(np.asarray(found))
        assert not np.any(np.asarray(baseline(jnp.full(group_size, reward), group_size, scale)))


def test_group_mean_and_factor():
    """A = G / (G - 1) (r - mean), and a group's advantages sum to zero."""
    rewards = np.array(REWARDS).reshape(3, 4)
    found = np.asarray(leave_one_out(jnp.array(REWARDS), 4)).reshape(3, 4)
    np.testing.assert_allclose(
        found, 4 / 3 * (rewards - rewards.mean(axis=1, keepdims=True)), atol=1e-6
    )
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_no_verdict(missing):
    """It enters no mean, and teaches nothing."""
    found = leave_one_out(jnp.array([missing, 1.0, 2.0]), 3)
    np.testing.assert_allclose(found, [0.0, -1.0, 1.0], atol=1e-6)
    found = from_group_mean(jnp.array([missing, 1.0, 2.0]), 3)
    np.testing.assert_allclose(found, [0.0, -0.5, 0.5], atol=1e-6)


def test_group_mean_baseline():
    rewards = np.array(REWARDS).reshape(3, 4)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        from_group_mean(jnp.array(REWARDS), 4).reshape(3, 4), centred, atol=1e-6
    )
    scaled = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(
        from_group_mean(jnp.array(REWARDS), 4, scale=True).reshape(3, 4), scaled, atol=1e-5
    )


JUDGED = {
    "all": [True] * 12,
    "some": [True, False, True, True, False, True, True, True, False, True, True, False],
    "one of a prompt": [False, False, False, True] + [True] * 8,
    "none of a prompt": [True] * 4 + [False] * 4 + [True] * 4,
    "none": [False] * 12,
}


def rendered(rewards, judged, group_size, baseline, scale):
    """The judged completions of each prompt among themselves, in float64; the others have 0."""
    wanted = np.zeros(len(rewards))
    for start in range(0, len(rewards), group_size):
        rows = [i for i in range(start, start + group_size) if judged[i]]
        kept = np.array([rewards[i] for i in rows], np.float64)
        for place, row in enumerate(rows):
            rest = kept if baseline is from_group_mean else np.delete(kept, place)
            if baseline is leave_one_out and not len(rest):
                continue  # nothing to compare with
            spread = kept.std(ddof=1) if len(kept) > 1 else 0.0
            advantage = rewards[row] - rest.mean()
            wanted[row] = advantage / (spread + 1e-4) if scale else advantage
    return wanted


@pytest.mark.parametrize("judged", JUDGED.values(), ids=JUDGED)
@pytest.mark.parametrize("baseline", [leave_one_out, from_group_mean])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("group_size", [2, 4, 6])
def test_rows_without_a_verdict_enter_no_mean(judged, baseline, scale, group_size):
    """Their advantage is 0, whatever their reward says; the others are as if they were not there.

    A prompt with one verdict has nothing to compare it with: 0 too.
    """
    found = np.asarray(baseline(jnp.array(REWARDS), group_size, scale, jnp.array(judged)))
    wanted = rendered(REWARDS, judged, group_size, baseline, scale)
    # as above
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)
    other = [reward if ok else 1e6 for reward, ok in zip(REWARDS, judged)]
    again = baseline(jnp.array(other), group_size, scale, jnp.array(judged))
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("baseline", [leave_one_out, from_group_mean])
def test_all_judged_is_no_different_from_unsaid(baseline):
    rewards, judged = jnp.array(REWARDS), jnp.ones(len(REWARDS), bool)
    for scale in (False, True):
        np.testing.assert_allclose(
            baseline(rewards, 4, scale, judged), baseline(rewards, 4, scale), rtol=1e-6, atol=1e-6
        )


def test_rows_without_a_verdict_have_no_weight():
    """In a group of such rows alone no row has any; the used share is of the others."""
    rewards = jnp.array([2.0, -jnp.inf, 1.0, -jnp.inf, -jnp.inf])
    group = jnp.array([0, 0, 0, 1, 1])
    x = jnp.array([0.5, jnp.inf, 1.5, 1.0, jnp.nan])
    found = np.asarray(group_softmax(x, group, rewards))
    wanted = np.exp([0.5, 1.5]) / np.exp([0.5, 1.5]).sum()
    np.testing.assert_allclose(found, [wanted[0], 0, wanted[1], 0, 0], rtol=1e-6)
    assert used_share(jnp.asarray(found)) == pytest.approx(1 / (5 * np.sum(wanted**2)))
    assert used_share(jnp.zeros(3)) == 0


def test_equal_weights_use_every_row():
    """Of however many groups; a row that has all the weight of its group leaves the others out."""
    for groups in (1, 2, 4):
        group = jnp.arange(16) // (16 // groups)
        assert used_share(group_softmax(jnp.zeros(16), group)) == pytest.approx(1.0)
        best = jnp.where(jnp.arange(16) % (16 // groups) == 0, 50.0, 0.0)
        assert used_share(group_softmax(best, group)) == pytest.approx(groups / 16)


def test_softmax_over_groups():
    """Groups may have any numbers, sizes and order; far apart values do not overflow; no groups are
    one."""
    x, group = np.array([0.5, 500.0, -1.0, 2.0, 499.0, 3.0]), np.array([7, 2, 7, 7, 2, 9])
    found = np.asarray(group_softmax(jnp.asarray(x, jnp.float32), jnp.asarray(group)))
    for number in (2, 7, 9):
        rows = group == number
        wanted = np.exp(x[rows] - x[rows].max()) / np.exp(x[rows] - x[rows].max()).sum()
        np.testing.assert_allclose(found[rows], wanted, rtol=1e-6)
    assert group_count(jnp.asarray(group)) == pytest.approx(3.0) and group_count(None) == 1.0
    np.testing.assert_allclose(
        np.sum(group_softmax(jnp.asarray(x, jnp.float32), None)), 1.0, rtol=1e-6
    )
