"""Keys and values kept between forwards, so that a forward of Q columns sees a whole row.

B rows, Q columns of one forward, L columns of the cache, D width, N layers, K key heads, d head
width. Heads come before columns, and the width of keys too, as the products of attention want them:
nothing of a row's length is moved in a forward.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gdsd_jax.models.attention import KINDS, attention_mask, positions_of, previous_valid
from gdsd_jax.models.config import ModelConfig
from gdsd_jax.models.kernels import Kernel
from gdsd_jax.types import Array, Cache, PyTree


def make_cache_fns(
    config: ModelConfig, kernel: Kernel, hidden: Callable
) -> tuple[Callable, Callable]:
    """(init_cache, extend) of a denoiser; `hidden(params, tokens, mask, positions, kept)` is its
    forward."""
    return make_init_cache(config), make_extend(config, kernel, hidden)


def make_init_cache(config: ModelConfig) -> Callable:
    """`init_cache(params, batch, length, *, valid_BxL) -> Cache` of a denoiser."""

    def init_cache(
        params: PyTree, batch: int, length: int, *, valid_BxL: Array | None = None
    ) -> Cache:
        """An empty cache; its columns are all valid unless `valid_BxL` says otherwise."""
        del params  # shapes follow from the config

        def zeros(*shape):
            return jnp.zeros((config.layers, batch, config.kv_heads, *shape), config.dtype)

        return Cache(
            k_NxBxKxdxL=zeros(config.head_dim, length),
            v_NxBxKxLxd=zeros(length, config.head_dim),
            valid_BxL=jnp.ones((batch, length), bool) if valid_BxL is None else valid_BxL,
            h_BxLxD=jnp.zeros((batch, length, config.d_model), config.dtype)
            if config.shift
            else None,
        )

    return init_cache


def make_extend(config: ModelConfig, kernel: Kernel, hidden: Callable) -> Callable:
    """`extend` of a denoiser with this forward."""

    def extend(
        params,
        tokens_BxQ: Array,
        cache: Cache,
        start,
        *,
        write: bool,
        attention=None,
        seen: int | None = None,
    ) -> tuple[Array, Cache]:
        """Features of columns start .. start + Q of rows whose other columns are as the cache holds
        them.

        `start` may be traced. Within the call the Q columns' own keys and values are fresh; `write`
        keeps them. Of the cache the first `seen` columns are looked at, None: all; those left out
        cost nothing. With 0 the Q are whole rows: they look at one another by the denoiser's own
        kernel, and `start` must be 0.
        """
        columns = tokens_BxQ.shape[1]

        def own(x):
            return jax.lax.dynamic_slice_in_dim(x, start, columns, axis=1)

        def put(x, new, axis):
            return jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)

        valid_BxL, spec = cache.valid_BxL, attention or KINDS[config.attention]
        if seen == 0:
            mask, kept = kernel.mask(spec, own(valid_BxL), columns), ()
        else:
            mask = beside_cache(spec, valid_BxL, start, columns, seen)
            kept = (cache.k_NxBxKxdxL, cache.v_NxBxKxLxd)
        h_BxQxD, (k, v) = hidden(params, tokens_BxQ, mask, own(positions_of(valid_BxL)), kept)
        if config.shift:
            h_BxLxD = put(cache.h_BxLxD, h_BxQxD, 1)
            h_BxQxD = jnp.take_along_axis(
                h_BxLxD, own(previous_valid(valid_BxL))[..., None], axis=1
            )
            cache = cache.replace(h_BxLxD=h_BxLxD) if write else cache
        if write:
            cache = cache.replace(
                k_NxBxKxdxL=put(cache.k_NxBxKxdxL, k, 4), v_NxBxKxLxd=put(cache.v_NxBxKxLxd, v, 3)
            )
        return h_BxQxD, cache

    return extend


def beside_cache(spec, valid_BxL: Array, start, columns: int, seen: int | None) -> Array:
    """bool [1|B, 1, 1|Q, S + Q]: the S columns of the cache that are seen, without those that are
    fresh, then these."""
    length = valid_BxL.shape[1]
    mask = attention_mask(spec, valid_BxL, length, start, columns)
    column_L = jnp.arange(length)
    kept = mask & ((column_L < start) | (column_L >= start + columns))[None, None, None]
    own = jax.lax.dynamic_slice_in_dim(mask, start, columns, axis=3)
    return jnp.concatenate([kept[..., :seen], own], axis=3)
