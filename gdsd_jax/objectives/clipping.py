"""What the clipped objectives share: PPO's gain, the k3 divergence, the token-level loss.

B rows, K views, G completion columns; nats.
"""

import jax
import jax.numpy as jnp

from gdsd_jax.scoring import counted, counted_length
from gdsd_jax.types import Array, Batch

LOG_LARGEST = 20.0  # of ratios, so that exp does not overflow


def clipped_gain(
    log_ratio: Array, advantage: Array, low: float, high: float
) -> tuple[Array, Array]:
    """(min(r A, clip(r, 1 - low, 1 + high) A), bool where the clip decides).

    The clip passes no gradient.
    """
    ratio = jnp.exp(jnp.minimum(log_ratio, LOG_LARGEST))
    gain = ratio * advantage
    limit = jnp.clip(jax.lax.stop_gradient(ratio), 1 - low, 1 + high) * advantage
    outside = limit < gain
    return jnp.where(outside, limit, gain), outside


def k3(logp: Array, reference: Array) -> Array:
    """exp(d) - d - 1 with d = reference - logp: an estimate of KL(p || reference).

    It is never negative.
    """
    d = jnp.minimum(reference - logp, LOG_LARGEST)
    return jnp.exp(d) - d - 1


def tokens(config, batch: Batch) -> Array:
    """Counted tokens of the rows, float32, at least 1."""
    return jnp.maximum(jnp.sum(counted_length(batch, config.count)), 1).astype(jnp.float32)


def token_loss(logp_KxBxG: Array, batch: Batch, config) -> tuple[Array, dict[str, Array]]:
    """GRPO on token log-probabilities: (loss, metrics).

    The loss is - mean over counted tokens of the clipped gain less beta k3. Old or reference
    scores that are None are the present ones, without gradient.
    """
    present_KxBxG = jax.lax.stop_gradient(logp_KxBxG)
    old_KxBxG = present_KxBxG if batch.old_KxB is None else batch.old_KxB
    ref_KxBxG = present_KxBxG if batch.ref_KxB is None else batch.ref_KxB
    counted_BxG = counted(batch, config.count)
    count = tokens(config, batch) if batch.mean_count is None else batch.mean_count

    def mean(x_KxBxG):
        return jnp.sum(x_KxBxG * counted_BxG[None]) / (count * logp_KxBxG.shape[0])

    gain_KxBxG, outside_KxBxG = clipped_gain(
        logp_KxBxG - old_KxBxG,
        batch.advantages_B[None, :, None],
        config.epsilon_low,
        config.epsilon_high,
    )
    kl = mean(k3(logp_KxBxG, ref_KxBxG))
    outside_KxBxG &= counted_BxG[None]
    metrics = {
        "score": mean(logp_KxBxG),
        "kl": kl,
        "trust": jnp.mean(jnp.any(outside_KxBxG, axis=(0, 2))),
        "clipped": mean(outside_KxBxG),
    }
    return config.beta * kl - mean(gain_KxBxG), metrics
