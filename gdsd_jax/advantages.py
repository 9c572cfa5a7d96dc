"""From rewards to advantages, and softmax over the completions of a prompt."""

import jax.numpy as jnp

from gdsd_jax.types import Array


def from_group_mean(rewards_B: Array, group_size: int, scale: bool = False) -> Array:
    """A_i = r_i - mean over the completions of its prompt, float32 [B].

    Consecutive rows are a group.

    Args:
      rewards_B: float32; NaN counts as 0.
      group_size: completions per prompt, at least 2, a divisor of B.
      scale: divide by the group's unbiased standard deviation + 1e-4.
    """
    rewards_NxG = jnp.nan_to_num(rewards_B).reshape(-1, group_size)
    advantages_NxG = rewards_NxG - jnp.mean(rewards_NxG, axis=1, keepdims=True)
    if scale:
        spread_Nx1 = jnp.std(rewards_NxG, axis=1, keepdims=True, ddof=1)
        advantages_NxG = advantages_NxG / (spread_Nx1 + 1e-4)
    return advantages_NxG.reshape(rewards_B.shape)


def leave_one_out(rewards_B: Array, group_size: int, scale: bool = False) -> Array:
    """A_i = r_i - mean of the other completions of its prompt, float32 [B].

    That is G / (G - 1) times `from_group_mean` (arXiv 2605.29398).
    """
    return from_group_mean(rewards_B, group_size, scale) * (group_size / (group_size - 1))


BASELINES = {"leave_one_out": leave_one_out, "mean": from_group_mean}


def group_softmax(x_B: Array, group_B: Array | None) -> Array:
    """softmax of x over the rows of the same group, float32 [B]; None: all rows are one group."""
    if group_B is None:
        group_B = jnp.zeros(x_B.shape, jnp.int32)
    x_BxB = jnp.where(group_B[:, None] == group_B[None, :], x_B[None, :], -jnp.inf)
    weights_BxB = jnp.exp(x_BxB - jnp.max(x_BxB, axis=1, keepdims=True))
    return jnp.diagonal(weights_BxB) / jnp.sum(weights_BxB, axis=1)


def group_count(group_B: Array | None) -> Array:
    """How many groups there are, float32; None: one."""
    if group_B is None:
        return jnp.float32(1.0)
    return jnp.sum(1.0 / jnp.sum(group_B[:, None] == group_B[None, :], axis=1))
