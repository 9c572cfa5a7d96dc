"""What a sampler proposes for masked positions.

B rows, C columns, V vocabulary.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.sampling.noise import COLD_ORDER, GROUPS, MEMBERS, ORDER, fold_rows, row_gumbel
from gdsd_jax.types import Array

FORBIDDEN = -1e30  # finite, so that adding noise to it never makes a NaN
# the largest Gumbel number that uniform bfloat16 numbers give
BFLOAT16_END = 5.54
# A group has at most so many tokens, and fewer where the vocabulary's groups could not be shared
# by so many devices.
GROUP, SHARERS = 64, 8


class Proposal(NamedTuple):
    """One candidate a position, [B, C] each."""

    tokens_BxC: Array  # int32
    # float32 nats: of the raw logits; temperature 1, no guidance, nothing forbidden
    logp_BxC: Array
    # float32, of the guided logits at temperature 1: what a threshold is held against
    probability_BxC: Array
    order_BxC: Array  # float32, the highest are committed first


def guided(raw_BxCxV: Array, without_BxCxV: Array | None, scale: float) -> Array:
    """Classifier-free guidance: away from what the model would say `without` the prompt."""
    if without_BxCxV is None:
        return raw_BxCxV
    return without_BxCxV + (1 + scale) * (raw_BxCxV - without_BxCxV)


def tempered(logits_BxCxV: Array, temperature_B: Array, config: SamplerConfig, model) -> Array:
    """The scores whose softmax is sampled.

    Logits over the row's temperature, without the mask and what is no token, of the top-p set
    alone.
    """
    scores_BxCxV = logits_BxCxV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None, None]
    if not config.reference_quirks:
        forbidden_V = never_committed(model, logits_BxCxV.shape[-1])
        scores_BxCxV = jnp.where(forbidden_V[None, None], FORBIDDEN, scores_BxCxV)
    if config.top_p == 1:
        return scores_BxCxV
    # the likeliest token is the same either way, but not how confident its proposal is
    is_drawn_Bx1x1 = temperature_B[:, None, None] > 0
    return jnp.where(is_drawn_Bx1x1, nucleus(scores_BxCxV, config.top_p), scores_BxCxV)


def never_committed(model, vocab_size: int) -> Array:
    """bool [V]: the mask, and rows of the embedding that the tokenizer does not know."""
    token_V = jnp.arange(vocab_size)
    known = vocab_size if model.tokenizer_size is None else model.tokenizer_size
    is_mask_V = token_V == (-1 if model.mask_id is None else model.mask_id)
    return is_mask_V | (token_V >= known)


def nucleus(scores_BxCxV: Array, top_p: float) -> Array:
    """Forbids every token but the likeliest ones that together first exceed `top_p`, and those as
    likely as the last of them.

    At least one token stays.
    """
    p_BxCxV = jax.nn.softmax(scores_BxCxV, axis=-1)
    falling_BxCxV = -jnp.sort(-p_BxCxV, axis=-1)
    before_BxCxV = jnp.cumsum(falling_BxCxV, axis=-1) - falling_BxCxV
    least_BxC = jnp.min(jnp.where(before_BxCxV <= top_p, falling_BxCxV, jnp.inf), axis=-1)
    return jnp.where(p_BxCxV >= least_BxC[..., None], scores_BxCxV, FORBIDDEN)


def draw(scores_BxCxV: Array, rng_B: Array, temperature_B: Array, limit: float | None) -> Array:
    """int32 [B, C]: draws from softmax(scores); the likeliest where the temperature is 0.

    The token with the largest sum of score and Gumbel noise is such a draw. First a group of
    neighbouring tokens is drawn, whose score is its log-sum-exp, then one of its members. That is
    the same law, and it needs noise for few numbers in place of the whole vocabulary. With a
    `limit` the noise is cut there. The law then depends on it, so every token is a group of its
    own.
    """
    hot_Bx1x1 = temperature_B[:, None, None] > 0
    size = 1
    if limit is None:
        size = max(1, math.gcd(scores_BxCxV.shape[-1], GROUP * SHARERS) // SHARERS)
    score_BxCxNxS = scores_BxCxV.reshape(*scores_BxCxV.shape[:2], -1, size)
    noise_BxCxN = row_gumbel(fold_rows(rng_B, GROUPS), score_BxCxNxS.shape[1:3])
    if limit is not None:
        noise_BxCxN = jnp.minimum(noise_BxCxN, limit)
    drawn_BxCxN = jax.nn.logsumexp(score_BxCxNxS, axis=-1) + noise_BxCxN
    group_BxC = likeliest(jnp.where(hot_Bx1x1, drawn_BxCxN, jnp.max(score_BxCxNxS, axis=-1)))
    own_BxCxS = jnp.take_along_axis(score_BxCxNxS, group_BxC[..., None, None], axis=2)[..., 0, :]
    noise_BxCxS = row_gumbel(fold_rows(rng_B, MEMBERS), own_BxCxS.shape[1:])
    return size * group_BxC + likeliest(own_BxCxS + hot_Bx1x1 * noise_BxCxS)


def likeliest(scores_BxCxV: Array) -> Array:
    """int32 [B, C], the argmax.

    Computed by two reductions of one float each, which compilers vectorize. They do not vectorize
    the argmax, a reduction of pairs.
    """
    number_V = jnp.arange(scores_BxCxV.shape[-1], dtype=jnp.float32)  # exact below 2^24
    is_best_BxCxV = scores_BxCxV == jnp.max(scores_BxCxV, axis=-1, keepdims=True)
    best_BxCxV = jnp.where(is_best_BxCxV, number_V[None, None, :], number_V[-1])
    return jnp.min(best_BxCxV, axis=-1).astype(jnp.int32)


def logp_of(logits_BxCxV: Array, tokens_BxC: Array) -> Array:
    """float32 [B, C] nats of the tokens."""
    own_BxC = jnp.take_along_axis(logits_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
    return own_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)


def propose(
    config: SamplerConfig,
    order: Callable[..., Array],
    model,
    raw_BxCxV: Array,
    without_BxCxV: Array | None,
    temperature_B: Array,
    pass_rng_B: Array,
    block_rng_B: Array,
) -> Proposal:
    """Proposals from softmax(logits / temperature).

    Args:
      order: as in `sampling.orders`.
      model: the denoiser's config.
      raw_BxCxV: the model's logits.
      without_BxCxV: the logits without the prompt, for guidance, or None.
      pass_rng_B: keys of this pass.
      block_rng_B: keys of this block, the same in all its passes.
    """
    logits_BxCxV = guided(raw_BxCxV, without_BxCxV, config.cfg_scale)
    scores_BxCxV = tempered(logits_BxCxV, temperature_B, config, model)
    limit = BFLOAT16_END if config.reference_quirks and config.kind == "llada" else None
    tokens_BxC = draw(scores_BxCxV, pass_rng_B, temperature_B, limit)
    logp_BxC = logp_of(raw_BxCxV, tokens_BxC)
    sure_BxC = logp_BxC if without_BxCxV is None else logp_of(logits_BxCxV, tokens_BxC)
    probability_BxC = jnp.exp(sure_BxC)
    order_BxC = commit_order(
        config, order, scores_BxCxV, tokens_BxC, probability_BxC, pass_rng_B, block_rng_B
    )
    return Proposal(tokens_BxC, logp_BxC, probability_BxC, order_BxC)


def commit_order(
    config: SamplerConfig,
    order: Callable[..., Array],
    scores_BxCxV: Array,
    tokens_BxC: Array,
    probability_BxC: Array,
    pass_rng_B: Array,
    block_rng_B: Array,
) -> Array:
    """float32 [B, C], the highest are committed first: the order, under alg_temp with noise.

    Raises:
      ValueError: an order of another shape.
    """
    tempered_order = config.kind == "dream" and config.order != "origin" and config.alg_temp > 0
    if config.order == "origin":
        rng_B = block_rng_B
    elif tempered_order:
        rng_B = fold_rows(pass_rng_B, COLD_ORDER)
    else:
        rng_B = fold_rows(pass_rng_B, ORDER)
    order_BxC = order(config, scores_BxCxV, tokens_BxC, probability_BxC, rng_B)
    if order_BxC.shape != tokens_BxC.shape:
        raise ValueError(
            f"order={config.order}: ORDER gives shape {order_BxC.shape}, it must give [B, C], "
            f"here {tokens_BxC.shape}"
        )
    if not tempered_order:
        return order_BxC
    # the largest of scores with Gumbel noise are a draw without replacement from their softmax
    noise_BxC = row_gumbel(fold_rows(pass_rng_B, ORDER), tokens_BxC.shape[1:])
    return order_BxC / config.alg_temp + noise_BxC
