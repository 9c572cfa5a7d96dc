"""However many slices an optimizer step is cut into: the same views, and the same gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdsd_jax import models, objectives, scoring, sharding
from gdsd_jax.advantages import NO_VERDICT, group_softmax
from gdsd_jax.checkpoint import checksums_of
from gdsd_jax.curriculum import LengthRamp
from gdsd_jax.optimizer import init_state, make_update
from gdsd_jax.sampling import SamplerConfig, make_rollout_fn
from gdsd_jax.steps import make_advantages, make_masked, make_slices
from gdsd_jax.types import Prompts, Rollout, Uncut
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
    "dmpo, one side": objectives.DmpoConfig(centring=0.0),
}
TERMS = {"dmpo": "dmpo, one side"}  # a gradient of which nearly as much is taken away
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


def distance(one, other, terms=None):
    """The largest difference of two gradients, relative to the largest slope of the first, or of
    the terms that it sums."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one if terms is None else terms))
    return max(np.abs(a - b).max() for a, b in zip(*leaves)) / largest


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradient_knows_no_slices(batch, name):
    masks, grads = step_of(name, batch, 1)
    terms = step_of(TERMS[name], batch, 1)[1] if name in TERMS else grads
    for slices in (2, 4):
        again, found = step_of(name, batch, slices)
        np.testing.assert_array_equal(again, masks)
        assert distance(grads, found, terms) < 1e-6


@pytest.mark.parametrize("name", ["spg", "diffu_grpo", "coupled_grpo"])
def test_the_released_form_does(batch, name):
    """Whose means over tokens are those of a slice, so that its short answers count for more."""
    (masks, one), (_, four) = (step_of(name, batch, slices, apart=True) for slices in (1, 4))
    again, whole = step_of(name, batch, 1)
    np.testing.assert_array_equal(again, masks)
    assert distance(one, whole) < 1e-6  # by another program, which rounds its sums otherwise
    assert distance(one, four) > 0.01


# ---------------------------------------------------------------- from rollout to slices


def sliced(rollout, prompts, sampler, **entries):
    """`Steps.slices` of one minibatch in one slice."""
    entries = {"max_lengths": {}, "length_ramp": LengthRamp()} | entries
    sizes = {"minibatches": 1, "slices": 1, "group_size": 1, "prompt_length": P}
    settings = types.SimpleNamespace(objective="gdsd", sampler=sampler, **sizes, **entries)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    return jax.tree.map(lambda x: x[0], make_slices(settings, mesh, (9,))(rollout, prompts))


@pytest.mark.parametrize("quirks", [False, True])
def test_answers_end_where_their_first_stop_is(quirks):
    """Also where rows go on behind it, as in the released rollouts: what counts ends there."""
    tokens = np.array([[4, 9, 5, 9], [4, 5, 6, 7], [9, 9, 9, 9]], np.int32)
    zeros = jnp.zeros(tokens.shape, jnp.int32)
    uncut = Uncut(jnp.asarray(tokens), zeros, zeros.astype(jnp.float32))
    length = jnp.full(3, 4) if quirks else jnp.array([2, 4, 1])
    rollout = Rollout(*jax.tree.leaves(uncut), length, jnp.full(3, 4), uncut)
    prompts = Prompts(jnp.ones((3, P), jnp.int32), jnp.ones((3, P), bool))
    found = sliced(rollout, prompts, SamplerConfig(gen_length=4, reference_quirks=quirks))
    assert found.completion_len_B.tolist() == [2, 4, 1]
    np.testing.assert_array_equal(found.tokens_BxL[:, P:], tokens)
    assert scoring.counted_length(found, "full").tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "entries", [{"max_lengths": {"math": 5}}, {"length_ramp": LengthRamp(start=3, rounds=2)}]
)
def test_columns_behind_a_cap_do_not_exist_for_the_loss_either(entries):
    """The last token's log-probability is the one that the rollout recorded; "full" counts to the
    cap."""
    params = random_params(MODEL)
    sampler = SamplerConfig(gen_length=G, block_length=G, steps=G, stop_ids=())
    caps = jnp.array([5, 8, 1, 3])
    prompts = Prompts(
        jnp.arange(4 * P, dtype=jnp.int32).reshape(4, P) % 20 + 2,
        jnp.ones((4, P), bool),
        temperature_B=jnp.ones(4),
        max_length_B=caps,
    )
    rollout_fn = make_rollout_fn(DENOISER, sampler)
    rollout = rollout_fn(params, prompts, jax.random.split(jax.random.key(0), 4))
    found = sliced(rollout, prompts, sampler, **entries)
    np.testing.assert_array_equal(scoring.counted_length(found, "full"), caps)
    last_B = jnp.argmax(rollout.step_map_BxG, axis=1)
    row_B = jnp.arange(4)
    seen = found.tokens_BxL.at[row_B, P + last_B].set(MODEL.mask_id)
    h = DENOISER.features(params, seen, valid_BxL=found.valid_BxL)
    logits = DENOISER.unembed(params, h)[row_B, P + last_B]
    logp = jax.nn.log_softmax(logits)[row_B, found.tokens_BxL[row_B, P + last_B]]
    np.testing.assert_allclose(logp, rollout.logp_BxG[row_B, last_B], atol=1e-5)


@pytest.mark.parametrize("name", ["wd1", "dmpo", "gdsd"])
def test_rewards_without_a_verdict_are_numbers_too(name):
    """A checkpoint inside a round holds them, and takes finite numbers alone."""
    settings = types.SimpleNamespace(
        objective=name, baseline="leave_one_out", group_size=2, scale_rewards=False
    )
    batch = random_batch(MODEL, rows=4, prompt_len=P, gen=G, draws=1)
    judged = jnp.array([True, False, True, True])
    given = jnp.array([1.0, jnp.nan, 2.0, 3.0]), jnp.array([True, False, True, True])
    found = make_advantages(settings)(batch, *given, judged)
    assert found.rewards_B.tolist() == [1.0, float(NO_VERDICT), 2.0, 3.0]
    told = {"rewards": found.rewards_B, "advantages": found.advantages_B}
    assert all(finite for _, finite in checksums_of(told).values())
    weights = group_softmax(jnp.zeros(4), jnp.array([0, 0, 1, 1]), found.rewards_B)
    np.testing.assert_array_equal(weights, [1, 0, 0.5, 0.5])
