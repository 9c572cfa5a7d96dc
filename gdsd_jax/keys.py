"""Random keys: one for each use of randomness, and one for each completion."""

import jax

from gdsd_jax.types import Array

# what randomness is for; a new stream at the end changes no other, and "shuffle", from which nobody
# draws, keeps the places of those behind it
STREAMS = ("init", "sft", "rollout", "masks", "shuffle", "evaluation", "probe")


@jax.jit
def make_keys(seed_key: Array, number: Array) -> dict[str, Array]:
    """A key for each use of randomness, folded with the number of the round or step."""
    return {
        name: jax.random.fold_in(jax.random.fold_in(seed_key, stream), number)
        for stream, name in enumerate(STREAMS)
    }


def row_keys(rng: Array, index_B: Array, sample_B: Array) -> Array:
    """One key a row, from the global index of its prompt and the number of its completion among
    the prompt's."""

    def fold(index, sample):
        return jax.random.fold_in(jax.random.fold_in(rng, index), sample)

    return jax.vmap(fold)(index_B, sample_B)
