"""Trajectory objectives and JustGRPO against plain renderings on a toy, and their refusals.

B rows, K draws, G completion columns.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from gdsd_jax import objectives, settings
from gdsd_jax.objectives import JustGrpoConfig, TrajectoryConfig
from gdsd_jax.objectives.moves import shares
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.types import Batch
from tests import toy
from tests.reference import MASK

PARAMS = toy.params()
ROWS = 6
RNG = np.random.default_rng(4)
ANSWERS = toy.ANSWERS[RNG.integers(0, len(toy.ANSWERS), ROWS)]
# passes of each row: one after another, two at once, an answer that never got its last column
PASSES = [[[0], [1], [2]], [[2], [0, 1]], [[1], [0], [2]], [[0, 1, 2]], [[2], [1], [0]], [[0], [1]]]
ADVANTAGES = RNG.standard_normal(ROWS)


def batch_of(passes=PASSES, **fields) -> Batch:
    steps = np.zeros((ROWS, toy.G), np.int32)
    for row, columns in enumerate(passes):
        for number, one in enumerate(columns, 1):
            steps[row, one] = number
    tokens = np.where(steps > 0, ANSWERS, MASK)
    arrays = dict(
        tokens_BxL=np.concatenate([np.full((ROWS, 1), 2), tokens], axis=1).astype(np.int32),
        valid_BxL=np.ones((ROWS, 1 + toy.G), bool),
        completion_len_B=np.sum(steps > 0, axis=1).astype(np.int32),
        masks_KxBxL=np.zeros((1, ROWS, 1 + toy.G), bool),
        step_map_BxG=steps,
        advantages_B=ADVANTAGES.astype(np.float32),
        logp_BxG=-RNG.random((ROWS, toy.G)).astype(np.float32) * (steps > 0),
    )
    return Batch(**jax.tree.map(jnp.asarray, arrays | fields), prompt_len=1)


def token_logp(params, passes):
    """[B, G] in plain loops, a differentiable rendering: a list of states for each row."""
    found = []
    for row, columns in enumerate(passes):
        state, own = [MASK] * toy.G, [jnp.float32(0)] * toy.G
        for one in columns:
            row_L = jnp.asarray([[2, *state]])
            logp = jax.nn.log_softmax(toy.unembed(params, toy.features(params, row_L))[0, 1:])
            for i in one:
                own[i] = logp[i, int(ANSWERS[row, i])]
            for i in one:
                state[i] = int(ANSWERS[row, i])
        found.append(jnp.stack(own))
    return jnp.stack(found)


def committed(passes):
    return np.array([[any(i in one for one in columns) for i in range(3)] for columns in passes])


def ppo(params, old, passes, low, high, weights=None):
    logp, weights = token_logp(params, passes), committed(passes) if weights is None else weights
    total = 0.0
    for row, i in np.argwhere(weights > 0):
        ratio = jnp.exp(logp[row, i] - old[row, i])
        gain = jnp.minimum(
            ratio * ADVANTAGES[row], jnp.clip(ratio, 1 - low, 1 + high) * ADVANTAGES[row]
        )
        total -= weights[row, i] * gain
    return total / committed(passes).sum()


def squared(params, old, passes, psi, epsilon):
    logp, total = token_logp(params, passes), 0.0
    for row in range(ROWS):
        length = committed(passes)[row].sum()
        move = jnp.clip(jnp.sum(logp[row] - old[row]) / length, -epsilon, epsilon)
        total += (move - psi * ADVANTAGES[row] / length) ** 2
    return total / ROWS


def both(name, config, batch):
    loss_fn = objectives.make_loss_fn(name, toy.denoiser(), config)
    return jax.value_and_grad(lambda p: loss_fn(p, {}, batch)[0])(PARAMS)


def assert_same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1])):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("form", ["ppo", "squared"])
def test_a_trajectory_loss_is_the_plain_one(form):
    """Value and gradient, against old numbers near the present ones, some of them clipped."""
    old = np.asarray(token_logp(PARAMS, PASSES)) + 0.3 * RNG.standard_normal((ROWS, toy.G))
    old = np.asarray(old * committed(PASSES), np.float32)
    config = TrajectoryConfig(form=form, psi=0.5)
    found = both("trajectory", config, batch_of(old_KxB=old[None]))
    if form == "ppo":
        plain = jax.value_and_grad(lambda p: ppo(p, old, PASSES, 0.2, 0.2))(PARAMS)
    else:
        plain = jax.value_and_grad(lambda p: squared(p, old, PASSES, 0.5, 0.2))(PARAMS)
    assert_same(found, plain)


def test_how_much_of_the_targets_is_made():
    """Half of one target and none of another, three times as large; and where nothing is asked."""
    target = jnp.array([1.0, -3.0])
    found = shares(jnp.array([[-0.5, 3.0]]), target[None])
    assert found["move_share"] == pytest.approx(0.05)
    assert found["residual_share"] == pytest.approx(3.5 / 4)
    assert set(map(float, shares(target, jnp.zeros(2)).values())) == {0.0}


def test_old_log_probabilities_are_the_recorded_ones_unless_grouped():
    batch = batch_of()
    for groups, recorded in ((0, True), (2, False)):
        config = TrajectoryConfig(groups=groups)
        score_fn = objectives.make_score_fn("trajectory", toy.denoiser(), config)
        old, ref = score_fn(PARAMS, batch)
        assert np.array_equal(old[0], batch.logp_BxG) == recorded
        assert np.array_equal(old, ref) == (not recorded)


WRITTEN = [[[0], [1], [2]]] * 4 + [[[0]], [[0], [1]]]  # left to right


def test_just_grpo_is_the_plain_one():
    views_fn = objectives.make_views_fn("just_grpo", JustGrpoConfig())
    batch = batch_of(WRITTEN)
    batch = batch.replace(masks_KxBxL=views_fn(batch, 1, jax.random.key(0)))
    present = np.asarray(token_logp(PARAMS, WRITTEN))
    plain = jax.value_and_grad(lambda p: ppo(p, present, WRITTEN, 0.2, 0.2))(PARAMS)
    assert_same(both("just_grpo", JustGrpoConfig(), batch), plain)


def test_drawn_states_count_for_all():
    """One state an answer: the mean over the draws is the whole gradient."""
    config, batch = JustGrpoConfig(states=1), batch_of(WRITTEN)
    lengths = np.asarray(batch.completion_len_B)
    # six draws in which each of a row's 1, 2 or 3 tokens comes equally often
    masks = np.zeros((6, ROWS, 1 + toy.G), bool)
    for draw, row in np.ndindex(6, ROWS):
        masks[draw, row, 1 + draw % lengths[row]] = True
    found = both("just_grpo", config, batch.replace(masks_KxBxL=jnp.asarray(masks)))
    every = objectives.make_views_fn("just_grpo", JustGrpoConfig())(batch, 1, jax.random.key(0))
    assert_same(found, both("just_grpo", JustGrpoConfig(), batch.replace(masks_KxBxL=every)))


@pytest.mark.parametrize("states", [1, 2, 5])
def test_views_draw_states_of_the_answer(states):
    config, batch = JustGrpoConfig(states=states), batch_of(WRITTEN)
    views_fn = objectives.make_views_fn("just_grpo", config)
    masks = np.asarray(views_fn(batch, 40, jax.random.key(0)))[:, :, 1:]
    lengths = np.asarray(batch.completion_len_B)
    np.testing.assert_array_equal(masks.sum(axis=-1), np.tile(np.minimum(lengths, states), (40, 1)))
    assert not np.any(masks & (np.arange(toy.G) >= lengths[:, None]))
    assert np.all(masks.any(axis=0) == (np.arange(toy.G) < lengths[:, None]))  # each of them comes


def test_of_a_block_causal_denoiser_places_in_a_block_are_drawn():
    """The same ones in all blocks of a row."""
    steps = jnp.tile(1 + jnp.arange(8)[None, :], (ROWS, 1))
    tokens = jnp.zeros((ROWS, 10), jnp.int32)
    batch = Batch(
        tokens,
        jnp.ones(tokens.shape, bool),
        jnp.array([8, 8, 8, 7, 5, 3]),
        None,
        step_map_BxG=steps,
        prompt_len=2,
        block=4,
    )
    views_fn = objectives.make_views_fn("just_grpo", JustGrpoConfig(states=2))
    masks = np.asarray(views_fn(batch, 3, jax.random.key(1)))[:, :, 2:]
    np.testing.assert_array_equal(masks[:, :3, :4], masks[:, :3, 4:])
    assert np.all(masks[:, :, :4].sum(axis=-1) == 2)


# ---------------------------------------------------------------- refusals

REFUSED = {
    "temperature=0.7": "temperature=0.7: objective 'trajectory' takes each token for a draw from",
    "threshold=0.9": "threshold=0.9: objective 'trajectory'.*set threshold=none",
    "sampler.top_p=0.9": "sampler.top_p=0.9: objective 'trajectory'.*set sampler.top_p=1.0",
    "sampler.cache=dual": "sampler.cache=dual: objective 'trajectory'.*set sampler.cache=none",
    "sampler.cfg_scale=1": "sampler.cfg_scale=1.0: objective 'trajectory'",
    "sampler.reference_quirks=true": "reference_quirks=True: .*set sampler.reference_quirks=false",
    "trajectory.form=cubic": "trajectory.form='cubic': choose one of",
    "trajectory.groups=-1": "trajectory.groups=-1 must be at least 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_rollouts_of_another_law_are_refused(override):
    with pytest.raises(ValueError, match=REFUSED[override]) as error:
        settings.parse(coding.get_config(f"tiny,objective=trajectory,{override}"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, fits",
    [
        (dict(block_length=1), True),
        (dict(block_length=4, remasking="left_to_right"), True),
        (dict(block_length=4), False),
        (dict(block_length=4, steps=4, remasking="left_to_right"), False),
        (dict(kind="block", block_length=4, remasking="left_to_right"), True),
        (dict(kind="dream", block_length=1), True),
        (dict(kind="dream"), False),
    ],
)
def test_just_grpo_takes_answers_written_left_to_right(changes, fits):
    config = SamplerConfig(**{"gen_length": 8, **changes})
    check = objectives.find("just_grpo").rollouts
    if fits:
        check(config, 1.0, None)
        return
    with pytest.raises(ValueError, match="written left to right, one token a pass: set sampler."):
        check(config, 1.0, None)
