"""Quotas and the laws of chance: how many are committed, by which noise, how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import sampling
from gdsd_jax.sampling import schedule
from gdsd_jax.types import Prompts
from tests.reference import MASK, constant_denoiser, log_softmax


def chi_square(seen, probability):
    expected = np.sum(seen) * np.asarray(probability)
    return np.sum((seen - expected) ** 2 / expected)


def rollout_of(logits, rows, rng=0, prompt_settings=None, **settings):
    """`rows` rollouts of a denoiser that says the same everywhere."""
    config = sampling.SamplerConfig(**settings)
    prompts = Prompts(jnp.full((rows, 1), 2), jnp.ones((rows, 1), bool), **(prompt_settings or {}))
    rollout_fn = sampling.make_rollout_fn(constant_denoiser(np.asarray(logits)), config)
    return jax.tree.map(
        np.asarray, rollout_fn({}, prompts, jax.random.split(jax.random.key(rng), rows))
    )


def hot(rows, temperature=1.0):
    return {"temperature_B": jnp.full((rows,), temperature, jnp.float32)}


def test_even_quotas():
    quota = np.asarray(schedule.even(jnp.array([8, 0, 32, 3]), 3))
    np.testing.assert_array_equal(quota, [[3, 3, 2], [0, 0, 0], [11, 11, 10], [1, 1, 1]])


@pytest.mark.parametrize(
    "count, steps, wanted", [(8, 3, (3, 2, 3)), (8, 16, (1,) * 8), (4, 2, (2, 2)), (7, 1, (7,))]
)
def test_half_even_quotas(count, steps, wanted):
    assert schedule.half_even(count, steps) == wanted
    assert sum(wanted) == count


@pytest.mark.parametrize("count, steps", [(16, 16), (16, 5), (32, 16), (5, 40)])
def test_dreams_quotas_flush(count, steps):
    """Applied one after another they commit everything, the rest at the last step; 16 in 16 begin
    0, 1, 1."""
    left, taken = count, []
    for step in range(steps):
        taken.append(int(schedule.dream(jnp.array([left]), steps)[0, step]))
        left -= taken[-1]
    assert left == 0 and min(taken) >= 0
    if (count, steps) == (16, 16):
        assert taken == [0] + [1] * 14 + [2]


def test_the_next_quota_is_the_next_that_commits():
    quota = jnp.array([[0, 0, 2, 0, 1], [1, 1, 1, 1, 1]])
    step, count = schedule.next_quota(quota, jnp.array([0, 3]))
    assert (step.tolist(), count.tolist()) == ([2, 3], [2, 1])
    step, count = schedule.at_step(quota, jnp.array([0, 3]))
    assert (step.tolist(), count.tolist()) == ([0, 3], [0, 1])


SEVEN = [0.3, 2.5, 1.0, -0.5, 0.0, 1.7, -2.0]
MANY = [*SEVEN[:3], *np.linspace(-2.0, 1.0, 61)]  # eight groups of eight


@pytest.mark.parametrize("kind", ["llada", "dream"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
# 5 and 62 degrees of freedom: 99.9%
@pytest.mark.parametrize("logits, bound", [(SEVEN, 20.5), (MANY, 102.2)])
def test_tokens_follow_the_tempered_softmax(kind, temperature, logits, bound):
    """Committed in one pass, tokens are independent draws from softmax(z / T)."""
    logits = np.array(logits)  # the mask id is the likeliest and must never come
    rollout = rollout_of(
        logits, 500, 0, hot(500, temperature), kind=kind, gen_length=16, block_length=16, steps=1
    )
    kept = np.arange(len(logits)) != MASK
    seen = np.bincount(rollout.tokens_BxG.flatten(), minlength=len(logits))
    probability = np.exp(np.where(kept, logits / temperature, -np.inf))
    assert seen[MASK] == 0
    assert chi_square(seen[kept], probability[kept] / probability.sum()) < bound
    # recorded log-probabilities are of the plain softmax: temperature 1, mask id included
    np.testing.assert_allclose(rollout.logp_BxG, log_softmax(logits)[rollout.tokens_BxG], atol=1e-5)


def test_top_p_keeps_the_smallest_set():
    """Of .5, .3, .15, .05 of the tokens besides the mask 0.7 keeps two, 0.81 three."""
    logits = np.log(np.array([0.3, 1.0, 0.5, 0.05, 0.15]))
    for top_p, kept in ((0.7, (2, 0)), (0.81, (2, 0, 4)), (0.01, (2,))):
        rollout = rollout_of(logits, 200, 1, hot(200), gen_length=8, steps=1, top_p=top_p)
        seen = np.bincount(rollout.tokens_BxG.flatten(), minlength=5)
        assert set(np.flatnonzero(seen)) == set(kept)
        probability = np.exp(logits[list(kept)])
        # at most 2 degrees of freedom: 99.9%
        assert chi_square(seen[list(kept)], probability / probability.sum()) < 13.9


def test_random_order_is_uniform():
    """With confidence from noise each position is as likely as any other to be committed first."""
    rows, gen = 2000, 4
    step_map = rollout_of(
        np.arange(5.0), rows, 1, gen_length=gen, steps=gen, remasking="random"
    ).step_map_BxG
    assert np.all(np.sort(step_map, axis=1) == np.arange(1, gen + 1))
    counts = np.stack([np.bincount(column, minlength=gen + 1)[1:] for column in step_map.T])
    assert chi_square(counts.flatten(), np.full(16, 1 / 16)) < 27.9  # 9 degrees of freedom: 99.9%


def test_origin_commits_each_position_on_its_own():
    """A row's passes are the steps at which anything was due; its positions are independent."""
    rows, gen, steps = 3000, 3, 3
    step_map = rollout_of(
        np.arange(5.0), rows, 2, kind="dream", alg="origin", gen_length=gen, steps=steps
    ).step_map_BxG
    times = schedule.dream_times(steps)
    # probability that a position is committed at each step
    at_step = times[:-1] - np.append(times[1:-1], 0)
    # all three at once, or all three apart
    same, apart = np.sum(at_step**3), 6 * np.prod(at_step)
    distinct = np.array([len(set(row)) for row in step_map])
    seen = np.array([np.sum(distinct == 1), np.sum(distinct == 3), np.sum(distinct == 2)])
    assert chi_square(seen, [same, apart, 1 - same - apart]) < 13.9  # 2 degrees of freedom: 99.9%


def test_alg_temp_draws_without_replacement():
    """Equal confidences: each position is as likely to be first; the others come together."""
    rows = 1200
    step_map = rollout_of(
        np.arange(5.0),
        rows,
        3,
        kind="dream",
        alg="maskgit_plus",
        alg_temp=0.5,
        gen_length=3,
        steps=30,
    ).step_map_BxG
    orders, counts = np.unique(step_map, axis=0, return_counts=True)
    assert orders.tolist() == [[1, 2, 2], [2, 1, 2], [2, 2, 1]]
    assert chi_square(counts, np.full(3, 1 / 3)) < 13.9  # 2 degrees of freedom: 99.9%


def test_quirky_noise_ends_where_bfloat16_ends():
    """A flat tail of 999 tokens beside one of probability 0.052 wins less than its share."""
    logits = np.zeros(1000)
    logits[5] = np.log(0.052 / 0.948 * 999)
    share = {}
    for quirks in (False, True):
        rollout = rollout_of(
            logits, 250, 4, hot(250), gen_length=16, steps=1, reference_quirks=quirks
        )
        share[quirks] = np.mean(rollout.tokens_BxG == 5)
    # where the tail's best is cut, the top token needs noise above 5.54 - 4.0, which has
    # probability 1 - exp(-exp(-1.54)) = 0.19
    # three standard errors of 4000 draws
    assert abs(share[False] - 0.052) < 0.012 and abs(share[True] - 0.19) < 0.03
