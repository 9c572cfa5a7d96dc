"""Adapters act like a low-rank change of the weights, and they alone learn."""

import jax
import numpy as np
import pytest

from gdsd_jax import models, objectives
from tests.reference import merged, random_adapters, random_batch, random_params, tiny

CONFIG = tiny(lora_rank=3, lora_alpha=6.0)
SOME = ("q", "down")


@pytest.fixture(scope="module")
def base():
    return random_params(CONFIG)


def logits_of(config):
    denoiser = models.make_denoiser(config)
    tokens = np.random.default_rng(0).integers(2, 40, (2, 7))

    @jax.jit
    def fn(trainable, frozen):
        params = denoiser.bind(trainable, frozen)
        return denoiser.unembed(params, denoiser.features(params, tokens))

    return fn


def test_fresh_adapters_change_nothing(base):
    lora = models.init_lora(CONFIG, jax.random.key(1))
    assert all(not np.any(pair["b"]) and np.any(pair["a"]) for pair in lora["layers"].values())
    fn = logits_of(CONFIG)
    # the adapters add exact zeros
    np.testing.assert_array_equal(fn(lora, {"base": base}), fn(base, {}))


@pytest.mark.parametrize("targets", [models.PROJECTIONS, SOME])
def test_adapters_are_a_low_rank_change_of_the_weights(base, targets):
    config = tiny(lora_rank=3, lora_alpha=6.0, lora_targets=targets)
    lora, fn = random_adapters(config), logits_of(config)
    assert set(lora["layers"]) == set(targets)
    ours, theirs = fn(lora, {"base": base}), fn(merged(base, lora, config), {})
    assert np.abs(ours - fn(base, {})).max() > 0.1  # the change is visible at all
    # two products instead of one sum: float32 rounding
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_fresh_adapters_are_one_a_layer_and_target():
    lora = models.init_lora(CONFIG, jax.random.key(1))["layers"]
    assert lora["gate"]["a"].shape == (2, 20, 3) and lora["gate"]["b"].shape == (2, 3, 28)
    assert lora["o"]["a"].shape == (2, 24, 3) and lora["k"]["b"].shape == (2, 3, 12)
    assert not np.allclose(lora["q"]["a"], lora["k"]["a"]) and not np.allclose(
        lora["q"]["a"][0], lora["q"]["a"][1]
    )
    wide = models.init_lora(tiny(lora_rank=64, lora_alpha=1.0), jax.random.key(1))["layers"]["q"]
    bound = wide["a"].shape[1] ** -0.5
    assert 0.95 * bound < np.abs(wide["a"]).max() <= bound
    assert np.std(wide["a"]) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_the_same_loss_serves_adapters_and_weights(base):
    """loss_fn(adapters, {"base": W}) = loss_fn(W + change, {}).

    Its gradient is the chain rule through the change.
    """
    loss_fn = objectives.make_loss_fn(
        "gdsd", models.make_denoiser(CONFIG), objectives.GdsdConfig(psi=10.0)
    )
    batch = random_batch(CONFIG, rows=3, prompt_len=3, gen=6, draws=1)
    lora = random_adapters(CONFIG)
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, _), grads = value_and_grad(lora, {"base": base}, batch)
    (whole_loss, _), whole = value_and_grad(merged(base, lora, CONFIG), {}, batch)
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(lora)  # nothing else is differentiated
    scale = CONFIG.lora_alpha / CONFIG.lora_rank
    for target, pair in lora["layers"].items():
        slope = np.float64(whole["layers"][target]["kernel"])
        wanted_a = scale * np.einsum("nio,nro->nir", slope, pair["b"])
        wanted_b = scale * np.einsum("nir,nio->nro", pair["a"], slope)
        # float32 rounding of sums over 54 tokens
        np.testing.assert_allclose(
            grads["layers"][target]["a"], wanted_a, atol=2e-5 * np.abs(wanted_a).max()
        )
        np.testing.assert_allclose(
            grads["layers"][target]["b"], wanted_b, atol=2e-5 * np.abs(wanted_b).max()
        )
