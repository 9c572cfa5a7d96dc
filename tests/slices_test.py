"""However many slices an optimizer step is cut into: the same views, and the same gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdsd_jax import models, objectives, sharding
from gdsd_jax.optimizer import init_state, make_update
from gdsd_jax.steps import make_masked
from tests.reference import random_batch, random_params, tiny

P, G, ROWS = 3, 8, 16
MODEL = tiny(vocab_size=24, layers=1)
DENOISER = models.make_denoiser(MODEL)
CONFIGS = {
    **{
        name: objective.config()
        for name, objective in objectives.OBJECTIVES.items()
        if not objective.teacher and name != "spg"
    },
    "spg": objectives.SpgConfig(block_length=4),
    "opd": objectives.OpdConfig(DENOISER, states="random"),
    "just_grpo": objectives.JustGrpoConfig(states=3),
}
FURTHER = {  # other forms of an objective
    "trajectory, squared": objectives.TrajectoryConfig(form="squared", groups=2),
}
CONFIGS |= FURTHER


@pytest.fixture(scope="module")
def batch():
    """Four prompts of four completions of 1 to 8 tokens, the longest last."""
    rng = np.random.default_rng(0)
    found = random_batch(MODEL, rows=ROWS, prompt_len=P, gen=G, draws=1)
    return found.replace(
        completion_len_B=jnp.asarray(1 + np.arange(ROWS) // 2, jnp.int32),
        masks_KxBxL=None,
        rewards_B=jnp.asarray(rng.random(ROWS), jnp.float32),
        solved_B=jnp.asarray(np.arange(ROWS) % 3 == 0),
        group_B=jnp.arange(ROWS) // 4,
        step_map_BxG=jnp.tile(1 + jnp.arange(G)[None, :] // 2, (ROWS, 1)),
        logp_BxG=-jnp.asarray(rng.random((ROWS, G)), jnp.float32),
        old_KxB=None,
        ref_KxB=None,
    )


def step_of(name, batch, slices, apart=False):
    """(masks of all rows, gradient) of one optimizer step."""
    config, name = CONFIGS[name], name.partition(",")[0]
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    settings = types.SimpleNamespace(
        objective=name,
        slices=slices,
        minibatches=1,
        mask_draws=2,
        slices_apart=apart,
        inner_iterations=1,
        score_masks="fresh",
    )
    parts = jax.tree.map(lambda x: x.reshape(slices, -1, *x.shape[1:]), batch)
    parts = jax.jit(make_masked(settings, config, mesh))(parts, 0, jax.random.key(1))
    loss_fn = objectives.make_loss_fn(name, DENOISER, config)
    params, keep = random_params(MODEL), keeping()
    update = jax.jit(make_update(loss_fn, keep))
    after, _ = update(init_state(params, keep), {"teacher": random_params(MODEL, 7)}, parts)
    masks = np.moveaxis(np.asarray(parts.masks_KxBxL), 1, 0)
    return masks.reshape(len(masks), ROWS, -1), jax.device_get(after.opt_state)


def keeping():
    """An optimizer that moves nothing and has the last gradient as its state."""
    return optax.GradientTransformation(
        optax.tree.zeros_like, lambda grads, state, params: (optax.tree.zeros_like(grads), grads)
    )


def distance(one, other):
    """The largest difference of two gradients, relative to the largest slope."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    largest = max(np.abs(leaf).max() for leaf in leaves[0])
    return max(np.abs(a - b).max() for a, b in zip(*leaves)) / largest


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradient_knows_no_slices(batch, name):
    masks, grads = step_of(name, batch, 1)
    for slices in (2, 4):
        again, found = step_of(name, batch, slices)
        np.testing.assert_array_equal(again, masks)
        assert distance(grads, found) < 1e-6


@pytest.mark.parametrize("name", ["spg", "diffu_grpo", "coupled_grpo"])
def test_the_released_form_does(batch, name):
    """Whose means over tokens are those of a slice, so that its short answers count for more."""
    (masks, one), (_, four) = (step_of(name, batch, slices, apart=True) for slices in (1, 4))
    again, whole = step_of(name, batch, 1)
    np.testing.assert_array_equal(again, masks)
    assert distance(one, whole) < 1e-6  # by another program, which rounds its sums otherwise
    assert distance(one, four) > 0.01
