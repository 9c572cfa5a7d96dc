"""Checksums of arrays, the same however an array lies on its devices, and whether its numbers are
finite; what a checkpoint keeps of them."""

from collections.abc import Mapping
import json
from typing import Any
import zlib

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import version
from gdsd_jax.types import Array

SUMMED = 3  # from this format on, every checkpoint has checksums

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
    # both at once: a sum alone is reduced in steps on CPUs, each product written to memory first
    total, finite = jax.lax.reduce(
        (bits * weight, finite_places(x)),
        (np.uint32(0), np.True_),
        lambda one, other: (one[0] + other[0], one[1] & other[1]),
        tuple(range(x.ndim)),
    )
    return jnp.stack([total, finite.astype(jnp.uint32)])


@jax.jit
def are_finite(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """{name: whether all numbers are finite} of arrays in their places."""
    return {name: finite_places(x).all() for name, x in arrays.items()}


def finite_places(x: Array) -> Array:
    """bool of the shape of `x`: where it is finite; other values than floats are everywhere."""
    return jnp.isfinite(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.ones(x.shape, bool)


def sum_of(host: Mapping[str, Any]) -> int:
    """A checksum of a checkpoint's host part, as it comes back."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(host)), sort_keys=True).encode())


def read_json(folder: epath.Path) -> Any:
    """What orbax's handler of JSON has written."""
    return json.loads((folder / "metadata").read_text())


def read_sums(place: epath.Path) -> dict[str, int]:
    """The checksums of the checkpoint at `place`; none where an early version wrote it.

    Raises:
      ValueError: they are lost, or what is there is none.
    """
    if (place / "checksums").is_dir():
        sums = read_json(place / "checksums")
        if not isinstance(sums, dict) or "host" not in sums:
            raise ValueError("its checksums are none")
        return sums
    host = read_json(place / "host")
    number = host.get(version.FORMAT) if isinstance(host, dict) else None
    if isinstance(number, int) and number >= SUMMED:
        raise ValueError("its checksums are lost")
    return {}
