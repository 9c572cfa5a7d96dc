"""Projections in int8: exact sums, small errors, adapters that keep their move beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models
from gdsd_jax.models import quantised
from gdsd_jax.models.transformer import Projection
from tests.reference import random_adapters, random_params, tiny

TOKENS, WIDE, NARROW = 5, 48, 7
FAMILIES = {
    "llada": tiny(),
    "llama": tiny(kv_heads=4, tied=True, shift=True),
    "qwen3": tiny(qk_norm=True),
    "dream": tiny(qkv_bias=True, shift=True),
}


def float64_quantised(x, axis):
    """(whole numbers, scales) of the nearest of 127 steps on each side."""
    largest = np.abs(np.float64(x)).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1.0)
    return np.rint(np.float64(x) / scale), scale


def test_sums_of_whole_numbers_are_exact():
    """Inputs that int8 holds: nothing is rounded, so every bit of the product is right."""
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(-127, 128, (TOKENS, WIDE)), rng.integers(-127, 128, (WIDE, NARROW))
    x[:, 0], kernel[0] = 127, -127  # so that a step is one
    step_Tx1, step_1xO = (
        2.0 ** rng.integers(-6, 6, (TOKENS, 1)),
        2.0 ** rng.integers(-6, 6, (1, NARROW)),
    )
    kernel8, scale = quantised.quantise(jnp.float32(kernel * step_1xO), axis=0)
    np.testing.assert_array_equal(kernel8, kernel)
    np.testing.assert_array_equal(scale, step_1xO)
    found = jax.jit(quantised.product_of_rotated)(jnp.float32(x * step_Tx1), kernel8, scale)
    np.testing.assert_array_equal(found, np.float32((x @ kernel) * step_Tx1 * step_1xO))


def test_the_product_is_the_float64_rendering():
    rng = np.random.default_rng(1)
    x, kernel = (
        np.float32(rng.standard_normal(shape)) for shape in ((TOKENS, WIDE), (WIDE, NARROW))
    )
    x[2] = 0.0  # a token without a largest entry
    kernel8, scale = quantised.quantise(jnp.asarray(kernel), axis=0)
    x8, scale_x = quantised.quantise(jnp.asarray(x), axis=1)
    for whole, scales, (wanted, wanted_scale) in (
        (kernel8, scale, float64_quantised(kernel, 0)),
        (x8, scale_x, float64_quantised(x, 1)),
    ):
        assert (whole.dtype, scales.dtype) == (jnp.int8, jnp.float32)
        np.testing.assert_array_equal(whole, wanted)
        np.testing.assert_allclose(scales, wanted_scale, rtol=1e-6)
    wanted = (np.int64(x8) @ np.int64(kernel8)) * np.float64(scale_x) * np.float64(scale)
    found = jax.jit(quantised.product_of_rotated)(x, kernel8, scale)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert not found[2].any()


@pytest.mark.parametrize("width, block", [(48, 16), (7, 1), (384, 128)])
def test_a_rotation_spreads_what_is_large_and_keeps_products(width, block):
    rng = np.random.default_rng(3)
    matrix = np.float64(quantised.hadamard(block))
    np.testing.assert_array_equal(matrix @ matrix.T, block * np.eye(block))
    x, kernel = (np.float32(rng.standard_normal(s)) for s in ((TOKENS, width), (width, NARROW)))
    x[:, 0] *= 200
    turned, turned_kernel = quantised.rotated(x), quantised.rotated(kernel.T).T
    wanted = np.float64(x) @ np.float64(kernel)
    found = np.float64(turned) @ np.float64(turned_kernel) / block
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    kernel8, scale = quantised.quantise_kernel(jnp.asarray(kernel))
    whole = np.float64(kernel8) * np.float64(scale)
    weights_alone = jax.jit(quantised.widened_product)(x, kernel8, scale)
    rendering = np.float64(turned) @ whole
    np.testing.assert_allclose(weights_alone, rendering, atol=1e-5 * np.abs(wanted).max())
    if block > 1:  # the error of what the large entry does not touch
        plain8, plain_scale = quantised.quantise(jnp.asarray(kernel), axis=0)
        plain = quantised.product_of_rotated(jnp.asarray(x), plain8, plain_scale)
        ours = quantised.int8_product(jnp.asarray(x), kernel8, scale)
        assert distance(ours, wanted) < distance(plain, wanted)


def logits_of(config, multiply=models.int8_product):
    denoiser = models.make_denoiser(config, multiply=multiply)
    tokens = np.random.default_rng(0).integers(2, 40, (3, 9))
    return jax.jit(lambda params: denoiser.unembed(params, denoiser.features(params, tokens)))


def distance(ours, theirs):
    """Of the change, over what is changed."""
    return np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_near_those_of_the_weights(name):
    config = FAMILIES[name]
    params, wanted = random_params(config), None
    wanted = np.float64(logits_of(config)(params))
    in_int8 = models.quantise_layers(config, params)
    assert jax.tree.structure(params) != jax.tree.structure(in_int8)
    # two layers of seven projections, each within a percent or two
    assert 1e-4 < distance(logits_of(config)(in_int8), wanted) < 0.05
    weights_alone = logits_of(config, quantised.widened_product)(in_int8)
    assert 1e-4 < distance(weights_alone, wanted) < 0.05


def test_only_projections_of_layers_are_in_int8():
    config = tiny(dtype="bfloat16", lora_rank=3, lora_alpha=6.0, qkv_bias=True, qk_norm=True)
    params = random_params(config) | {"lora": random_adapters(config)}
    found = models.quantise_layers(config, params)
    for name in models.PROJECTIONS:
        pair = found["layers"][name]
        assert (pair.pop("kernel").dtype, pair.pop("scale").dtype) == (jnp.int8, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)), "it was changed"


def test_adapters_are_added_beside_and_keep_their_move():
    """A change of 1% of the weights, less than half a step of theirs, is lost where it is summed
    into them before they are quantised."""
    rng = np.random.default_rng(2)
    config = tiny(lora_rank=2, lora_alpha=2.0)
    kernel, a, b = (
        np.float32(rng.standard_normal(s)) for s in ((WIDE, NARROW), (WIDE, 2), (2, NARROW))
    )
    b *= 0.01 * np.linalg.norm(kernel) / np.linalg.norm(a @ b)
    x = np.float32(rng.standard_normal((TOKENS, WIDE)))
    kernel8, scale = quantised.quantise_kernel(jnp.asarray(kernel))
    weights = {"params": {"kernel": kernel8, "scale": scale}}
    project = Projection(config, NARROW)
    before, after = (
        np.float64(project.apply(weights | lora, x)) for lora in ({}, {"lora": {"a": a, "b": b}})
    )
    np.testing.assert_allclose(before, quantised.int8_product(x, kernel8, scale), rtol=1e-6)
    move = np.float64(x) @ np.float64(a) @ np.float64(b)
    assert distance(after - before, move) < 1e-3  # float32 rounding of the large sum
    summed8, summed_scale = quantised.quantise_kernel(jnp.asarray(kernel + a @ b))
    turned = np.float64(quantised.rotated(x))
    summed = turned @ (np.float64(summed8) * np.float64(summed_scale))
    plain = turned @ (np.float64(kernel8) * np.float64(scale))
    assert distance(summed - plain, move) > 0.5


@pytest.mark.parametrize(
    "kind, product",
    [
        ("TPU v4", quantised.widened_product),
        ("TPU v5 lite", quantised.int8_product),
        ("NVIDIA H100 80GB HBM3", quantised.int8_product),
        ("cpu", quantised.int8_product),
    ],
)
def test_inputs_are_quantised_where_that_is_faster(kind, product):
    class Device:
        device_kind = kind

    assert quantised.product_for(Device) is product
