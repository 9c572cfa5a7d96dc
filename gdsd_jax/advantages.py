"""From rewards to advantages."""
import jax.numpy as jnp

from gdsd_jax.types import Array


def leave_one_out(rewards_B: Array, group_size: int, scale: bool = False) -> Array:
    """A_i = r_i - mean of the other completions of its prompt; consecutive rows are a group (specs/gdsd.md section 3.5).

    Args:
      rewards_B: float32; NaN counts as 0.
      group_size: completions per prompt, at least 2, a divisor of B.
      scale: divide by the group's unbiased standard deviation + 1e-4.
    """
    rewards_NxG = jnp.nan_to_num(rewards_B).reshape(-1, group_size)
    centred_NxG = rewards_NxG - jnp.mean(rewards_NxG, axis=1, keepdims=True)
    advantages_NxG = centred_NxG * group_size / (group_size - 1)
    if scale:
        advantages_NxG = advantages_NxG / (jnp.std(rewards_NxG, axis=1, keepdims=True, ddof=1) + 1e-4)
    return advantages_NxG.reshape(rewards_B.shape)
