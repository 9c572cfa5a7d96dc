"""Projections in int8, for rollouts: weights with a scale a column, inputs with a scale a token.

T tokens, N layers, I and O the widths of a kernel [I, O]. A quantised projection is a plain dict
as before: its "kernel" is int8, and beside it lies "scale", float32. Adapters stay beside it in
their own type: summed into the weights first, a change of less than half a step would be lost.

The package qwix has the same product. It is written here because parameters stay plain dicts that
way, and scales float32 where activations are bfloat16: on inputs with a spread of e the relative
error of a product is 3.24% here and 3.27% there (launch/README.md tells what that does to tokens).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gdsd_jax import chips
from gdsd_jax.models.config import PROJECTIONS, ModelConfig
from gdsd_jax.types import Array, PyTree

STEPS = 127  # of int8 on each side of zero; -128 is not used


def quantise(x: Array, axis: int) -> tuple[Array, Array]:
    """(int8, float32 scales): x is about their product.

    The largest magnitude along `axis` becomes 127; the scales keep that axis, with one entry. What
    is all zero there gets the scale 1.
    """
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True).astype(jnp.float32)
    scale = jnp.where(largest > 0, largest / STEPS, 1.0)
    return jnp.round(x.astype(jnp.float32) / scale).astype(jnp.int8), scale


def quantise_layers(config: ModelConfig, params: PyTree) -> PyTree:
    """The parameters with all projections of the layers in int8, everything else in the type of
    activations.

    Kernels are int8 [N, I, O], their scales float32 [N, 1, O]. Embedding, head, norms, biases and
    adapters are not quantised: the head is 0.4% of the products of an exact pass, and its errors
    would go to the logits directly.

    Args:
      config: the model's.
      params: float32 or bfloat16, with adapters or without.
    """
    found = jax.tree.map(lambda x: x.astype(config.dtype), params)
    for name in PROJECTIONS:
        kernel, scale = quantise(params["layers"][name]["kernel"], axis=-2)
        found["layers"][name] |= {"kernel": kernel, "scale": scale}
    return found


def int8_product(x_TxI: Array, kernel_IxO: Array, scale_1xO: Array) -> Array:
    """x W [T, O] in x's type: x is quantised token by token, the sums are exact in int32."""
    x8_TxI, scale_Tx1 = quantise(x_TxI, axis=-1)
    dims = (((1,), (0,)), ((), ()))
    y_TxO = jax.lax.dot_general(x8_TxI, kernel_IxO, dims, preferred_element_type=jnp.int32)
    return (y_TxO.astype(jnp.float32) * scale_Tx1 * scale_1xO).astype(x_TxI.dtype)


def widened_product(x_TxI: Array, kernel_IxO: Array, scale_1xO: Array) -> Array:
    """x W [T, O] in x's type, where only the weights are int8: products are of x's type."""
    y_TxO = x_TxI @ kernel_IxO.astype(x_TxI.dtype)
    return (y_TxO.astype(jnp.float32) * scale_1xO).astype(x_TxI.dtype)


def product_for(device) -> Callable[[Array, Array, Array], Array]:
    """The product that suits a device, also one of a topology.

    Inputs are quantised where that makes products faster, and on devices whose rates are not known,
    such as CPUs.
    """
    chip = chips.CHIPS.get(device.device_kind)
    if chip is not None and chip.int8 <= chip.flops:
        return widened_product
    return int8_product
