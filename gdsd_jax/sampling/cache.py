"""The current block's features, from a full forward or from a cache.

R rows of a forward (twice the batch under guidance), L columns, C columns of a block, D width. A
pass either writes or reads. Writing makes the cache right for the present state. Reading forwards
fewer columns and leaves the cache alone.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.types import Array, Cache, Denoiser, PyTree

# a cache is read in up to so many parts of so many columns; each is a branch to compile
SEEN_PARTS, SEEN_LEAST = 4, 128


class Forward(NamedTuple):
    """How a sampler gets at features; made for one prompt width.

    Attributes:
      begin: `(params, tokens_RxL, valid_RxL) -> cache`; None: there is no cache.
      write: `(params, tokens_RxL, valid_RxL, cache, block) -> (h_RxCxD, cache)`.
      read: `(params, tokens_RxL, cache, block) -> h_RxCxD`; None: every pass writes.
    """

    begin: Callable[[PyTree, Array, Array], Cache | None]
    write: Callable[..., tuple[Array, Cache | None]]
    read: Callable[..., Array] | None = None


def make_forward(denoiser: Denoiser, config: SamplerConfig, prompt_len: int) -> Forward:
    """The `Forward` of the config's cache for prompts of `prompt_len` columns."""
    make = {"none": uncached, "prefix": prefix, "dual": dual, "block": block_causal}[config.cache]
    return make(denoiser, config, prompt_len)


def uncached(denoiser: Denoiser, config: SamplerConfig, prompt_len: int) -> Forward:
    """Every pass is a forward of all columns."""
    features, width = full_features(denoiser, config, prompt_len), config.block_length

    def begin(params, tokens_RxL, valid_RxL):
        return None

    def write(params, tokens_RxL, valid_RxL, cache, block):
        h_RxLxD = features(params, tokens_RxL, valid_BxL=valid_RxL)
        return columns(h_RxLxD, prompt_len + block * width, width), cache

    return Forward(begin, write)


def dual(denoiser: Denoiser, config: SamplerConfig, prompt_len: int) -> Forward:
    """A refresh forwards all columns; in between, the current block alone is forwarded."""
    width = config.block_length

    def begin(params, tokens_RxL, valid_RxL):
        return denoiser.init_cache(params, *tokens_RxL.shape, valid_BxL=valid_RxL)

    def write(params, tokens_RxL, valid_RxL, cache, block):
        h_RxLxD, cache = denoiser.extend(
            params, tokens_RxL, cache.replace(valid_BxL=valid_RxL), 0, write=True, seen=0
        )
        return columns(h_RxLxD, prompt_len + block * width, width), cache

    def read(params, tokens_RxL, cache, block):
        start = prompt_len + block * width
        tokens_RxC = columns(tokens_RxL, start, width)
        return denoiser.extend(params, tokens_RxC, cache, start, write=False)[0]

    return Forward(begin, write, read)


def prefix(denoiser: Denoiser, config: SamplerConfig, prompt_len: int) -> Forward:
    """A refresh forwards all columns; in between, the current block and all behind it are."""
    width = config.block_length

    def from_block(block: int):
        start = prompt_len + block * width

        def forward(params, tokens_RxL, cache):
            h_RxQxD, _ = denoiser.extend(
                params, tokens_RxL[:, start:], cache, start, write=False, seen=start
            )
            return h_RxQxD[:, :width]

        return forward

    # a branch for each block: they differ in their number of columns
    branches = [from_block(block) for block in range(config.blocks)]

    def read(params, tokens_RxL, cache, block):
        return jax.lax.switch(block, branches, params, tokens_RxL, cache)

    return dual(denoiser, config, prompt_len)._replace(read=read)


def block_causal(denoiser: Denoiser, config: SamplerConfig, prompt_len: int) -> Forward:
    """The cache holds the finished blocks. That is exact: no later column changes them.

    A block's first pass forwards the block before it too, which by then is final, and writes it. So
    no pass does nothing but writing. `prompt_len` must be a multiple of the block, so that the
    first block has one before it.
    """
    width, attention = config.block_length, attention_of(denoiser, config, prompt_len)

    def begin(params, tokens_RxL, valid_RxL):
        cache = denoiser.init_cache(params, *tokens_RxL.shape, valid_BxL=valid_RxL)
        if prompt_len == width:
            return cache
        tokens_RxQ = tokens_RxL[:, : prompt_len - width]
        _, cache = denoiser.extend(
            params, tokens_RxQ, cache, 0, write=True, attention=attention, seen=0
        )
        return cache

    def write(params, tokens_RxL, valid_RxL, cache, block):
        start = prompt_len + (block - 1) * width
        tokens_Rx2C = columns(tokens_RxL, start, 2 * width)
        cache = cache.replace(valid_BxL=valid_RxL)
        h_Rx2CxD, cache = denoiser.extend(
            params, tokens_Rx2C, cache, start, write=True, attention=attention
        )
        return h_Rx2CxD[:, width:], cache

    def up_to(seen: int):
        def forward(params, tokens_RxC, cache, start):
            return denoiser.extend(
                params, tokens_RxC, cache, start, write=False, attention=attention, seen=seen
            )[0]

        return forward

    total = prompt_len + config.gen_length
    part = seen_part(total)
    branches = [up_to(min(seen, total)) for seen in range(part, total + part, part)]

    def read(params, tokens_RxL, cache, block):
        start = prompt_len + block * width
        tokens_RxC = columns(tokens_RxL, start, width)
        last = start + width - 1  # what lies behind the block is not there yet
        return jax.lax.switch(last // part, branches, params, tokens_RxC, cache, start)

    return Forward(begin, write, read)


def seen_part(total: int) -> int:
    """How many of a cache's `total` columns are read together."""
    return max(SEEN_LEAST, -(-total // SEEN_PARTS))


def branch_shares(
    config: SamplerConfig, prompt_len: int, passes: int | None = None
) -> tuple[tuple[float, ...], ...]:
    """Shares of a rollout's passes, of which None are `most_passes`, that go into each branch, if
    no row is done early.

    First of (reading, writing), then, where reading has branches of its own, of those. Without a
    cache there are no branches.
    """
    if config.cache == "none":
        return ()
    most, every = config.most_passes, config.refresh_every
    of_block = max(1, (most if passes is None else passes) / config.blocks)
    writes = math.ceil(of_block / every) if every else 1
    shares = (1 - writes / of_block, writes / of_block)
    if config.cache == "dual":
        return (shares,)
    if config.cache == "prefix":
        return shares, (1 / config.blocks,) * config.blocks
    width = config.block_length
    start = -(-prompt_len // width) * width  # the rollout fills the first block up
    part = seen_part(start + config.gen_length)
    last = [(start + (block + 1) * width - 1) // part for block in range(config.blocks)]
    return shares, tuple(last.count(branch) / len(last) for branch in range(last[-1] + 1))


def full_features(
    denoiser: Denoiser, config: SamplerConfig, prompt_len: int
) -> Callable[..., Array]:
    """`Denoiser.features` under the attention of the config's kind."""
    if config.kind != "block":
        return denoiser.features
    attention = attention_of(denoiser, config, prompt_len)
    return functools.partial(denoiser.features, attention=attention)


def attention_of(denoiser: Denoiser, config: SamplerConfig, prompt_len: int):
    """Blocks counted from the end of the prompt."""
    return denoiser.block_causal(config.block_length, prompt_len)


def columns(x_RxLx_: Array, start: Array | int, count: int) -> Array:
    """Columns start .. start + count."""
    return jax.lax.dynamic_slice_in_dim(x_RxLx_, start, count, axis=1)
