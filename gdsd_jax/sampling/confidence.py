"""What a sampler proposes for masked positions, and who is committed first. B rows, C columns, V
vocabulary."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.types import Array

FORBIDDEN = -1e30  # finite, so that adding noise to it never makes a NaN
# the largest Gumbel number that uniform bfloat16 numbers give (specs/gdsd.md section 11.12)
BFLOAT16_END = 5.54
# a row's key for a block is folded with this and the block, for a pass with the pass
BLOCK_NOISE = 1 << 30
GROUPS, MEMBERS, ORDER = 0, 1, 2  # a pass's key is folded with these for what is drawn in it
# tokens at most, fewer where else so many devices could not share whole groups
GROUP, SHARERS = 64, 8


class Proposal(NamedTuple):
    """One candidate a position, [B, C] each."""

    tokens_BxC: Array  # int32
    # float32 nats: of the raw logits; temperature 1, no guidance, nothing forbidden
    logp_BxC: Array
    # float32, of the guided logits at temperature 1: what a threshold is held against
    probability_BxC: Array
    order_BxC: Array  # float32, the highest are committed first


def fold_rows(rng_B: Array, number: Array | int) -> Array:
    """Each row's key folded with the row's own number [B], or all with one: no row's noise depends
    on its neighbours."""
    return jax.vmap(jax.random.fold_in)(rng_B, jnp.broadcast_to(number, rng_B.shape))


def row_gumbel(rng_B: Array, shape: tuple[int, ...]) -> Array:
    """Standard Gumbel noise, float32 [B, *shape], drawn row by row."""
    return jax.vmap(lambda rng: jax.random.gumbel(rng, shape, jnp.float32))(rng_B)


def row_uniform(rng_B: Array, shape: tuple[int, ...]) -> Array:
    """Uniform noise in [0, 1), float32 [B, *shape], drawn row by row."""
    return jax.vmap(lambda rng: jax.random.uniform(rng, shape))(rng_B)


def guided(raw_BxCxV: Array, without_BxCxV: Array | None, scale: float) -> Array:
    """Classifier-free guidance: away from what the model would say `without` the prompt."""
    return (
        raw_BxCxV
        if without_BxCxV is None
        else without_BxCxV + (1 + scale) * (raw_BxCxV - without_BxCxV)
    )


def tempered(
    logits_BxCxV: Array, temperature_B: Array, config: SamplerConfig, mask_id: int
) -> Array:
    """The scores whose softmax is sampled: over the row's temperature, without the mask id, the
    top-p set alone."""
    scores_BxCxV = logits_BxCxV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None, None]
    if not config.reference_quirks:
        is_mask_V = jnp.arange(logits_BxCxV.shape[-1]) == mask_id
        scores_BxCxV = jnp.where(is_mask_V[None, None], FORBIDDEN, scores_BxCxV)
    return scores_BxCxV if config.top_p == 1 else nucleus(scores_BxCxV, config.top_p)


def nucleus(scores_BxCxV: Array, top_p: float) -> Array:
    """Forbids every token but the likeliest ones that together first exceed `top_p`; at least one
    stays."""
    falling_BxCxV = -jnp.sort(-jax.nn.softmax(scores_BxCxV, axis=-1), axis=-1)
    before_BxCxV = jnp.cumsum(falling_BxCxV, axis=-1) - falling_BxCxV
    least_BxC = jnp.min(jnp.where(before_BxCxV <= top_p, falling_BxCxV, jnp.inf), axis=-1)
    return jnp.where(
        jax.nn.softmax(scores_BxCxV, axis=-1) >= least_BxC[..., None], scores_BxCxV, FORBIDDEN
    )


def sample(scores_BxCxV: Array, rng_B: Array, temperature_B: Array, limit: float | None) -> Array:
    """int32 [B, C]: draws from softmax(scores); the likeliest where the temperature is 0.

    The largest of scores with Gumbel noise are such draws. Drawn are first a group of neighbouring
    tokens, whose score is its log-sum-exp, then one of its members: the same law, and noise for few
    numbers in place of the whole vocabulary. With a `limit` the noise is cut there and every token
    is a group of its own, as the law then depends on it.
    """
    hot_Bx1x1 = temperature_B[:, None, None] > 0
    size = (
        1
        if limit is not None
        else max(1, math.gcd(scores_BxCxV.shape[-1], GROUP * SHARERS) // SHARERS)
    )
    score_BxCxNxS = scores_BxCxV.reshape(*scores_BxCxV.shape[:2], -1, size)
    noise_BxCxN = row_gumbel(fold_rows(rng_B, GROUPS), score_BxCxNxS.shape[1:3])
    noise_BxCxN = noise_BxCxN if limit is None else jnp.minimum(noise_BxCxN, limit)
    drawn_BxCxN = jax.nn.logsumexp(score_BxCxNxS, axis=-1) + noise_BxCxN
    group_BxC = likeliest(jnp.where(hot_Bx1x1, drawn_BxCxN, jnp.max(score_BxCxNxS, axis=-1)))
    own_BxCxS = jnp.take_along_axis(score_BxCxNxS, group_BxC[..., None, None], axis=2)[..., 0, :]
    noise_BxCxS = row_gumbel(fold_rows(rng_B, MEMBERS), own_BxCxS.shape[1:])
    return size * group_BxC + likeliest(own_BxCxS + hot_Bx1x1 * noise_BxCxS)


def likeliest(scores_BxCxV: Array) -> Array:
    """int32 [B, C], the argmax; by two reductions of one float each, which compilers vectorize,
    unlike its pair."""
    number_V = jnp.arange(scores_BxCxV.shape[-1], dtype=jnp.float32)  # exact below 2^24
    is_best_BxCxV = scores_BxCxV == jnp.max(scores_BxCxV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_best_BxCxV, number_V[None, None, :], number_V[-1]), axis=-1).astype(
        jnp.int32
    )


def logp_of(logits_BxCxV: Array, tokens_BxC: Array) -> Array:
    """float32 [B, C] nats of the tokens."""
    own_BxC = jnp.take_along_axis(logits_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
    return own_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)


def propose(
    raw_BxCxV,
    without_BxCxV,
    rng_B,
    temperature_B,
    config: SamplerConfig,
    mask_id: int,
    order_BxC=None,
) -> Proposal:
    """Proposals from softmax(logits / temperature), with noise of the pass's own key `rng_B`.

    `without_BxCxV` are the logits without the prompt, for guidance, or None. An `order_BxC` that is
    given stands.
    """
    logits_BxCxV = guided(raw_BxCxV, without_BxCxV, config.cfg_scale)
    scores_BxCxV = tempered(logits_BxCxV, temperature_B, config, mask_id)
    limit = BFLOAT16_END if config.reference_quirks and config.kind == "llada" else None
    tokens_BxC = sample(scores_BxCxV, rng_B, temperature_B, limit)
    logp_BxC = logp_of(raw_BxCxV, tokens_BxC)
    probability_BxC = jnp.exp(
        logp_BxC if without_BxCxV is None else logp_of(logits_BxCxV, tokens_BxC)
    )
    if order_BxC is None:
        order = dream_order if config.kind == "dream" else llada_order
        order_BxC = order(
            config, scores_BxCxV, tokens_BxC, probability_BxC, fold_rows(rng_B, ORDER)
        )
    return Proposal(tokens_BxC, logp_BxC, probability_BxC, order_BxC)


def llada_order(
    config: SamplerConfig, scores_BxCxV, tokens_BxC, probability_BxC: Array, rng_B: Array
) -> Array:
    """The model's own probability of the proposal, so that the least sure stay masked; or noise."""
    return (
        probability_BxC
        if config.remasking == "low_confidence"
        else row_uniform(rng_B, probability_BxC.shape[1:])
    )


def dream_order(
    config: SamplerConfig, scores_BxCxV: Array, tokens_BxC: Array, probability_BxC, rng_B: Array
) -> Array:
    """Dream's confidences, of the distribution that is sampled (specs/gdsd.md section 7.2)."""
    p_BxCxV = jax.nn.softmax(scores_BxCxV, axis=-1)
    if config.alg == "entropy":
        order_BxC = jnp.sum(p_BxCxV * jnp.log(p_BxCxV + 1e-10), axis=-1)
    elif config.alg == "maskgit_plus":
        order_BxC = jnp.take_along_axis(p_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
    else:
        order_BxC = -jnp.diff(jax.lax.top_k(p_BxCxV, 2)[0], axis=-1)[..., 0]
    if config.alg_temp == 0:
        return order_BxC
    # the largest of scores with Gumbel noise are a draw without replacement from their softmax
    return order_BxC / config.alg_temp + row_gumbel(rng_B, tokens_BxC.shape[1:])
