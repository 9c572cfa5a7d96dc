"""SPG's bounds: against NumPy, exact identities, and tokens that no view covers.

The released numbers are compared in golden_test.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import objectives
from gdsd_jax.objectives import SpgConfig, spg
from gdsd_jax.types import Batch
from tests import reference
from tests.reference import MASK

B, P, G, K, V = 4, 2, 6, 3, 7
LENGTH = np.array([6, 5, 4, 6])
ADVANTAGES = np.array([1.0, -0.5, 0.0, -2.0])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    masks = rng.random((K, B, P + G)) < 0.5
    masks[:, 3, P:] = False  # a row that no view covers
    masks[:, 0, P + 1] = False  # a token that no view covers
    masks[0, 1, P:] = False  # an empty view of a row
    tokens = jnp.asarray(rng.integers(2, V, (B, P + G)))
    return Batch(
        tokens,
        jnp.ones((B, P + G), bool),
        jnp.asarray(LENGTH),
        jnp.asarray(masks),
        advantages_B=jnp.asarray(ADVANTAGES, jnp.float32),
        prompt_len=P,
    )


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).standard_normal((B, P + G, V)).astype(np.float32)


@pytest.mark.parametrize("options", [dict(mix=5.0), dict(mix=-0.5), dict(block_length=0)])
def test_impossible_configs_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SpgConfig(**options)


def numpy_loss(logits, batch, config):
    """Loops; logits do not depend on the view here."""
    logp, tokens = reference.log_softmax(np.float64(logits)), np.asarray(batch.tokens_BxL)
    masks = np.asarray(batch.masks_KxBxL)
    total = 0.0
    for i, (length, a) in enumerate(zip(LENGTH, ADVANTAGES)):
        own = [logp[i, P + n, tokens[i, P + n]] for n in range(length)]
        placed = [[n for n in range(length) if masks[t, i, P + n]] for t in range(K)]
        elbo = np.mean([np.mean([own[n] for n in places]) if places else 0.0 for places in placed])
        logs = []
        for n in range(length):
            power = np.exp(own[n]) ** config.beta_eubo
            s = np.mean(
                [power / (len(places) / length) if n in places else 0.0 for places in placed]
            )
            if s > 0:
                logs.append(np.log(s))
        eubo = np.mean(logs) / config.beta_eubo if logs else 0.0
        bad = {
            "elbo": elbo,
            "eubo": eubo,
            "zero": 0.0,
            "mix": config.mix * eubo + (1 - config.mix) * elbo,
        }[config.estimate]
        total -= a * (elbo if a > 0 else bad) * length
    return total / LENGTH.sum()


def run(logits, batch, config):
    loss_fn = objectives.make_loss_fn("spg", reference.position_denoiser(V), config)
    (loss, _), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        {"z": jnp.asarray(logits)}, {}, batch
    )
    return float(loss), np.asarray(grads["z"])


@pytest.mark.parametrize("estimate", ["mix", "elbo", "eubo", "zero"])
def test_loss_and_gradient_are_the_float64_rendering(logits, batch, estimate):
    config = SpgConfig(estimate=estimate, mix=0.3, beta_eubo=1.5)
    loss, grads = run(logits, batch, config)
    assert loss == pytest.approx(numpy_loss(logits, batch, config), rel=1e-5)  # float32 rounding
    rng, step = np.random.default_rng(2), 1e-5
    for _ in range(3):
        way = rng.standard_normal(logits.shape)
        ahead, behind = (
            numpy_loss(np.float64(logits) + size * way, batch, config) for size in (step, -step)
        )
        assert np.sum(grads * way) == pytest.approx((ahead - behind) / (2 * step), abs=2e-5)
    assert not grads[3].any() and not grads[0, P + 1].any()  # uncovered: no gradient, and no NaN


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_one_full_view_makes_the_bounds_equal(beta):
    """The upper bound is the lower one less log(tau) / beta, tau the share that is masked.

    They are equal where everything is masked.
    """
    rng = np.random.default_rng(3)
    logp = jnp.asarray(-rng.random((1, 2, G)), jnp.float32)
    scored = jnp.asarray([[[True] * 6, [True, False, True, False, False, False]]])
    elbo, eubo = spg.bounds(SpgConfig(beta_eubo=beta), logp, scored, jnp.array([6.0, 6.0]))
    np.testing.assert_allclose(eubo, elbo - np.log([1.0, 2 / 6]) / beta, rtol=1e-5)

    def slope(which):
        return jax.jacobian(
            lambda x: spg.bounds(SpgConfig(beta_eubo=beta), x, scored, jnp.array([6.0, 6.0]))[which]
        )(logp)

    np.testing.assert_allclose(slope(0), slope(1), atol=1e-6)  # the offset has no gradient


def test_underflowing_probabilities_still_count():
    """exp(-300) is 0 in float32; the released sum of powers would leave the token out."""
    logp = jnp.full((2, 1, 3), -300.0).at[:, :, 0].set(-1.0)
    scored = jnp.ones((2, 1, 3), bool)
    _, eubo = spg.bounds(SpgConfig(beta_eubo=1.0), logp, scored, jnp.array([3.0]))
    assert eubo[0] == pytest.approx(-601 / 3, rel=1e-6)


def test_prompt_masks_are_hidden_and_never_scored(logits, batch):
    """MASK is what the denoiser sees, and only answer tokens carry gradient."""
    _, grads = run(logits, batch, SpgConfig())
    assert not grads[:, :P].any() and not grads[1, P + 5].any() and not grads[2, P + 4 :].any()
    assert MASK not in np.asarray(batch.tokens_BxL)
