"""What the regressions tell of their moves."""

import jax.numpy as jnp

from gdsd_jax.types import Array


def shares(residual: Array, target: Array) -> dict[str, Array]:
    """How much of what the advantages ask for has been done; arrays that broadcast, nats a token.

    A move, within the trust region, is its residual and its target. 0 where nothing is asked for.
    Slices that ask for more weigh more.
    """
    residual, target = jnp.broadcast_arrays(residual, target)
    asked, size = jnp.mean(jnp.square(target)), jnp.mean(jnp.abs(target))
    done, left = jnp.mean((residual + target) * target), jnp.mean(jnp.abs(residual))
    return {
        "move_share": jnp.where(asked > 0, done / jnp.where(asked > 0, asked, 1.0), 0.0),
        "move_share_weight": asked,
        "residual_share": jnp.where(asked > 0, left / jnp.where(asked > 0, size, 1.0), 0.0),
        "residual_share_weight": size,
    }
