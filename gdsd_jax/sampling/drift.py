"""Drift: how far a rollout's log-probabilities are from those of full forwards.

A rollout with an approximate cache or a threshold records other numbers than full forwards at the
same states would give.
B rows, P prompt columns, G completion columns, L = P + G, C columns of a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.cache import full_features
from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.sampling.proposals import logp_of
from gdsd_jax.types import Array, Denoiser, Prompts, PyTree, Rollout


class Drift(NamedTuple):
    """|recorded - recomputed| over the tokens of the rows looked at, float32 nats."""

    mean: Array
    max: Array


def drift(
    denoiser: Denoiser, config: SamplerConfig, params: PyTree, prompts: Prompts, rollout: Rollout
) -> Drift:
    """The drift of a rollout, by one full forward of its rows for each of its passes.

    That costs as much as an exact rollout of these rows. Give it a share of them: `take_rows`.
    """
    features = full_features(denoiser, config, prompts.tokens_BxP.shape[1])
    width, columns_1xG = config.block_length, jnp.arange(config.gen_length)[None, :]
    cap = config.gen_length if prompts.max_length_B is None else prompts.max_length_B[:, None]
    exists_BxG = jnp.broadcast_to(columns_1xG < cap, rollout.tokens_BxG.shape)
    valid_BxL = jnp.concatenate([prompts.valid_BxP, exists_BxG], axis=1)
    inside_BxG = columns_1xG < rollout.length_B[:, None]
    step_BxG, written_BxG = rollout.uncut.step_map_BxG, rollout.uncut.tokens_BxG

    def one_pass(carry):
        number, total, worst = carry
        known_BxG = ((step_BxG > 0) & (step_BxG < number)) | ~exists_BxG
        state_BxG = jnp.where(known_BxG, written_BxG, denoiser.config.mask_id)
        now_BxG = step_BxG == number
        # each row is in a block of its own
        start_B = jnp.argmax(now_BxG, axis=1) // width * width
        place_BxC = start_B[:, None] + jnp.arange(width)[None, :]

        def at_block(x_BxG):
            return jnp.take_along_axis(x_BxG, place_BxC, axis=1)

        tokens_BxL = jnp.concatenate([prompts.tokens_BxP, state_BxG], axis=1)
        h_BxGxD = features(params, tokens_BxL, valid_BxL=valid_BxL)[:, -config.gen_length :]
        h_BxCxD = jnp.take_along_axis(h_BxGxD, place_BxC[..., None], axis=1)
        logp_BxC = logp_of(denoiser.unembed(params, h_BxCxD), at_block(written_BxG))
        difference_BxC = jnp.abs(logp_BxC - at_block(rollout.logp_BxG))
        difference_BxC = jnp.where(at_block(now_BxG & inside_BxG), difference_BxC, 0.0)
        worst = jnp.maximum(worst, jnp.max(difference_BxC))
        return number + 1, total + jnp.sum(difference_BxC), worst

    last = jnp.max(rollout.passes_B)
    _, total, worst = jax.lax.while_loop(lambda carry: carry[0] <= last, one_pass, (1, 0.0, 0.0))
    return Drift(total / jnp.maximum(jnp.sum(rollout.length_B), 1), worst)


def take_rows(tree: PyTree, count: int) -> PyTree:
    """`count` rows of every leaf [B, ...], evenly spread."""

    def take(x):
        return x[jnp.arange(count) * x.shape[0] // count]

    return jax.tree.map(take, tree)
