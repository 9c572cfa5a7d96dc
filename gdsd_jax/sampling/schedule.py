"""How many positions a denoising pass commits."""

from gdsd_jax.types import Array


def quota(masked_B: Array, step: Array, steps: int) -> Array:
    """Positions to commit at `step` of `steps` when `masked_B` were masked at the start: even, remainder first.

    int32 [B]. 8 positions in 3 steps are 3, 3, 2 (specs/gdsd.md section 7.1).
    """
    return masked_B // steps + (step < masked_B % steps)
