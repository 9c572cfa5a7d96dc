"""Drift: how far a rollout's log-probabilities are from those of full forwards.

A rollout with an approximate cache, a threshold, or in int8, records other numbers than full
forwards at the same states would give. B rows, G completion columns, S tokens of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.sampling.replay import replay
from gdsd_jax.types import Array, Denoiser, Prompts, PyTree, Rollout


class Drift(NamedTuple):
    """|recorded - recomputed| over the tokens looked at, float32 nats."""

    mean: Array
    max: Array


def drift(
    denoiser: Denoiser,
    config: SamplerConfig,
    params: PyTree,
    prompts: Prompts,
    rollout: Rollout,
    tokens: int = 0,
) -> Drift:
    """The drift of a rollout, by a replay of it.

    That of all tokens costs about as much as an exact rollout of these rows, that of a few a pass
    of the rows each. Give it a share of the rows: `take_rows`.

    Args:
      tokens: of each answer that are looked at, evenly spread; 0 = all.
    """
    looked_BxG = jnp.arange(config.gen_length)[None, :] < rollout.length_B[:, None]
    picked = None
    if 0 < tokens < config.gen_length:
        looked_BxG &= spread(rollout.length_B, tokens, config.gen_length)
        picked = looked_BxG, tokens
    logp_BxG = replay(
        denoiser,
        params,
        prompts.tokens_BxP,
        prompts.valid_BxP,
        rollout.uncut,
        block=config.causal_block,
        passes=config.most_passes,
        picked=picked,
    )
    difference_BxG = jnp.where(looked_BxG, jnp.abs(logp_BxG - rollout.logp_BxG), 0.0)
    count = jnp.maximum(jnp.sum(looked_BxG), 1)
    return Drift(jnp.sum(difference_BxG) / count, jnp.max(difference_BxG))


def spread(length_B: Array, tokens: int, gen_length: int) -> Array:
    """bool [B, G], at most so many columns of each answer, evenly spread, others in each row."""
    rows = len(length_B)
    offset_B = (jnp.arange(rows) + 0.5) / rows
    place_BxS = (jnp.arange(tokens)[None, :] + offset_B[:, None]) / tokens * length_B[:, None]
    column_1x1xG = jnp.arange(gen_length)[None, None, :]
    return jnp.any(place_BxS.astype(jnp.int32)[:, :, None] == column_1x1xG, axis=1)


def take_rows(tree: PyTree, count: int) -> PyTree:
    """`count` rows of every leaf [B, ...], evenly spread."""

    def take(x):
        return x[jnp.arange(count) * x.shape[0] // count]

    return jax.tree.map(take, tree)
