"""GDSD against float64 NumPy and its gradient by hand; the released numbers: golden_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives
from gdsd_jax.objectives import GdsdConfig, gdsd
from gdsd_jax.types import Batch
from tests import reference
from tests.reference import MASK, random_batch, random_params, tiny

B, P, G, K, V = 6, 2, 5, 3, 7  # of the batches whose logits are parameters


# name: config; old and reference scores are near the present ones, in and out of the region
CASES = {
    "defaults": GdsdConfig(beta=0.3),
    "Eq. 8, one-sided, answer": GdsdConfig(
        psi=1.0,
        centring="vocab",
        trust=(0.02, 0.04),
        trust_sides="one",
        beta=0.2,
        count="answer",
    ),
    "answers by length": GdsdConfig(count="answer", by_length=True, trust=None, beta=0.2),
    "top-k, uniform, free": GdsdConfig(
        psi=2.0, centring="top_k", centring_k=5, weighting="uniform", trust=None
    ),
}


def numpy_scores(logits_fn, batch, config):
    """(plain, centred) scores float64 [K, B] under the config's weights, count and centring."""
    return reference.pair_scores(
        logits_fn,
        MASK,
        batch,
        weighting=config.weighting,
        count=config.count,
        centring=config.centring,
        k=config.centring_k,
    )


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_the_float64_rendering(name):
    """Value, and the derivative along a random direction in every parameter by differences."""
    config, model = CASES[name], tiny()
    params = random_params(model)
    batch = random_batch(model, rows=4, prompt_len=3, gen=6, draws=2)

    def logits_of(params):
        return lambda tokens, valid: reference.forward(model, params, tokens, valid)

    def numpy_loss(params, batch):
        return reference.gdsd_loss(logits_of(reference.float64(params)), MASK, batch, config)

    plain, centred = numpy_scores(logits_of(params), batch, config)
    noise = np.random.default_rng(7).standard_normal((2, *plain.shape)) * 0.2
    batch = batch.replace(
        old_KxB=jnp.float32(centred + noise[0]), ref_KxB=jnp.float32(plain + noise[1])
    )

    loss_fn = objectives.make_loss_fn("gdsd", models.make_denoiser(model), config)
    (loss, metrics), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, {}, batch)
    np.testing.assert_allclose(loss, numpy_loss(params, batch), rtol=1e-4)
    assert (metrics["trust"] > 0) == (config.trust is not None) and metrics["trust"] < 1

    leaves, tree = jax.tree.flatten(reference.float64(params))
    rng, step = np.random.default_rng(0), 1e-5
    for number, gradient in enumerate(jax.tree.leaves(reference.float64(grads))):
        direction = rng.standard_normal(gradient.shape)

        def along(size, number=number, direction=direction):
            moved = [
                leaf + size * direction if i == number else leaf for i, leaf in enumerate(leaves)
            ]
            return numpy_loss(jax.tree.unflatten(tree, moved), batch)

        slope = (along(step) - along(-step)) / (2 * step)
        # differences leave 1e-7; the rest is float32 rounding of the scores' difference from the
        # old ones
        assert np.sum(gradient * direction) == pytest.approx(
            slope, abs=2e-4 * np.linalg.norm(gradient)
        )


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).standard_normal((B, P + G, V)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return Batch(
        jnp.asarray(rng.integers(2, V, (B, P + G))),
        jnp.ones((B, P + G), bool),
        jnp.full((B,), G),
        jnp.asarray((rng.random((K, B, P + G)) < 0.5) & (np.arange(P + G) >= P)),
        advantages_B=jnp.array([1.0, 0.5, -0.5, 2.0, -1.0, -2.0]),
        prompt_len=P,
    )


def score_and_slope(logits, batch):
    """By hand, for uniform weights and logits that are parameters: l [B] and dl/dz [B, L, V].

    They are the same for every mask.
    """
    logp, tokens = reference.log_softmax(np.float64(logits)), np.asarray(batch.tokens_BxL)
    slope = 0.5 * (np.eye(V)[tokens] - np.exp(logp))
    slope[:, :P] = 0
    own = np.take_along_axis(logp, tokens[..., None], axis=-1)[:, P:, 0]
    return 0.5 * own.sum(axis=1), slope


def run(config, logits, batch):
    loss_fn = objectives.make_loss_fn("gdsd", reference.position_denoiser(V), config)
    gradient_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, metrics), grads = gradient_fn({"z": jnp.asarray(logits)}, {}, batch)
    return float(loss), metrics, np.asarray(grads["z"])


def test_first_iteration_is_a_policy_gradient(logits, batch):
    """Without old scores the gradient is -(2 psi / L^2) mean A dl.

    Under r1 it is -(2 psi K / L) mean A dl.
    """
    _, slope = score_and_slope(logits, batch)
    policy = np.asarray(batch.advantages_B)[:, None, None] * slope / B
    for trust in ((4e-4, 4e-4), (0.2, 0.28)):
        found = run(
            GdsdConfig(psi=0.7, weighting="uniform", trust=trust, preset="r1"), logits, batch
        )[2]
        np.testing.assert_allclose(found, -2 * 0.7 * K / G * policy, atol=1e-6)  # float32 rounding
    found = run(GdsdConfig(psi=0.7, weighting="uniform"), logits, batch)[2]
    np.testing.assert_allclose(found, -2 * 0.7 / G**2 * policy, atol=1e-6)


def test_missing_old_scores_are_the_present_ones_without_gradient(logits, batch):
    config = GdsdConfig(weighting="uniform", beta=0.5)
    score = score_and_slope(logits, batch)[0]
    present = jnp.asarray(np.tile(score, (K, 1)), jnp.float32)
    implied, given = (
        run(config, logits, batch),
        run(config, logits, batch.replace(old_KxB=present, ref_KxB=present)),
    )
    np.testing.assert_allclose(implied[0], given[0], rtol=1e-5)
    np.testing.assert_allclose(implied[2], given[2], atol=1e-6)
    assert implied[1]["kl"] == 0 and implied[1]["trust"] == 0 and np.abs(implied[2]).max() > 0.1


def moved(batch, score, moves):
    """Old scores such that the sums have moved by `moves` [B] nats since."""
    return batch.replace(old_KxB=jnp.asarray(np.tile(score - np.array(moves), (K, 1)), jnp.float32))


#            advantages of the batch: + + - + - -
MOVES = np.array([0.019, 0.031, 0.031, -0.021, -0.021, -0.019]) * G
OUTSIDE = {
    "two": [False, True, True, True, True, False],
    "one": [False, True, False, False, True, False],  # only where the move went the advantage's way
}


@pytest.mark.parametrize("sides", OUTSIDE)
def test_trust_region_stops_the_gradient_exactly_outside(logits, batch, sides):
    score, slope = score_and_slope(logits, batch)
    outside, config = (
        np.array(OUTSIDE[sides]),
        GdsdConfig(psi=0.4, weighting="uniform", trust=(0.02, 0.03), trust_sides=sides),
    )
    loss, metrics, grads = run(config, logits, moved(batch, score, MOVES))
    assert np.array_equal(np.any(grads != 0, axis=(1, 2)), ~outside)
    kept = np.where(outside, np.clip(MOVES / G, -0.02, 0.03), MOVES / G)
    error = kept - 0.4 * np.asarray(batch.advantages_B) / G
    wanted = (2 * error / G / B * ~outside)[:, None, None] * slope
    # float32 rounding of the scores' difference: 1e-6 nats of moves of 0.1
    np.testing.assert_allclose(grads, wanted, atol=1e-6)
    np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-4)
    np.testing.assert_allclose(metrics["trust"], outside.mean())


def test_released_region_is_a_ratio_on_the_sum(logits, batch):
    """log(1 - 0.2) = -0.2231 and log(1 + 0.28) = 0.2469 nats, whatever the advantage."""
    score, _ = score_and_slope(logits, batch)
    config = GdsdConfig(
        psi=1.0, weighting="uniform", trust=(0.2, 0.28), trust_sides="one", preset="r1"
    )
    moves = [0.24, 0.25, 0.25, -0.225, -0.225, -0.22]
    _, metrics, grads = run(config, logits, moved(batch, score, moves))
    assert np.array_equal(np.any(grads != 0, axis=(1, 2)), [True, False, False, False, False, True])
    np.testing.assert_allclose(metrics["trust"], 4 / 6, rtol=1e-6)


@pytest.mark.parametrize("centring", ["none", "vocab"])
def test_kl_is_k2_on_normalised_scores(logits, batch, centring):
    score, slope = score_and_slope(logits, batch)
    drift = np.array([0.3, -0.2, 0.1, 0.0, 1.0, -0.5])
    reference_scores = jnp.asarray(np.tile(score - drift, (K, 1)), jnp.float32)
    config = GdsdConfig(psi=0.0, weighting="uniform", centring=centring, beta=0.8)
    loss, metrics, grads = run(config, logits, batch.replace(ref_KxB=reference_scores))
    np.testing.assert_allclose(metrics["kl"], np.mean(drift**2 / 2 / G), rtol=1e-4)
    np.testing.assert_allclose(loss, 0.8 * np.mean(drift**2 / 2 / G), rtol=1e-4)
    np.testing.assert_allclose(grads, 0.8 * (drift / G / B)[:, None, None] * slope, atol=1e-6)


def test_psi_is_in_sequence_units(logits, batch):
    """psi = L x the released per-token psi.

    The same loss where nothing is clipped and there is one mask.
    """
    score, _ = score_and_slope(logits, batch)
    batch = moved(batch, score, MOVES)
    batch = batch.replace(masks_KxBxL=batch.masks_KxBxL[:1], old_KxB=batch.old_KxB[:1])
    options = dict(weighting="uniform", beta=0.1)
    token = run(GdsdConfig(psi=0.3, trust=(0.9, 9.0), preset="r1", **options), logits, batch)
    sequence = run(GdsdConfig(psi=0.3 * G, trust=None, **options), logits, batch)
    np.testing.assert_allclose(token[0], sequence[0], rtol=1e-5)
    np.testing.assert_allclose(token[2], sequence[2], atol=1e-6)
    np.testing.assert_allclose(token[1]["target"], sequence[1]["target"], rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        GdsdConfig(psi=2.0, weighting="uniform", trust=(0.02, 0.03)),
        GdsdConfig(
            psi=0.4, centring="top_k", centring_k=3, trust=(0.2, 0.2), beta=0.3, preset="r2"
        ),
    ],
    ids=["default", "r2"],
)
def test_diagnostics_are_those_of_the_later_release(logits, batch, config):
    """In float64; told per token, though the preset limits the move of the whole sequence."""
    plain, centred = numpy_scores(lambda tokens, valid: np.float64(logits), batch, config)
    rng = np.random.default_rng(4)
    old, ref = (np.float32(x + 0.2 * rng.standard_normal(x.shape)) for x in (centred, plain))
    loss, metrics, _ = run(
        config, logits, batch.replace(old_KxB=jnp.asarray(old), ref_KxB=jnp.asarray(ref))
    )

    released, advantages = config.preset == "r2", np.asarray(batch.advantages_B)
    low, high = (np.log1p(-0.2), np.log1p(0.2)) if released else (-0.02, 0.03)
    move = (centred - old) / (1 if released else G)
    kept = np.clip(move, low, high)
    target = config.psi * advantages / (1 if released else G)
    residual = kept / (G if released else 1) - target
    kl, slope, outside = (plain - ref) ** 2 / 2 / G, 2 * residual / G, kept != move
    assert 0 < outside.mean() < 1
    main = np.mean(np.sum(residual**2, axis=0)) if released else np.mean(residual**2)
    wanted = {
        "score": plain.mean() / G,
        "centred_score": centred.mean() / G,
        "centred_score_max": np.abs(centred).max() / G,
        "score_noise": np.std(centred / G, axis=0, ddof=1).mean(),
        "kl": kl.mean(),
        "kl_max": kl.max(),
        "move": np.abs(centred - old).mean() / G,
        "move_max": np.abs(centred - old).max() / G,
        "clipped": outside.mean(),
        "trust": outside.any(axis=0).mean(),
        "target": np.abs(target).mean(),
        "residual": np.abs(residual).mean(),
        "residual_share": np.abs(residual).mean() / np.abs(target).mean(),
        "residual_share_weight": np.abs(target).mean(),
        "move_share": np.mean((residual + target) * target) / np.mean(target**2),
        "move_share_weight": np.mean(target**2),
        "slope": np.abs(slope).mean(),
        "slope_spread": np.std(slope, ddof=1),
        "slope_snr": np.abs(slope.mean()) / np.std(slope, ddof=1),
    }
    assert set(metrics) == set(wanted)
    for name, value in wanted.items():
        # moves are differences of float32 scores of 1 to 10 nats
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(loss, main + config.beta * kl.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(weighting="flat"), "weighting"),
        (dict(centring="all"), "centring"),
        (dict(trust_sides="three"), "trust_sides"),
        (dict(count="some"), "count"),
        (dict(preset="r9"), "preset"),
        (dict(trust=(0.1, 0.0)), "trust"),
        (dict(trust=(0.1,)), "trust"),
        (dict(preset="r1", trust=None), "preset"),
        (dict(masks="blocks"), "masks"),
        (dict(preset="r2", weighting="uniform"), "weighting"),
        (dict(mask_block=0), "mask_block"),
    ],
)
def test_impossible_configs_are_refused_by_name(options, word):
    with pytest.raises(ValueError, match=word):
        GdsdConfig(**options)


def test_by_length_every_answer_counts_alike():
    """The loss's derivative with respect to a score is in proportion to its advantage at any
    length; without, short answers count more, by the square of their length."""
    lengths, advantages = np.array([2, 6, 3, 6]), np.array([1.0, 1.0, -1.0, -0.5])
    batch = random_batch(tiny(), rows=4, prompt_len=3, gen=6, draws=1).replace(
        completion_len_B=jnp.asarray(lengths), advantages_B=jnp.asarray(advantages, jnp.float32)
    )
    still_1xB = jnp.zeros((1, 4))
    for by_length, weight in ((True, 36.0), (False, lengths**2)):
        config = GdsdConfig(psi=2.0, count="answer", by_length=by_length)
        target_1xB = config.psi * batch.advantages_B[None] / jnp.asarray(lengths)[None]
        _, slope_1xB = gdsd.divergence(config, still_1xB, target_1xB, batch)
        np.testing.assert_allclose(slope_1xB[0], -2 * config.psi * advantages / weight, rtol=1e-6)
