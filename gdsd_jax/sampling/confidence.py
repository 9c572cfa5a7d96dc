"""What a sampler proposes for masked positions, and how sure of it it is. B rows, C block columns, V vocabulary."""
import jax
import jax.numpy as jnp

from gdsd_jax.types import Array

FORBIDDEN = -1e30  # finite, so that adding noise to it never makes a NaN


def fold_rows(rng_B: Array, number_B: Array) -> Array:
    """Each row's key folded with the row's own number: no row's noise depends on its neighbours."""
    return jax.vmap(jax.random.fold_in)(rng_B, number_B)


def row_gumbel(rng_B: Array, shape: tuple[int, ...]) -> Array:
    """Standard Gumbel noise, float32 [B, *shape], drawn row by row."""
    return jax.vmap(lambda rng: jax.random.gumbel(rng, shape, jnp.float32))(rng_B)


def propose(logits_BxCxV: Array, rng_B: Array, temperature_B: Array, mask_id: int) -> tuple[Array, Array]:
    """Tokens sampled from softmax(logits / temperature) and their plain log-probabilities.

    The mask id is never proposed; the log-probability is of the raw logits (temperature 1, nothing forbidden).

    Returns:
      int32 [B, C] tokens and float32 [B, C] nats.
    """
    is_mask_1x1xV = (jnp.arange(logits_BxCxV.shape[-1]) == mask_id)[None, None]
    scores = jnp.where(is_mask_1x1xV, FORBIDDEN, logits_BxCxV)
    scores = jax.lax.cond(  # greedy batches do not pay for noise
        jnp.any(temperature_B > 0),
        lambda: scores + temperature_B[:, None, None] * row_gumbel(rng_B, scores.shape[1:]),
        lambda: scores,
    )
    tokens_BxC = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
    return tokens_BxC, chosen - jax.nn.logsumexp(logits_BxCxV, axis=-1)


def low_confidence(logp_BxC: Array, rng_B: Array) -> Array:
    """Confidence is the model's own probability of the proposal; the least sure stay masked."""
    return jnp.exp(logp_BxC)


def random(logp_BxC: Array, rng_B: Array) -> Array:
    """Confidence is uniform noise: positions are committed in random order."""
    return jax.vmap(lambda rng: jax.random.uniform(rng, logp_BxC.shape[1:]))(rng_B)


REMASKING = {"low_confidence": low_confidence, "random": random}
