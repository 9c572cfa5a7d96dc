"""A sampler's noise: every number comes from its own row's key.

So no row depends on its neighbours. B rows.
"""

import jax
import jax.numpy as jnp

from gdsd_jax.types import Array

# A row's key is folded with the number of its pass, or with this plus the number of a block.
BLOCK_NOISE = 1 << 30
# A pass's key is folded with one of these, for what is drawn in the pass: a group of tokens, a
# member of the group, the order of positions, and an order that alg_temp then adds noise to.
GROUPS, MEMBERS, ORDER, COLD_ORDER = 0, 1, 2, 3


def fold_rows(rng_B: Array, number: Array | int) -> Array:
    """Each row's key folded with the row's own number [B], or all with one number."""
    return jax.vmap(jax.random.fold_in)(rng_B, jnp.broadcast_to(number, rng_B.shape))


def row_gumbel(rng_B: Array, shape: tuple[int, ...]) -> Array:
    """Standard Gumbel noise, float32 [B, *shape], drawn row by row."""
    return jax.vmap(lambda rng: jax.random.gumbel(rng, shape, jnp.float32))(rng_B)


def row_uniform(rng_B: Array, shape: tuple[int, ...]) -> Array:
    """Uniform noise in [0, 1), float32 [B, *shape], drawn row by row."""
    return jax.vmap(lambda rng: jax.random.uniform(rng, shape))(rng_B)
