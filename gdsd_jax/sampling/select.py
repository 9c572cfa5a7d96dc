"""Which masked positions a pass commits.

B rows, C columns.
"""

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


def sure_enough(probability_BxC: Array, masked_BxC: Array, threshold_B: Array) -> Array:
    """bool [B, C]: masked positions whose proposal is more probable than the row's threshold.

    A threshold of 1 or more commits none (arXiv 2606.06712).
    """
    return masked_BxC & (probability_BxC > threshold_B[:, None])
