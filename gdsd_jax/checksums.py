"""Checksums of arrays, the same however an array lies on its devices, and whether its numbers are
finite."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax.types import Array

BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of an element


@jax.jit
def checksums(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """{name: `checksum`} of arrays in their places."""
    return {name: checksum(x) for name, x in arrays.items()}


def checksum(x: Array) -> Array:
    """(checksum, whether all numbers are finite) of an array, as uint32 [2].

    The checksum is the sum over the bits of all elements, each times an odd weight that its place
    gives, modulo 2**32. Sums of integers do not depend on their order, so any sharding gives the
    same one. A single changed element always changes it, several do but for one case in 2**32.
    """
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place + along * np.uint32(stride % 2**32)
        stride *= x.shape[axis]
    weight = place * np.uint32(0x9E3779B1)
    weight = (weight ^ (weight >> np.uint32(15))) * np.uint32(0x85EBCA77)
    weight = (weight ^ (weight >> np.uint32(13))) | np.uint32(1)
    if x.dtype == bool:
        bits = x.astype(jnp.uint32)
    else:
        bits = jax.lax.bitcast_convert_type(x, BITS[x.dtype.itemsize]).astype(jnp.uint32)
    finite = is_finite(x).astype(jnp.uint32)
    return jnp.stack([jnp.sum(bits * weight, dtype=jnp.uint32), finite])


@jax.jit
def are_finite(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """{name: whether all numbers are finite} of arrays in their places."""
    return {name: is_finite(x) for name, x in arrays.items()}


def is_finite(x: Array) -> Array:
    """Whether all numbers of an array are finite; other values are."""
    return jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bool_(True)
