"""From rewards to advantages, and softmax over the completions of a prompt."""

import jax.numpy as jnp
import numpy as np

from gdsd_jax.types import Array

# stands for the reward of an answer without a verdict; finite, as all that a checkpoint holds
NO_VERDICT = np.finfo(np.float32).min


def from_group_mean(
    rewards_B: Array, group_size: int, scale: bool = False, judged_B: Array | None = None
) -> Array:
    """A_i = r_i - mean over the completions of its prompt, float32 [B].

    Consecutive rows are a group. Where all its rewards are equal, A is exactly 0.

    Args:
      rewards_B: float32; where it is not finite there is no verdict.
      group_size: completions per prompt, at least 2, a divisor of B.
      scale: divide by the group's unbiased standard deviation + 1e-4.
      judged_B: bool, False where there is no verdict: the row enters no mean, its advantage is 0.
        None = all True.
    """
    judged_NxG = known(rewards_B, judged_B).reshape(-1, group_size)
    rewards_NxG = rewards_B.reshape(judged_NxG.shape)
    # counted from the least one, since the mean of equal numbers is not always that number
    least_Nx1 = jnp.min(rewards_NxG, axis=1, keepdims=True, where=judged_NxG, initial=jnp.inf)
    rewards_NxG = jnp.where(judged_NxG, rewards_NxG - least_Nx1, 0.0)
    # without any verdict a group's mean is over nothing
    mean_Nx1 = jnp.nan_to_num(jnp.mean(rewards_NxG, axis=1, keepdims=True, where=judged_NxG))
    advantages_NxG = rewards_NxG - mean_Nx1
    if scale:
        spread_Nx1 = jnp.std(rewards_NxG, axis=1, keepdims=True, ddof=1, where=judged_NxG)
        advantages_NxG = advantages_NxG / (jnp.nan_to_num(spread_Nx1) + 1e-4)
    return jnp.where(judged_NxG, advantages_NxG, 0.0).reshape(rewards_B.shape)


def leave_one_out(
    rewards_B: Array, group_size: int, scale: bool = False, judged_B: Array | None = None
) -> Array:
    """A_i = r_i - mean of the other completions of its prompt, float32 [B].

    That is n / (n - 1) times `from_group_mean`, whose arguments it takes, with n the completions of
    the prompt that were judged (arXiv 2605.29398).
    """
    advantages_B = from_group_mean(rewards_B, group_size, scale, judged_B)
    judged_NxG = known(rewards_B, judged_B).reshape(-1, group_size)
    count_Nx1 = jnp.sum(judged_NxG, axis=1, keepdims=True)
    factor_Nx1 = count_Nx1 / jnp.maximum(count_Nx1 - 1, 1)
    return (advantages_B.reshape(-1, group_size) * factor_Nx1).reshape(rewards_B.shape)


def known(rewards_B: Array, judged_B: Array | None) -> Array:
    """bool [B], where there is a verdict."""
    finite_B = jnp.isfinite(rewards_B)
    return finite_B if judged_B is None else finite_B & judged_B


BASELINES = {"leave_one_out": leave_one_out, "mean": from_group_mean}


def group_softmax(x_B: Array, group_B: Array | None, rewards_B: Array | None = None) -> Array:
    """softmax of x over the rows of the same group, float32 [B]; None: all rows are one group.

    Where a reward says that there is no verdict the row has no weight; in a group of such rows
    alone none has.
    """
    if group_B is None:
        group_B = jnp.zeros(x_B.shape, jnp.int32)
    among_BxB = group_B[:, None] == group_B[None, :]
    if rewards_B is not None:
        among_BxB &= known(rewards_B, rewards_B > NO_VERDICT)[None, :]
    x_BxB = jnp.where(among_BxB, x_B[None, :], -jnp.inf)
    best_Bx1 = jnp.maximum(jnp.max(x_BxB, axis=1, keepdims=True), jnp.finfo(jnp.float32).min)
    weights_BxB = jnp.exp(x_BxB - best_Bx1)
    total_B = jnp.sum(weights_BxB, axis=1)
    return jnp.diagonal(weights_BxB) / jnp.where(total_B > 0, total_B, 1.0)


def used_share(weights_B: Array) -> Array:
    """The effective sample size of weights, (sum w)^2 / sum w^2, a share of the rows."""
    square = jnp.sum(jnp.square(weights_B))
    used = jnp.square(jnp.sum(weights_B)) / jnp.where(square > 0, square, 1.0)
    return used / len(weights_B)


def group_count(group_B: Array | None) -> Array:
    """How many groups there are, float32; None: one."""
    if group_B is None:
        return jnp.float32(1.0)
    return jnp.sum(1.0 / jnp.sum(group_B[:, None] == group_B[None, :], axis=1))
