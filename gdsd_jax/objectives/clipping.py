"""What the clipped objectives share: PPO's gain, the k3 divergence, and its losses on tokens and on
whole sequences.

B rows, K views, G completion columns; nats.
"""

import jax
import jax.numpy as jnp

from gdsd_jax.scoring import counted_length, row_mean, score_length
from gdsd_jax.types import Array, Batch

LOG_LARGEST = 20.0  # nats, of ratios: up to there exp does not overflow


def bounded_exp(x: Array) -> Array:
    """exp(x), of at most `LOG_LARGEST`."""
    return jnp.exp(jnp.minimum(x, LOG_LARGEST))


def extended_exp(x: Array) -> Array:
    """exp(x), from `LOG_LARGEST` on its tangent there: `bounded_exp` is its derivative."""
    return bounded_exp(x) * (1 + jnp.maximum(x - LOG_LARGEST, 0.0))


def clipped_gain(
    log_ratio: Array, advantage: Array, low: float, high: float
) -> tuple[Array, Array]:
    """(min(r A, clip(r, 1 - low, 1 + high) A), bool where the clip decides).

    The clip passes no gradient.
    """
    ratio = bounded_exp(log_ratio)
    gain = ratio * advantage
    limit = jnp.clip(jax.lax.stop_gradient(ratio), 1 - low, 1 + high) * advantage
    outside = limit < gain
    return jnp.where(outside, limit, gain), outside


def k3(logp: Array, reference: Array) -> Array:
    """exp(d) - d - 1 with d = reference - logp: an estimate of KL(p || reference).

    It is never negative but for its rounding.
    """
    d = reference - logp
    return extended_exp(d) - d - 1


def tokens(config, batch: Batch) -> Array:
    """Counted tokens of the rows, float32, at least 1."""
    return jnp.maximum(jnp.sum(counted_length(batch, config.count)), 1).astype(jnp.float32)


def token_loss(
    logp_KxBxG: Array, batch: Batch, config, weights_KxBxG: Array
) -> tuple[Array, dict[str, Array]]:
    """GRPO on token log-probabilities: (loss, metrics).

    The loss is - mean over counted tokens of the clipped gain less beta k3. Old or reference
    scores that are None are the present ones, without gradient.

    Args:
      logp_KxBxG: of the tokens.
      batch: with advantages.
      config: with `epsilon_low`, `epsilon_high` and `beta`.
      weights_KxBxG: [K, B, G] or [1, B, G]: bool, the tokens that count; or float32, as how many
        tokens each of them counts, 0 = not at all.
    """
    present_KxBxG = jax.lax.stop_gradient(logp_KxBxG)
    old_KxBxG = present_KxBxG if batch.old_KxB is None else batch.old_KxB
    ref_KxBxG = present_KxBxG if batch.ref_KxB is None else batch.ref_KxB
    weights_KxBxG = jnp.broadcast_to(weights_KxBxG, logp_KxBxG.shape)
    count = batch.mean_count
    if count is None:
        count = jnp.maximum(jnp.sum(weights_KxBxG) / len(logp_KxBxG), 1)

    def mean(x_KxBxG):
        return jnp.sum(x_KxBxG * weights_KxBxG) / (count * len(logp_KxBxG))

    gain_KxBxG, outside_KxBxG = clipped_gain(
        logp_KxBxG - old_KxBxG,
        batch.advantages_B[None, :, None],
        config.epsilon_low,
        config.epsilon_high,
    )
    kl = mean(k3(logp_KxBxG, ref_KxBxG))
    outside_KxBxG &= weights_KxBxG > 0
    metrics = {
        "score": mean(logp_KxBxG),
        "kl": kl,
        "trust": jnp.mean(jnp.any(outside_KxBxG, axis=(0, 2))),
        "clipped": mean(outside_KxBxG),
    }
    return config.beta * kl - mean(gain_KxBxG), metrics


def sequence_loss(score_KxB: Array, batch: Batch, config) -> tuple[Array, dict[str, Array]]:
    """PPO on the scores of whole sequences, means over the draws: (loss, metrics).

    The loss is - mean min(r A, clip(r) A) + beta mean (l - l_ref)^2 / 2L with
    r = exp((l - l_old) / L). `config` has `epsilon_low`, `epsilon_high`, `beta` and `count`.
    """
    score_B = jnp.mean(score_KxB, axis=0)
    present_B = jax.lax.stop_gradient(score_B)
    old_B = present_B if batch.old_KxB is None else jnp.mean(batch.old_KxB, axis=0)
    ref_B = present_B if batch.ref_KxB is None else jnp.mean(batch.ref_KxB, axis=0)
    length_B = score_length(batch, config.count)

    move_B = (score_B - old_B) / length_B
    gain_B, outside_B = clipped_gain(
        move_B, batch.advantages_B, config.epsilon_low, config.epsilon_high
    )
    kl = row_mean(0.5 * jnp.square(score_B - ref_B) / length_B, batch, config)
    metrics = {
        "score": row_mean(score_B / length_B, batch, config),
        "kl": kl,
        "trust": row_mean(outside_B.astype(jnp.float32), batch, config),
        "move": row_mean(jnp.abs(move_B), batch, config),
    }
    return config.beta * kl - row_mean(gain_B, batch, config), metrics
