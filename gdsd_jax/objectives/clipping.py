"""What the clipped objectives share: PPO's gain, the k3 divergence, the token-level loss.

B rows, K views, G completion columns; nats.
"""

import jax
import jax.numpy as jnp

from gdsd_jax.types import Array

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


def token_loss(
    logp_KxBxG: Array,
    old_KxBxG: Array | None,
    ref_KxBxG: Array | None,
    advantage_B: Array,
    counted_BxG: Array,
    config,
) -> tuple[Array, dict[str, Array]]:
    """GRPO on token log-probabilities: (loss, metrics).

    The loss is - mean over counted tokens of the clipped gain less beta k3. Old or reference
    scores that are None are the present ones, without gradient.
    """
    present_KxBxG = jax.lax.stop_gradient(logp_KxBxG)
    if old_KxBxG is None:
        old_KxBxG = present_KxBxG
    if ref_KxBxG is None:
        ref_KxBxG = present_KxBxG
    weight_1xBxG = counted_BxG[None].astype(jnp.float32)

    def mean(x_KxBxG):
        return jnp.sum(x_KxBxG * weight_1xBxG) / (jnp.sum(weight_1xBxG) * logp_KxBxG.shape[0])

    gain_KxBxG, outside_KxBxG = clipped_gain(
        logp_KxBxG - old_KxBxG, advantage_B[None, :, None], config.epsilon_low, config.epsilon_high
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
