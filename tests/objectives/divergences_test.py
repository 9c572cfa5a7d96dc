"""Divergences from the tilted teacher, the anchor, and rejection sampling, against float64 NumPy
loops and finite differences. B rows, K draws."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives
from gdsd_jax.objectives import GdsdConfig, RftConfig
from gdsd_jax.objectives.divergences import DIVERGENCES
from tests import reference
from tests.reference import MASK, random_batch, random_params, tiny

MODEL, ROWS, DRAWS = tiny(), 4, 2
DENOISER = models.make_denoiser(MODEL)
BY_HAND = {  # name: (divergence, its derivative) of floats
    "squared": (lambda u, t: (u - t) ** 2 / 2, lambda u, t: u - t),
    "forward": (
        lambda u, t: np.exp(t) * (t - u) - np.exp(t) + np.exp(u),
        lambda u, t: np.exp(u) - np.exp(t),
    ),
    "reverse": (
        lambda u, t: np.exp(u) * (u - t) - np.exp(u) + np.exp(t),
        lambda u, t: np.exp(u) * (u - t),
    ),
    "linear": (lambda u, t: -u * t, lambda u, t: -t),
}


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


@pytest.fixture(scope="module")
def batch(params):
    """Old and reference scores near the present ones; advantages of both signs."""
    one = random_batch(MODEL, rows=ROWS, prompt_len=3, gen=6, draws=DRAWS)
    plain, _ = numpy_scores(params, one, GdsdConfig())
    noise = 0.05 * np.random.default_rng(7).standard_normal((2, *plain.shape))
    return one.replace(
        old_KxB=jnp.float32(plain + noise[0]),
        ref_KxB=jnp.float32(plain + noise[1]),
        solved_B=jnp.asarray([True, False, True, False]),
    )


def numpy_scores(params, batch, config):
    def logits(tokens, valid):
        return reference.forward(MODEL, reference.float64(params), tokens, valid)

    return reference.pair_scores(
        logits, MASK, batch, weighting=config.weighting, count=config.count, centring="none", k=1
    )


def numpy_loss(params, batch, config):
    """(mean of one term a draw and row, of the largest numbers that make it)."""
    scores, _ = numpy_scores(params, batch, config)
    lengths, terms, largest = reference.completion_lengths(batch, config.count), [], 0.0
    distance = BY_HAND[config.divergence][0]
    anchor = batch.old_KxB if config.anchor == "old" else batch.ref_KxB
    for draw, row in np.ndindex(scores.shape):
        way = scores[draw, row] - float(anchor[draw, row])
        goal = config.psi * float(batch.advantages_B[row])
        scale = 2 / lengths[row] ** 2
        terms.append(scale * distance(way, goal))
        largest += scale * (np.exp(way) + np.exp(goal))  # of which a divergence is a difference
        gap = scores[draw, row] - float(batch.ref_KxB[draw, row])
        terms.append(config.beta * 0.5 * gap**2 / lengths[row])
    return np.sum(terms) / scores.size, largest / scores.size


def value_and_gradient(name, config, params, batch):
    loss_fn = objectives.make_loss_fn(name, DENOISER, config)
    call = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, metrics), grads = call(params, {}, batch)
    return loss, metrics, reference.float64(grads)


def assert_slope(loss_of, params, grads):
    """The gradient along a random direction is that of differences."""
    rng = np.random.default_rng(0)
    params = reference.float64(params)
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)

    def moved(size):
        return loss_of(jax.tree.map(lambda x, d: x + size * d, params, direction))

    wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5
    terms = jax.tree.leaves(jax.tree.map(lambda g, d: g * d, grads, direction))
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in terms))
    assert abs(sum(np.sum(x) for x in terms) - wanted) < 1e-4 * norm, (wanted, norm)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_those_of_the_formulas(name):
    u, t = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-3, 3, 7))
    value, derivative = BY_HAND[name]
    found, slope = jax.jit(jax.vmap(jax.value_and_grad(DIVERGENCES[name])))(
        jnp.float32(u.ravel()), jnp.float32(t.ravel())
    )
    np.testing.assert_allclose(found, value(u, t).ravel(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, derivative(u, t).ravel(), rtol=1e-5, atol=1e-5)
    if name != "linear":
        assert np.all(found >= -1e-5)
        np.testing.assert_allclose(DIVERGENCES[name](1.5, 1.5), 0.0, atol=1e-6)
    assert np.isfinite(DIVERGENCES[name](jnp.float32(300), jnp.float32(-300)))


CASES = {
    **{f"{name}, old": GdsdConfig(psi=0.7, divergence=name, trust=None) for name in DIVERGENCES},
    "squared, reference": GdsdConfig(psi=0.7, anchor="reference", trust=None, beta=0.2),
    "reverse, reference": GdsdConfig(
        psi=0.7, anchor="reference", divergence="reverse", trust=None, beta=0.1
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_the_float64_rendering(params, batch, name):
    config = CASES[name]
    loss, _, grads = value_and_gradient("gdsd", config, params, batch)
    wanted, size = numpy_loss(params, batch, config)
    assert abs(loss - wanted) < 1e-5 * size
    assert_slope(lambda one: numpy_loss(one, batch, config)[0], params, grads)


def test_divergences_agree_where_nothing_has_moved_and_little_is_asked(params, batch):
    """The same gradient to first order in psi: what differs is how they treat large targets."""
    batch = batch.replace(old_KxB=None)
    grads = {}
    for psi in (0.01, 10.0):
        for name in DIVERGENCES:
            config = GdsdConfig(psi=psi, divergence=name)
            leaves = jax.tree.leaves(value_and_gradient("gdsd", config, params, batch)[2])
            grads[name, psi] = np.concatenate([leaf.ravel() for leaf in leaves]) / psi

    def apart(name, psi):
        difference = np.linalg.norm(grads[name, psi] - grads["linear", psi])
        return difference / np.linalg.norm(grads["linear", psi])

    assert max(apart(name, 0.01) for name in DIVERGENCES) < 0.02
    assert apart("squared", 10.0) < 1e-4 and apart("reverse", 10.0) < 1e-4
    assert apart("forward", 10.0) > 0.5


def test_the_trust_region_is_around_the_old_policy(params, batch):
    """Also where the teacher tilts the reference: rows outside give no gradient."""
    config = GdsdConfig(psi=0.7, anchor="reference", trust=(1e-6, 1e-6))
    _, metrics, grads = value_and_gradient("gdsd", config, params, batch)
    assert metrics["trust"] == 1.0
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) == 0.0


def test_the_reference_is_scored_where_the_teacher_tilts_it():
    reference_of = objectives.OBJECTIVES["gdsd"].reference
    assert reference_of(GdsdConfig(anchor="reference")) and not reference_of(GdsdConfig())


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"divergence": "jensen"}, "divergence='jensen': choose one of"),
        ({"anchor": "base"}, "anchor='base': choose one of"),
        ({"anchor": "reference", "centring": "vocab"}, "anchor='reference' compares normalised"),
        ({"preset": "r1", "divergence": "reverse"}, "preset='r1' regresses on the old policy"),
        ({"preset": "r2", "anchor": "reference"}, "preset='r2' regresses on the old policy"),
    ],
)
def test_refusals(changes, said):
    with pytest.raises(ValueError, match=said):
        GdsdConfig(**changes)


# ---------------------------------------------------------------- rejection sampling


def rft_loss(params, batch, config):
    scores, _ = numpy_scores(params, batch, config)
    per_token_B = scores.mean(axis=0) / reference.completion_lengths(batch, config.count)
    return -np.mean(per_token_B[np.asarray(batch.solved_B)])


@pytest.mark.parametrize("config", [RftConfig(), RftConfig(weighting="uniform", count="answer")])
def test_solutions_are_learnt(params, batch, config):
    loss, metrics, grads = value_and_gradient("rft", config, params, batch)
    np.testing.assert_allclose(loss, rft_loss(params, batch, config), rtol=1e-5)
    assert_slope(lambda one: rft_loss(one, batch, config), params, grads)
    assert metrics["effective"] == 0.5


def test_a_round_without_solutions_teaches_nothing(params, batch):
    nothing = batch.replace(solved_B=jnp.zeros(ROWS, bool))
    loss, _, grads = value_and_gradient("rft", RftConfig(), params, nothing)
    assert loss == 0.0 and max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) == 0.0


def test_wrong_answers_do_not_matter(params, batch):
    """Whatever stands in the rows that solve nothing."""
    solved_Bx1 = batch.solved_B[:, None]
    other = batch.replace(tokens_BxL=jnp.where(solved_Bx1, batch.tokens_BxL, 3))
    losses = [value_and_gradient("rft", RftConfig(), params, one)[0] for one in (batch, other)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("name", ["squared", "forward", "reverse"])
def test_divergences_stay_divergences_far_away(name):
    """Never negative, and never steeper away from the target than towards it, also beyond the bound
    of the exponential; below it they are what they say, in float64."""
    distance = DIVERGENCES[name]
    for u, t in itertools.product((-30.0, -1.0, 0.5, 19.0, 21.0, 26.0, 40.0), repeat=2):
        value, slope = jax.value_and_grad(distance)(jnp.float32(u), jnp.float32(t))
        size = 1e-5 * math.exp(min(max(u, t), 20)) * (1 + abs(u - t))  # of the terms
        assert value >= -size and slope * (u - t) >= -size
        if max(u, t) < 20:
            assert value == pytest.approx(BY_HAND[name][0](u, t), rel=1e-5, abs=size)
