"""How many positions a denoising pass commits.

quota_BxS, of B rows at each of the S steps of a block.
"""

import jax.numpy as jnp
import numpy as np

from gdsd_jax.types import Array

EPSILON = 1e-3  # where Dream's time ends


def even(begun_B: Array, steps: int) -> Array:
    """LLaDA's quota: the positions masked when the block began, spread evenly, remainder first.

    int32 [B, S] of `begun_B` positions. 8 positions in 3 steps are 3, 3, 2.
    """
    return begun_B[:, None] // steps + (jnp.arange(steps)[None, :] < begun_B[:, None] % steps)


def half_even(count: int, steps: int) -> tuple[int, ...]:
    """The released block samplers' quota: what is left over the steps left, rounded half to even.

    Zeros are dropped. 8 positions in 3 steps are 3, 2, 3.
    """
    quotas = []
    for left in range(steps, 0, -1):
        quotas.append(round(count / left))
        count -= quotas[-1]
    return tuple(quota for quota in quotas if quota > 0)


def dream_times(steps: int) -> np.ndarray:
    """Dream's noise levels t_0 = 1 .. t_S, float32 [S + 1]."""
    return np.linspace(1.0, EPSILON, steps + 1, dtype=np.float32)


def dream(masked_B: Array, steps: int) -> Array:
    """Dream's quota: floor(m (1 - t_{i+1} / t_i)) of the m positions masked now.

    int32 [B, S]. The last step takes all. `masked_B` may be a mean, float32.
    """
    times = dream_times(steps)
    shares = 1 - times[1:] / times[:-1]
    share_S = jnp.asarray(np.append(shares[:-1], np.float32(1)))
    return jnp.floor(masked_B[:, None].astype(jnp.float32) * share_S[None, :]).astype(jnp.int32)


def dream_origin(noise_BxC: Array, masked_BxC: Array, steps: int) -> Array:
    """How many masked positions are due at each step under Dream's "origin", int32 [B, S].

    Each position is committed at step i with probability 1 - t_{i+1} / t_i. It survives the steps
    up to i with probability t_{i+1}, so one uniform number decides its step at once.
    """
    survive_S = jnp.asarray(np.append(dream_times(steps)[1:-1], np.float32(-1)))
    due_BxSxC = noise_BxC[:, None, :] > survive_S[None, :, None]
    return jnp.sum(due_BxSxC & masked_BxC[:, None, :], axis=-1)


def next_quota(quota_BxS: Array, step_B: Array) -> tuple[Array, Array]:
    """(step, its quota), both int32 [B]: the first step from `step_B` on that commits anything.

    A pass that commits nothing would leave the state as it was, so it is left out.
    """
    waiting_BxS = (quota_BxS > 0) & (jnp.arange(quota_BxS.shape[1])[None, :] >= step_B[:, None])
    return at_step(quota_BxS, jnp.argmax(waiting_BxS, axis=1))


def at_step(quota_BxS: Array, step_B: Array) -> tuple[Array, Array]:
    """(step, its quota) exactly at `step_B`."""
    return step_B, jnp.take_along_axis(quota_BxS, step_B[:, None], axis=1)[:, 0]
