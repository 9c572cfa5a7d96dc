"""Keys and values kept between forwards, so that a forward of Q columns sees a whole row.

B rows, Q columns of one forward, L columns of the cache, D width, N layers, K key heads, d head
width. Heads come before columns, and the width of keys does too. The products of attention want
them so, and a forward then moves nothing of a row's length.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from gdsd_jax.models.attention import KINDS, attention_mask, positions_of, previous_valid
from gdsd_jax.models.config import ModelConfig
from gdsd_jax.models.kernels import Kernel
from gdsd_jax.types import Array, Cache, PyTree


def make_cache_fns(
    config: ModelConfig, kernel: Kernel, hidden: Callable
) -> tuple[Callable, Callable]:
    """(init_cache, extend) of a denoiser.

    `hidden(params, tokens, cache, mask, positions, return_kv)` is `Transformer.extend`.
    """
    return functools.partial(init_cache, config), functools.partial(extend, config, kernel, hidden)


def init_cache(
    config: ModelConfig, params: PyTree, batch: int, length: int, *, valid_BxL: Array | None = None
) -> Cache:
    """`Denoiser.init_cache`: an empty cache.

    Its columns are all valid unless `valid_BxL` says otherwise. Shapes follow from the config, not
    from `params`.
    """

    def zeros(*shape):
        return jnp.zeros((config.layers, batch, config.kv_heads, *shape), config.dtype)

    h_BxLxD = None
    if config.shift:
        h_BxLxD = jnp.zeros((batch, length, config.d_model), config.dtype)
    return Cache(
        k_NxBxKxdxL=zeros(config.head_dim, length),
        v_NxBxKxLxd=zeros(length, config.head_dim),
        valid_BxL=jnp.ones((batch, length), bool) if valid_BxL is None else valid_BxL,
        h_BxLxD=h_BxLxD,
    )


def extend(
    config: ModelConfig,
    kernel: Kernel,
    hidden: Callable,
    params: PyTree,
    tokens_BxQ: Array,
    cache: Cache,
    start,
    *,
    write: bool,
    attention=None,
    seen: int | None = None,
) -> tuple[Array, Cache]:
    """`Denoiser.extend`: (features [B, Q, D] of columns start .. start + Q, the cache behind them).

    The rows' other columns are as the cache holds them; the Q have new keys and values.

    Args:
      start: may be traced.
      write: whether the cache that comes back holds the new keys and values.
      seen: the first so many columns of the cache are looked at. None: all. Those left out cost
        nothing. 0: the Q columns are whole rows, `start` must be 0, and the denoiser's own kernel
        computes their attention.
    """
    columns = tokens_BxQ.shape[1]

    def own(x):
        return jax.lax.dynamic_slice_in_dim(x, start, columns, axis=1)

    def put(x, new, axis):
        return jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)

    valid_BxL, spec = cache.valid_BxL, attention or KINDS[config.attention]
    if seen == 0:
        mask, kv = kernel.mask(spec, own(valid_BxL), columns), None
    else:
        mask = beside_cache(spec, valid_BxL, start, columns, seen)
        kv = (cache.k_NxBxKxdxL, cache.v_NxBxKxLxd)
    h_BxQxD, (k, v) = hidden(params, tokens_BxQ, kv, mask, own(positions_of(valid_BxL)), True)
    if config.shift:
        h_BxLxD = put(cache.h_BxLxD, h_BxQxD, 1)
        previous_BxQ = own(previous_valid(valid_BxL))
        h_BxQxD = jnp.take_along_axis(h_BxLxD, previous_BxQ[..., None], axis=1)
        if write:
            cache = cache.replace(h_BxLxD=h_BxLxD)
    if write:
        cache = cache.replace(
            k_NxBxKxdxL=put(cache.k_NxBxKxdxL, k, 4), v_NxBxKxLxd=put(cache.v_NxBxKxLxd, v, 3)
        )
    return h_BxQxD, cache


def beside_cache(spec, valid_BxL: Array, start, columns: int, seen: int | None) -> Array:
    """bool [1|B, 1, 1|Q, S + Q], who looks at whom: the S columns of the cache that are seen, then
    the Q new ones.

    What the cache holds of the Q columns is out of date, so nobody looks at it.
    """
    length = valid_BxL.shape[1]
    mask = attention_mask(spec, valid_BxL, length, start, columns)
    column_L = jnp.arange(length)
    old = mask & ((column_L < start) | (column_L >= start + columns))[None, None, None]
    own = jax.lax.dynamic_slice_in_dim(mask, start, columns, axis=3)
    return jnp.concatenate([old[..., :seen], own], axis=3)
