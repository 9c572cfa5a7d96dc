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
@pytest.mark.parametrize("place, left", [(0, 0), (3, 6)])
def test_tokens(params, rollout_fn, temperature, place, left):
    """Neighbours with longer prompts, other temperatures and other caps."""
    rows = 5
    alone = rollout_fn(
        params, Prompts(jnp.asarray(ROW[:, :P]), jnp.ones((1, P), bool), jnp.array([temperature])),
        jax.random.key(11)[None],
    )  # fmt: skip
    valid = np.ones((rows, left + P), bool)
    valid[place, :left] = False
    keys = jax.random.split(jax.random.key(0), rows).at[place].set(jax.random.key(11))
    crowd = Prompts(
        jnp.asarray(among(ROW[:, :P], rows, place, left, 0, JUNK)), jnp.asarray(valid),
        jnp.linspace(0.2, 1.4, rows).at[place].set(temperature), jnp.full((rows,), 0.2).at[place].set(jnp.inf),
        jnp.full((rows,), 5).at[place].set(G),
    )  # fmt: skip
    together = rollout_fn(params, crowd, keys)
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(together, field)[place], getattr(alone, field)[0])
    np.testing.assert_allclose(together.logp_BxG[place], alone.logp_BxG[0], atol=1e-5)  # float32 rounding


@pytest.fixture(scope="module")
def rollout_fn():
    config = sampling.SamplerConfig(gen_length=G, block_length=4, steps=6)
    return sampling.make_rollout_fn(models.make_denoiser(MODEL), config)


def batch_of(rows, place, left, right, count):
    """The row at `place`; only it has an advantage, so that the loss times the number of rows has its gradient alone."""
    valid = np.ones((rows, left + P + G + right), bool)
    valid[place, :left], valid[place, left + P + G :] = False, False
    masks = among(ROW_MASK, rows, place, left, right, False)
    masks[:, : left + P] = False
    zero = jnp.zeros((rows,))
    return Batch(
        jnp.asarray(among(ROW, rows, place, left, right, JUNK)), jnp.asarray(valid), jnp.full((rows,), G - 2),
        jnp.asarray(masks)[None], advantages_B=zero.at[place].set(1.5), prompt_len=left + P,
    )  # fmt: skip


@pytest.mark.parametrize(
    "count, rows, place, left, right",
    [("full", 4, 2, 5, 0), ("answer", 4, 0, 2, 3)],
    ids=["neighbours and longer prompts", "padding on both sides"],
)
def test_scores_and_gradients(params, count, rows, place, left, right):
    config = objectives.GdsdConfig(psi=10.0, count=count)
    denoiser = models.make_denoiser(MODEL)
    loss_fn = objectives.make_loss_fn("gdsd", denoiser, config)
    score_fn = objectives.make_score_fn("gdsd", denoiser, config)

    @jax.jit
    def score_and_gradient(batch):
        own_loss = lambda p: loss_fn(p, {}, batch)[0] * batch.tokens_BxL.shape[0]  # noqa: E731
        return score_fn(params, batch)[0], jax.grad(own_loss)(params)

    score, grads = score_and_gradient(batch_of(1, 0, 0, 0, count))
    crowded_score, crowded_grads = score_and_gradient(batch_of(rows, place, left, right, count))
    # what is left is the order of float32 additions
    np.testing.assert_allclose(crowded_score[:, place], score[:, 0], rtol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 0.1
    for together, alone in zip(jax.tree.leaves(crowded_grads), jax.tree.leaves(grads)):
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_the_row_is_worth_following(params, rollout_fn):
    """Its tokens depend on its own prompt and key."""
    prompts = Prompts(jnp.asarray(ROW[:, :P]), jnp.ones((1, P), bool), jnp.array([1.0]))
    tokens = rollout_fn(params, prompts, jax.random.key(11)[None]).tokens_BxG
    other_prompt = prompts.replace(tokens_BxP=prompts.tokens_BxP[:, ::-1])
    assert not np.array_equal(tokens, rollout_fn(params, other_prompt, jax.random.key(11)[None]).tokens_BxG)
    assert not np.array_equal(tokens, rollout_fn(params, prompts, jax.random.key(12)[None]).tokens_BxG)
    assert np.any(np.asarray(tokens) != PAD)
