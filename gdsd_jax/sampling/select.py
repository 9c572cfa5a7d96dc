"""Which masked positions of the current block are committed. B rows, C block columns."""
import jax.numpy as jnp

from gdsd_jax.types import Array


def most_confident(confidence_BxC: Array, masked_BxC: Array, count_B: Array) -> Array:
    """bool [B, C]: the `count_B` masked positions of highest confidence, ties by lowest column."""
    score_BxC = jnp.where(masked_BxC, confidence_BxC, -jnp.inf)
    columns_C = jnp.arange(score_BxC.shape[1])
    rival, own = score_BxC[:, None, :], score_BxC[:, :, None]
    earlier = (columns_C[None, :] < columns_C[:, None])[None]
    rank_BxC = jnp.sum((rival > own) | ((rival == own) & earlier), axis=-1)
    return masked_BxC & (rank_BxC < count_B[:, None])


def commit_count(quota_B: Array, confidence_BxC: Array, masked_BxC: Array, threshold_B: Array) -> Array:
    """The quota, or more where more proposals reach the row's threshold (a probability; inf = off)."""
    sure_BxC = masked_BxC & (confidence_BxC >= threshold_B[:, None])
    return jnp.maximum(quota_B, jnp.sum(sure_BxC, axis=-1))
