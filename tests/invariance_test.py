"""A row does not notice who else is in its batch, nor how much everybody is padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, sampling
from gdsd_jax.types import Batch, Prompts
from tests.reference import PAD, random_params, tiny

MODEL = tiny(stop_ids=(5, 9))
P, G = 3, 8  # columns of the row when it is alone
JUNK = 7  # a token under the padding that would be noticed if anything looked


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, seed=3)


def among(arrays, rows, place, left, right, filler):
    """Each array [1, columns] padded left and right, at row `place` among other rows."""
    rng = np.random.default_rng(rows)
    wide = np.pad(arrays, ((0, 0), (left, right)), constant_values=filler)
    others = rng.permuted(np.tile(wide, (rows, 1)), axis=1)
    others[place] = wide[0]
    return others


ROW = np.random.default_rng(5).integers(10, 40, (1, P + G)).astype(np.int32)
ROW_MASK = np.array([[False] * P + [True, False, True, True, False, False, True, False]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, 3])
def test_tokens(params, rollout_fn, temperature, place):
    """Neighbours with longer prompts, other temperatures, thresholds and caps."""
    rows, left = 5, 6
    alone = rollout_fn(
        params,
        Prompts(jnp.asarray(ROW[:, :P]), jnp.ones((1, P), bool), jnp.array([temperature])),
        jax.random.key(11)[None],
    )
    valid = np.ones((rows, left + P), bool)
    valid[place, :left] = False
    keys = jax.random.split(jax.random.key(0), rows).at[place].set(jax.random.key(11))
    crowd = Prompts(
        jnp.asarray(among(ROW[:, :P], rows, place, left, 0, JUNK)),
        jnp.asarray(valid),
        jnp.linspace(0.2, 1.4, rows).at[place].set(temperature),
        jnp.full((rows,), 0.2).at[place].set(jnp.inf),
        jnp.full((rows,), 5).at[place].set(G),
    )
    together = rollout_fn(params, crowd, keys)
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(together, field)[place], getattr(alone, field)[0])
    # float32 rounding: 1e-5 of the terms that are summed, logits
    size = np.abs(alone.logp_BxG).max()
    np.testing.assert_allclose(
        together.logp_BxG[place], alone.logp_BxG[0], rtol=0, atol=1e-5 * size
    )


@pytest.fixture(
    scope="module",
    params=[{"kind": "llada"}, {"kind": "llada", "cache": "dual"}, {"kind": "block"}],
    ids=str,
)
def rollout_fn(request):
    config = sampling.SamplerConfig(gen_length=G, block_length=4, steps=6, **request.param)
    return sampling.make_rollout_fn(models.make_denoiser(MODEL), config)


def batch_of(rows, place, left, right):
    """The row at `place` among others; its last two completion columns lie behind its answer."""
    valid = np.ones((rows, left + P + G + right), bool)
    valid[place, :left], valid[place, left + P + G :] = False, False
    masks = among(ROW_MASK, rows, place, left, right, False)
    masks[:, : left + P] = False
    return Batch(
        jnp.asarray(among(ROW, rows, place, left, right, JUNK)),
        jnp.asarray(valid),
        jnp.full((rows,), G - 2),
        jnp.asarray(masks)[None],
        prompt_len=left + P,
    )


@pytest.fixture(scope="module")
def score_and_gradient(params):
    """A row's answer score and its gradient; columns behind the answer are padding for this
    count."""
    config = objectives.GdsdConfig(count="answer")
    score_fn = objectives.make_score_fn("gdsd", models.make_denoiser(MODEL), config)
    return jax.jit(jax.value_and_grad(lambda p, batch, row: score_fn(p, batch)[0][0, row]))


@pytest.mark.parametrize("place", [0, 2])
def test_scores_and_gradients(score_and_gradient, params, place):
    """Neighbours with longer prompts, and padding on both sides. A loss sees a row through its
    score alone."""
    score, grads = score_and_gradient(params, batch_of(1, 0, left=0, right=0), 0)
    crowded_score, crowded_grads = score_and_gradient(
        params, batch_of(4, place, left=5, right=3), place
    )
    # what is left is the order of float32 additions; log-probabilities do not cancel, gradients may
    np.testing.assert_allclose(crowded_score, score, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    assert largest > 0.1
    for together, alone in zip(jax.tree.leaves(crowded_grads), jax.tree.leaves(grads)):
        size = np.maximum(np.abs(alone).max(), largest / 20)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * size)


def test_the_row_is_worth_following(params, rollout_fn):
    """Its tokens depend on its own prompt and key."""
    prompts = Prompts(jnp.asarray(ROW[:, :P]), jnp.ones((1, P), bool), jnp.array([1.0]))
    tokens = rollout_fn(params, prompts, jax.random.key(11)[None]).tokens_BxG
    other_prompt = prompts.replace(tokens_BxP=prompts.tokens_BxP[:, ::-1])
    assert not np.array_equal(
        tokens, rollout_fn(params, other_prompt, jax.random.key(11)[None]).tokens_BxG
    )
    assert not np.array_equal(
        tokens, rollout_fn(params, prompts, jax.random.key(12)[None]).tokens_BxG
    )
    assert np.any(np.asarray(tokens) != PAD)
