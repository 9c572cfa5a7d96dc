"""Rows that are done leave a rollout between blocks, so that the passes that are left cost less.

B rows in S equal parts, one for each shard of a mesh's rows; n rows of a part that go on. Rows
never change their part, so nothing of theirs crosses the mesh. Noise is keyed by row: a row's
tokens do not depend on who is still there.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.types import Array, Cache, PyTree

MOST_SIZES = 3  # each compiles the denoising pass once more
LEAST_ROWS = 8  # fewer hardly make a pass cheaper
LEAST_BLOCKS = 8  # of a completion: with fewer there is little to win, and more to compile


def sizes_of(config: SamplerConfig, rows: int, shards: int) -> tuple[int, ...]:
    """Rows of a part, from all of them down by halves; only all where no row leaves.

    The released samplers' quirks look at the whole batch, and guidance has two rows for each.

    Args:
      config: of the sampler.
      rows: B.
      shards: S.
    """
    leaves = config.compact and not config.reference_quirks and not config.cfg_scale
    if not leaves or config.blocks < LEAST_BLOCKS or rows % shards:
        return (rows // shards,)
    sizes = [rows // shards]
    while len(sizes) < MOST_SIZES and sizes[-1] // 2 * shards >= max(LEAST_ROWS, shards):
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def all_passes(
    one_pass: Callable[[PyTree, Any], Any],
    running: Callable[[Any], Array],
    config: SamplerConfig,
    sizes: tuple[int, ...],
    asked: PyTree,
    state: Any,
) -> Any:
    """The `SamplerState` after the last pass, of all rows, without a cache.

    A loop for each size goes on until the rows that still run fit the next one.

    Args:
      one_pass: `(asked, state) -> state`.
      running: `(state) -> bool`, whether anything is left to do.
      config: of the sampler.
      sizes: of `sizes_of`, from that of `state` on.
      asked: a tree of what `one_pass` reads of each row, [B, ...].
      state: before the first pass.
    """
    size, smaller = sizes[0], sizes[1:]

    def goes_on(state):
        if not smaller:
            return running(state)
        left_S = jnp.sum(~state.done_B.reshape(-1, size), axis=1)
        fits = (state.age == 0) & (jnp.max(left_S) <= smaller[0])
        return running(state) & ~fits

    state = jax.lax.while_loop(goes_on, functools.partial(one_pass, asked), state)
    cache, state = state.cache, state.replace(cache=None)
    if not smaller:
        return state
    # those that run come first, in their order
    order_SxR = jnp.argsort(state.done_B.reshape(-1, size), axis=1, stable=True)
    row_SxN = order_SxR[:, : smaller[0]]

    def take(x):
        return rows_taken(row_SxN, x) if x.ndim else x

    def put(old, new):
        return rows_put(row_SxN, old, new) if old.ndim else new

    fewer = jax.tree.map(take, state).replace(cache=cache_of(config, cache, row_SxN))
    fewer = all_passes(one_pass, running, config, smaller, jax.tree.map(take, asked), fewer)
    return jax.tree.map(put, state, fewer)


def cache_of(config: SamplerConfig, cache: Cache | None, row_SxN: Array) -> Cache | None:
    """The cache of some rows of each part, for the first pass of a block.

    Which refreshes the caches of full attention. So these rows get an empty one, and there are
    never two that hold anything.
    """
    if cache is None:
        return None

    def take(x, axis):
        if config.cache == "block":
            return rows_taken(row_SxN, x, axis)
        return jnp.zeros((*x.shape[:axis], row_SxN.size, *x.shape[axis + 1 :]), x.dtype)

    h_BxLxD = cache.h_BxLxD
    return cache.replace(
        k_NxBxKxdxL=take(cache.k_NxBxKxdxL, 1),
        v_NxBxKxLxd=take(cache.v_NxBxKxLxd, 1),
        valid_BxL=take(cache.valid_BxL, 0),
        h_BxLxD=None if h_BxLxD is None else take(h_BxLxD, 0),
    )


def rows_taken(row_SxN: Array, x: Array, axis: int = 0) -> Array:
    """Some rows of each part; `axis` is that of the rows in `x`."""
    parts = parted(x, len(row_SxN), axis)
    take = functools.partial(jnp.take, axis=axis, mode="clip")
    taken = jax.vmap(take, in_axes=(axis, 0), out_axes=axis)(parts, row_SxN)
    return taken.reshape(*x.shape[:axis], row_SxN.size, *x.shape[axis + 1 :])


def rows_put(row_SxN: Array, x_Bx_: Array, new: Array) -> Array:
    """The array with some rows of each part replaced."""
    parts = len(row_SxN)
    put = jax.vmap(lambda old, row, new: old.at[row].set(new, mode="promise_in_bounds"))
    found = put(parted(x_Bx_, parts), row_SxN, parted(new, parts))
    return found.reshape(x_Bx_.shape)


def parted(x: Array, parts: int, axis: int = 0) -> Array:
    """The array with the axis of its rows in two: parts, and rows of a part."""
    return x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :])
