"""Completions and prompts of no token, and groups whose rewards are all equal: every objective's
loss and gradient stay finite, and a row without a token leaves what the others give.

B rows, K draws, P prompt and G completion columns, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives
from gdsd_jax.objectives import OBJECTIVES
from gdsd_jax.scoring import view_token_scores
from gdsd_jax.types import Batch
from tests.reference import random_batch, random_params, tiny

P, G, ROWS = 3, 8, 6
EMPTY = 2  # the row without a token
MODEL = tiny(vocab_size=24, layers=1)
DENOISER = models.make_denoiser(MODEL)
TEACHER = models.make_denoiser(dataclasses.replace(MODEL, shift=True, attention="causal"))
BY_ROW = [name for name, objective in OBJECTIVES.items() if objective.count is not None]


def config_of(name: str, **changes):
    """The objective's defaults, of the answer's tokens alone."""
    kind = OBJECTIVES[name].config
    fields = {field.name for field in dataclasses.fields(kind)}
    known = {"count": "answer", "teacher": TEACHER, "block_length": 4, "mask_prompt": 0.0}
    known |= {"states": {"opd": "random", "just_grpo": 3}.get(name), "beta": 0.1}
    return kind(**{key: value for key, value in (known | changes).items() if key in fields})


def batch_of(length_B) -> Batch:
    """Two prompts of three completions, of so many tokens."""
    batch = random_batch(MODEL, rows=ROWS, prompt_len=P, gen=G, draws=2)
    rng = np.random.default_rng(1)
    steps = rng.integers(1, 5, (ROWS, G))
    return batch.replace(
        completion_len_B=jnp.asarray(length_B, jnp.int32),
        rewards_B=jnp.asarray(rng.random(ROWS), jnp.float32),
        solved_B=jnp.asarray(np.arange(ROWS) != 1),
        group_B=jnp.arange(ROWS) // 3,
        logp_BxG=-jnp.asarray(rng.random((ROWS, G)), jnp.float32),
        step_map_BxG=jnp.asarray(steps * (np.asarray(length_B)[:, None] > 0), jnp.int32),
    )


@functools.cache
def compiled(name: str):
    """`(batch, rng) -> (loss, metrics, gradient)` under the objective's own views."""
    config = config_of(name)
    loss_fn = objectives.make_loss_fn(name, DENOISER, config)
    views_fn = objectives.make_views_fn(name, config)
    params, frozen = random_params(MODEL), {"teacher": random_params(MODEL, 7)}

    def call(params, frozen, batch, rng):
        batch = batch.replace(masks_KxBxL=views_fn(batch, 2, rng))
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, frozen, batch)
        return loss, metrics, grads

    jitted = jax.jit(call)
    return lambda batch: jitted(params, frozen, batch, jax.random.key(0))


def assert_finite(name: str, batch: Batch) -> None:
    loss, metrics, grads = compiled(name)(batch)
    assert np.isfinite(loss), loss
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_completion_of_no_token_breaks_nothing(name):
    assert_finite(name, batch_of([8, 5, 0, 1, 7, 2]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nor_do_completions_of_no_token_alone(name):
    assert_finite(name, batch_of([0] * ROWS))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nor_does_a_prompt_of_no_token(name):
    batch = batch_of([8, 5, 0, 1, 7, 2])
    for rows in ([1], list(range(ROWS))):
        valid_BxL = batch.valid_BxL.at[jnp.asarray(rows), :P].set(False)
        assert_finite(name, batch.replace(valid_BxL=valid_BxL))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nor_does_a_group_whose_rewards_are_equal(name):
    batch = batch_of([8, 5, 3, 1, 7, 2])
    assert_finite(name, batch.replace(advantages_B=jnp.zeros(ROWS), rewards_B=jnp.full(ROWS, 0.5)))


@pytest.mark.parametrize("name", BY_ROW)
def test_a_row_of_no_token_enters_no_mean(name):
    """Loss, gradient and the mean score are those of the other rows, under the same views."""
    batch, config = batch_of([8, 5, 0, 1, 7, 2]), config_of(name)
    rows = np.delete(np.arange(ROWS), EMPTY)
    loss_fn = objectives.make_loss_fn(name, DENOISER, config)

    def call(params, batch):
        return jax.value_and_grad(loss_fn, has_aux=True)(params, {}, batch)

    def take(x):
        return x[:, rows] if x.ndim == 3 else x[rows]

    (loss, metrics), grads = jax.jit(call)(random_params(MODEL), batch)
    (wanted, told), slopes = jax.jit(call)(random_params(MODEL), jax.tree.map(take, batch))
    assert loss == pytest.approx(float(wanted), rel=1e-5, abs=1e-6)
    if name != "spg":  # which is told as a mean over all rows
        assert metrics["score"] == pytest.approx(float(told["score"]), rel=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes))
    assert largest > 1e-4
    for leaf, other in zip(jax.tree.leaves(grads), jax.tree.leaves(slopes)):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-5 * largest)


def test_a_row_of_no_token_has_a_weight_but_no_score_in_its_group():
    """wd1, by the definition: the probability of nothing is one."""
    batch, config = batch_of([8, 5, 0, 1, 7, 2]), config_of("wd1")
    logp_KxBxG = np.asarray(
        view_token_scores(DENOISER, random_params(MODEL), batch, batch.masks_KxBxL)
    )
    expected, advantages_B = 0.0, np.float64(batch.advantages_B)
    for group in (slice(0, 3), slice(3, 6)):
        good, bad = (np.exp(sign * config.psi * advantages_B[group]) for sign in (1, -1))
        weights = bad / bad.sum() - good / good.sum()
        for row, weight in zip(range(ROWS)[group], weights):
            length = int(batch.completion_len_B[row])
            expected += weight * logp_KxBxG[:, row, :length].sum(axis=1, dtype=float).mean() / 2
    loss_fn = objectives.make_loss_fn("wd1", DENOISER, config)
    found, _ = loss_fn(random_params(MODEL), {}, batch)
    assert found == pytest.approx(expected, rel=1e-5)
