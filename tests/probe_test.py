"""The probe: its numbers by their definitions, its rows, and what it sees of a rollout.

R rows, P prompt columns, G completion columns.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import objectives, probe, sampling, scoring, sharding
from gdsd_jax.types import Batch, Prompts, Rollout, Uncut
from tests import toy
from tests.reference import MASK

RNG = np.random.default_rng(2)


def settings_of(rows=8, prompts=6, size=3, **fields):
    sampler = sampling.SamplerConfig(gen_length=toy.G, block_length=toy.G)
    given = dict(
        probe_rows=rows,
        prompts_per_round=prompts,
        group_size=size,
        objective="gdsd",
        objective_config=objectives.GdsdConfig(psi=2.0),
        sampler=sampler,
        approximate=False,
        probe_tokens=0,
    )
    return types.SimpleNamespace(**given | fields)


def test_whole_groups_are_looked_at_evenly_spread():
    rows, groups = probe.rows_of(settings_of())
    assert rows.tolist() == [0, 1, 2, 9, 10, 11] and groups.tolist() == [0, 0, 0, 1, 1, 1]
    # where no group fits some of its rows are, and never more than there are
    assert probe.rows_of(settings_of(size=16))[0].tolist() == list(range(8))
    assert len(probe.rows_of(settings_of(rows=100, prompts=2))[0]) == 6
    assert len(probe.rows_of(settings_of(rows=0))[0]) == 0


FAR = {
    "psi of the sequence": ("gdsd", objectives.GdsdConfig(psi=3.0), [3.0, -6.0]),
    "psi a token": ("gdsd", objectives.GdsdConfig(psi=3.0, preset="r1"), [12.0, -48.0]),
    # half the sum of the tokens moves by that
    "uniform weights": ("gdsd", objectives.GdsdConfig(psi=3.0, weighting="uniform"), [6.0, -12.0]),
    "no target": ("gdsd", objectives.GdsdConfig(psi=3.0, divergence="linear"), [1.0, -2.0]),
    "not said": ("espo", objectives.EspoConfig(), [1.0, -2.0]),
    "psi of the commits": (
        "trajectory",
        objectives.OBJECTIVES["trajectory"].config(form="squared", psi=3.0),
        [3.0, -6.0],
    ),
    "clipped": ("trajectory", objectives.OBJECTIVES["trajectory"].config(psi=3.0), [1.0, -2.0]),
}


@pytest.mark.parametrize(("name", "config", "wanted"), FAR.values(), ids=FAR)
def test_how_far_a_completion_should_move(name, config, wanted):
    """Advantages 1 and -2 of completions of 4 and 8 tokens; a nat per unit of advantage where the
    objective does not say."""
    found = objectives.find(name).asked(config, jnp.array([1.0, -2.0]), jnp.array([4, 8]))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("flat", [False, True])
def test_the_numbers_are_their_definitions(flat):
    group_R = np.array([0, 0, 0, 1, 1, 1])
    steps = np.array([[1, 2, 3], [1, 2, 0], [1, 0, 0], [1, 2, 3], [2, 1, 0], [1, 2, 3]])
    before, truth, after, later = -10 * RNG.random((4, 6))
    tilt = np.zeros(6) if flat else np.array([1.0, -2.0, 0.0, 0.5, 0.0, -1.5])
    as_arrays = [jnp.asarray(x, jnp.float32) for x in (before, truth, after, later, tilt)]
    probed = probe.Probed(None, None, None, jnp.asarray(steps), *as_arrays[:2])
    found = jax.tree.map(float, probe.numbers(probed, *as_arrays[2:], group_R))
    length = (steps > 0).sum(axis=1)
    move, target = (after - before) / length, tilt / length
    asked = tilt != 0
    weights = np.exp(after - before)
    one, other = before / length, truth / length
    inside = [x - np.array([x[group_R == g].mean() for g in group_R]) for x in (one, other)]
    wanted = {
        "move": np.abs(move).mean(),
        "target": np.abs(target).mean(),
        "ess": weights.sum() ** 2 / (weights**2).sum() / 6,
        "mismatch_gap": np.mean(one - other),
        "mismatch_corr": np.corrcoef(*inside)[0, 1],
        "mismatch_signs": np.mean(np.sign(after - before) == np.sign(later - truth)),
        "mismatch_elbo_var": np.mean(inside[0] ** 2),
        "mismatch_trajectory_var": np.mean(inside[1] ** 2),
        "mismatch_cov": np.mean(inside[0] * inside[1]),
    }
    share, left = found.pop("move_share"), found.pop("residual_share")
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    if flat:
        assert np.isnan(share) and np.isnan(left)  # nothing was asked for
    else:
        done = np.sum((move * target)[asked]) / np.sum(target[asked] ** 2)
        assert share == pytest.approx(done, rel=1e-4)
        away = np.abs(move - target).sum() / np.abs(target).sum()
        assert left == pytest.approx(away, rel=1e-4)


@pytest.fixture(scope="module")
def rolled():
    """(settings, prompts, rollout): every row of 6 x 3 in one of the orders, all columns."""
    steps = 1 + np.argsort(np.tile(toy.ORDERS, (3, 1)), axis=1)
    tokens = toy.ANSWERS[RNG.integers(0, 27, 18)]
    logp = -RNG.random((18, toy.G))
    arrays = (jnp.asarray(tokens), jnp.asarray(steps, jnp.int32), jnp.asarray(logp, jnp.float32))
    rollout = Rollout(*arrays, jnp.full(18, 3), jnp.full(18, 3), Uncut(*arrays))
    return settings_of(), Prompts(jnp.full((18, 1), 2), jnp.ones((18, 1), bool)), rollout


def made(settings):
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    return probe.make_probe(toy.denoiser(), settings, mesh)


def test_both_halves_see_the_same_rows_under_the_same_masks(rolled):
    """Before: what the rollout recorded. After unchanged weights the ELBO has not moved, and the
    likelihood is that of the commits."""
    settings, prompts, rollout = rolled
    rows, _ = probe.rows_of(settings)
    before, after = made(settings)
    params, rng = toy.params(), jax.random.key(3)
    probed = before(params, {}, prompts, rollout, rng)
    np.testing.assert_allclose(probed.trajectory_R, rollout.logp_BxG[rows].sum(axis=1), rtol=1e-6)
    slices = Batch(None, None, None, None, advantages_B=jnp.ones((2, 9)))
    found = after(params, {}, slices, probed, rng)
    assert found["move"] == 0.0 and found["ess"] == pytest.approx(1.0)
    assert found["target"] == pytest.approx(2.0 / toy.G)
    # moved weights: the moves are those of scores that are computed apart
    moved = after(toy.params(seed=1), {}, slices, probed, rng)
    other = before(toy.params(seed=1), {}, prompts, rollout, rng)
    moves = np.asarray(other.elbo_R - probed.elbo_R) / toy.G
    assert moved["move"] == pytest.approx(np.abs(moves).mean(), rel=1e-5)


def test_rows_that_the_devices_do_not_divide_are_widened(rolled):
    """6 rows go round 4 devices as 8, one each on 8; what is told is of the 6."""
    settings, prompts, rollout = rolled
    params, rng = toy.params(), jax.random.key(3)
    alone = made(settings).before(params, {}, prompts, rollout, rng)
    slices = Batch(None, None, None, None, advantages_B=jnp.ones((2, 9)))
    for count in (4, 8):
        assert len(probe.widened(alone, 6, count).elbo_R) == 8
        mesh = sharding.make_mesh({"data": 1, "fsdp": count}, devices=jax.devices()[:count])
        before, after = probe.make_probe(toy.denoiser(), settings, mesh)
        probed = before(params, {}, prompts, rollout, rng)
        assert probed.elbo_R.shape == (6,) and np.all(np.isfinite(probed.elbo_R))
        found = after(params, {}, slices, probed, rng)
        assert found["move"] == 0.0 and found["target"] == pytest.approx(2.0 / toy.G)
        np.testing.assert_allclose(probed.trajectory_R, alone.trajectory_R, rtol=1e-6)


def test_a_likelihood_may_be_of_a_few_tokens(rolled):
    """Two of three, the same ones before and after, times the length over their number; another
    pair in other rows. All of them where there are no more."""
    _, prompts, rollout = rolled
    params, rng = toy.params(), jax.random.key(3)
    rows, _ = probe.rows_of(settings_of())
    logp = np.asarray(rollout.logp_BxG, np.float64)[rows]
    few, exact = settings_of(probe_tokens=2), settings_of(probe_tokens=3)
    probed = made(few).before(params, {}, prompts, rollout, rng)
    looked = np.asarray(probe.looked_at(probed, 2))
    assert (looked.sum(axis=1) == 2).all() and len({tuple(row) for row in looked}) > 1
    np.testing.assert_allclose(
        probed.trajectory_R, (logp * looked).sum(axis=1) / 2 * toy.G, rtol=1e-6
    )
    whole = made(exact).before(params, {}, prompts, rollout, rng)
    np.testing.assert_allclose(whole.trajectory_R, logp.sum(axis=1), rtol=1e-6)
    # replayed: each of these tokens at its own state
    answers, steps = np.asarray(probed.tokens_RxG), np.asarray(probed.step_map_RxG)
    again = probe.likelihoods(toy.denoiser(), few.sampler, params, probed, looked, 2)
    for row in range(len(answers)):
        total = 0.0
        for column in np.flatnonzero(looked[row]):
            known = steps[row] < steps[row, column]
            state = np.where(known, answers[row], MASK)
            total += toy.logp(params, list(state))[column, answers[row, column]]
        assert again[row] == pytest.approx(total / 2 * toy.G, rel=1e-5)


def test_widened_rows_look_at_the_same_tokens(rolled):
    """Before and after: 8 devices hold two rows more, among which the tokens would be spread
    otherwise, and a small move of the likelihood would be lost in other tokens' likelihoods."""
    _, prompts, rollout = rolled
    params, rng = toy.params(), jax.random.key(3)
    answers, steps = np.asarray(rollout.tokens_BxG), np.asarray(rollout.step_map_BxG)
    logp = np.zeros(answers.shape)
    for row, column in np.ndindex(answers.shape):
        state = np.where(steps[row] < steps[row, column], answers[row], MASK)
        logp[row, column] = toy.logp(params, list(state))[column, answers[row, column]]
    uncut = Uncut(rollout.tokens_BxG, rollout.step_map_BxG, jnp.asarray(logp, jnp.float32))
    rollout = rollout.replace(logp_BxG=uncut.logp_BxG, uncut=uncut)
    other = toy.params(seed=1)
    nudged = jax.tree.map(lambda one, two: one + 1e-3 * (two - one), params, other)
    slices = Batch(None, None, None, None, advantages_B=jnp.ones((2, 9)))
    signs = []
    for count in (1, 8):
        mesh = sharding.make_mesh({"data": 1, "fsdp": count}, devices=jax.devices()[:count])
        before, after = probe.make_probe(toy.denoiser(), settings_of(probe_tokens=2), mesh)
        found = after(nudged, {}, slices, before(params, {}, prompts, rollout, rng), rng)
        signs.append(float(found["mismatch_signs"]))
    assert signs[0] == signs[1]


def test_what_an_approximate_rollout_recorded_is_not_taken(rolled):
    """Of int8 as of a cache: the likelihood before is replayed, as that after the updates is."""
    _, prompts, rollout = rolled
    settings = settings_of(approximate=True)
    params, rng = toy.params(), jax.random.key(3)
    probed = made(settings).before(params, {}, prompts, rollout, rng)
    looked = probe.looked_at(probed, 0)
    again = probe.likelihoods(toy.denoiser(), settings.sampler, params, probed, looked, 0)
    np.testing.assert_allclose(probed.trajectory_R, again, rtol=1e-6)
    rows, _ = probe.rows_of(settings)
    assert not np.allclose(probed.trajectory_R, rollout.logp_BxG[rows].sum(axis=1), rtol=1e-3)


def test_the_bound_is_below_the_likelihood_of_random_orders(rolled):
    """Over all masks the mean ELBO is the mean log-likelihood over the orders, so never above the
    logarithm of the mean."""
    params, answer = toy.params(), toy.ANSWERS[7]
    orders = [toy.likelihood(params, answer, [[i] for i in order]) for order in toy.ORDERS]
    rows = 6
    uncut = [np.tile(answer, (rows, 1)), np.tile([1, 2, 3], (rows, 1))]
    probed = probe.Probed(
        jnp.full((rows, 1), 2), jnp.ones((rows, 1), bool), *map(jnp.asarray, uncut), None, None
    )

    @jax.jit
    def bounds(rng):
        batch = probe.committed_batch(toy.denoiser().config, probed, None, rng)
        how = {"weighting": "elbo", "count": "answer"}
        return scoring.pair_scores(toy.denoiser(), params, batch, **how).plain_KxB

    found = np.concatenate([bounds(key) for key in jax.random.split(jax.random.key(0), 400)])
    assert found.mean() == pytest.approx(
        np.mean(orders), abs=float(4 * found.std() / found.size**0.5)
    )
    assert np.mean(orders) < np.log(np.mean(np.exp(orders)))


def test_columns_behind_the_commits_are_masked_and_those_behind_a_cap_are_not_there():
    """Two committed columns, one undecided; one committed and a cap behind it."""
    tokens, steps = np.array([[0, 3, MASK], [2, 0, 0]]), np.array([[1, 2, 0], [1, 0, 0]])
    arrays = [jnp.full((2, 1), 2), jnp.ones((2, 1), bool), jnp.asarray(tokens), jnp.asarray(steps)]
    probed = probe.Probed(*arrays, None, None)
    batch = probe.committed_batch(toy.denoiser().config, probed, None, jax.random.key(0))
    assert batch.completion_len_B.tolist() == [2, 1]
    assert batch.valid_BxL.tolist() == [[True] * 4, [True, True, False, False]]
    assert not np.any(batch.masks_KxBxL[:, 0, 3]) and not np.any(batch.masks_KxBxL[:, 1, 2:])


@pytest.mark.parametrize(
    "fields",
    [
        {"probe_rows": 0},
        {"objective": "opd", "objective_config": objectives.OpdConfig()},
        {"sampler": sampling.SamplerConfig(gen_length=4, reference_quirks=True)},
    ],
)
def test_where_there_is_no_probe(fields):
    assert made(settings_of(**fields)) is None
