"""Drift: how far a rollout's log-probabilities are from those of full forwards.

A rollout with an approximate cache or a threshold records other numbers than full forwards at the
same states would give.
B rows, G completion columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.sampling.replay import replay
from gdsd_jax.types import Array, Denoiser, Prompts, PyTree, Rollout


class Drift(NamedTuple):
    """|recorded - recomputed| over the tokens of the rows looked at, float32 nats."""

    mean: Array
    max: Array


def drift(
    denoiser: Denoiser, config: SamplerConfig, params: PyTree, prompts: Prompts, rollout: Rollout
) -> Drift:
    """The drift of a rollout, by a replay of it.

    That costs about as much as an exact rollout of these rows. Give it a share of them:
    `take_rows`.
    """
    logp_BxG = replay(
        denoiser,
        params,
        prompts.tokens_BxP,
        prompts.valid_BxP,
        rollout.uncut,
        block=config.causal_block,
        passes=config.most_passes,
    )
    inside_BxG = jnp.arange(config.gen_length)[None, :] < rollout.length_B[:, None]
    difference_BxG = jnp.where(inside_BxG, jnp.abs(logp_BxG - rollout.logp_BxG), 0.0)
    tokens = jnp.maximum(jnp.sum(rollout.length_B), 1)
    return Drift(jnp.sum(difference_BxG) / tokens, jnp.max(difference_BxG))


def take_rows(tree: PyTree, count: int) -> PyTree:
    """`count` rows of every leaf [B, ...], evenly spread."""

    def take(x):
        return x[jnp.arange(count) * x.shape[0] // count]

    return jax.tree.map(take, tree)
