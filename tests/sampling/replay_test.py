"""The replay of a trajectory against laws that can be listed; `rollout_test.py` holds it to what
rollouts record.

B rows, G completion columns.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import sampling
from gdsd_jax.sampling.replay import slots
from gdsd_jax.types import Prompts, Uncut
from tests import toy

PARAMS = toy.params()
# rows: every answer in every order, one token a pass
ANSWER_B = np.tile(toy.ANSWERS, (len(toy.ORDERS), 1))
ORDER_B = np.repeat(toy.ORDERS, len(toy.ANSWERS), axis=0)
STEPS_BxG = 1 + np.argsort(ORDER_B, axis=1)


def replayed(steps_BxG, answers_BxG=ANSWER_B, params=PARAMS, **how):
    rows = len(answers_BxG)
    uncut = Uncut(jnp.asarray(answers_BxG), jnp.asarray(steps_BxG, jnp.int32), None)
    prompt = jnp.full((rows, toy.P), 2), jnp.ones((rows, toy.P), bool)
    return sampling.replay(toy.denoiser(), params, *prompt, uncut, **how)


def test_the_likelihoods_of_all_trajectories_sum_to_one():
    """Of every order for itself, and each is that of the plain rendering."""
    total_B = np.asarray(replayed(STEPS_BxG).sum(axis=1), np.float64)
    for answer, order, found in zip(ANSWER_B, ORDER_B, total_B):
        assert found == pytest.approx(
            toy.likelihood(PARAMS, answer, [[i] for i in order]), abs=1e-5
        )
    sums = np.exp(total_B).reshape(len(toy.ORDERS), -1).sum(axis=1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_under_an_order_that_does_not_look_it_is_the_answers_law():
    """The mean over the orders is how often a sampler in random order gives each answer; where the
    order looks at the tokens, the same product is no law of the answers."""
    law = np.exp(replayed(STEPS_BxG).sum(axis=1)).reshape(len(toy.ORDERS), -1).mean(axis=0)
    config = sampling.SamplerConfig(gen_length=toy.G, block_length=toy.G, remasking="random")
    rollout_fn, rows = sampling.make_rollout_fn(toy.denoiser(), config), 20_000
    prompts = sampling.with_defaults(
        Prompts(jnp.full((rows, 1), 2), jnp.ones((rows, 1), bool), temperature_B=jnp.ones(rows)),
        toy.G,
    )
    rollout = rollout_fn(PARAMS, prompts, jax.random.split(jax.random.key(0), rows))
    number_B = np.argmax(
        np.all(np.asarray(rollout.tokens_BxG)[:, None] == toy.ANSWERS[None], axis=-1), axis=1
    )
    share = np.bincount(number_B, minlength=len(toy.ANSWERS)) / rows
    assert np.abs(share - law).max() < 5 * np.sqrt(law.max() / rows)
    recorded = replayed(rollout.uncut.step_map_BxG, rollout.uncut.tokens_BxG)
    np.testing.assert_allclose(recorded, rollout.uncut.logp_BxG, rtol=0, atol=1e-5)


def test_groups_score_tokens_at_the_state_before_them():
    """As many as passes are exact; two of three passes are the first two and the last; one is the
    fully masked state."""
    np.testing.assert_array_equal(replayed(STEPS_BxG, groups=3), replayed(STEPS_BxG))
    for groups, cuts in ((2, (2, 1)), (1, (3,))):
        found_B = np.asarray(replayed(STEPS_BxG, groups=groups).sum(axis=1))
        for row in range(0, len(ORDER_B), 7):
            order = iter(ORDER_B[row])
            passes = [list(itertools.islice(order, count)) for count in cuts]
            wanted = toy.likelihood(PARAMS, ANSWER_B[row], passes)
            assert found_B[row] == pytest.approx(wanted, abs=1e-5), (groups, row)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
def test_every_pass_is_in_one_group(groups):
    """Of rows of 0 to 8 passes; groups are as even as they can be."""
    number_BxG = jnp.minimum(1 + jnp.arange(8)[None, :], jnp.arange(9)[:, None])
    first_SxB, last_SxB = (np.asarray(x) for x in slots(number_BxG, 8, groups, None))
    for row in range(9):
        covered = [
            list(range(first, last + 1)) for first, last in zip(first_SxB[:, row], last_SxB[:, row])
        ]
        if groups < 8:
            assert sum(covered, []) == list(range(1, row + 1))
            sizes = [len(one) for one in covered]
            assert max(sizes) - min(sizes) <= 1
        else:
            assert sum(covered, [])[:row] == list(range(1, row + 1))


def test_columns_that_do_not_exist_are_not_seen():
    """Behind a cap of two, where nothing is committed and no mask is, against a shorter row."""
    steps = np.where(np.arange(3) < 2, STEPS_BxG[:1], 0)
    capped = np.where(steps > 0, ANSWER_B[:1], 0)
    other = jax.tree.map(jnp.copy, PARAMS)
    other["seen"] = other["seen"].at[:, 3].add(7.0)  # what the third completion column says
    np.testing.assert_allclose(
        replayed(steps, capped, PARAMS), replayed(steps, capped, other), rtol=1e-6
    )


def test_memory_does_not_grow_with_the_passes():
    """The gradient of 32 passes holds hardly more than that of 2."""

    def held(passes):
        steps = jnp.tile(jnp.array([[1, 2, passes]]), (64, 1))
        answers = jnp.tile(jnp.asarray(toy.ANSWERS[:1]), (64, 1))
        wide = {"own": jnp.zeros((4, 4)), "seen": jnp.zeros((4, 4, 4, 4))}
        value = jax.grad(lambda p: replayed(steps, answers, p, passes=passes).sum())
        return jax.jit(value).lower(wide).compile().memory_analysis().temp_size_in_bytes

    assert held(32) < held(2) + 32 * 64 * 4 * 4  # bounds of each pass's slot, no states
