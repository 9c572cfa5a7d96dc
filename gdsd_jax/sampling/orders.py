"""Which masked positions are committed first: a function for each order.

B rows, C columns, V vocabulary. An order is a function

  (config, scores_BxCxV, tokens_BxC, probability_BxC, rng_B) -> order_BxC

whose result is float32, the highest first. `config` is the `SamplerConfig`, `scores_BxCxV` the
float32 scores whose softmax is sampled (tempered, with what may not be drawn far below the rest),
`tokens_BxC` the proposals, `probability_BxC` the model's own probability of each proposal at
temperature 1, and `rng_B` a key for each row. A row's order may depend on that row alone. A file
outside the package may define ORDER, such a function.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gdsd_jax import extensions
from gdsd_jax.sampling.noise import row_uniform
from gdsd_jax.types import Array


def low_confidence(config, scores_BxCxV, tokens_BxC, probability_BxC: Array, rng_B) -> Array:
    """The model's own probability of the proposal: the least sure stay masked (LLaDA)."""
    return probability_BxC


def random(config, scores_BxCxV, tokens_BxC: Array, probability_BxC, rng_B: Array) -> Array:
    """Noise, anew in each pass (LLaDA)."""
    return row_uniform(rng_B, tokens_BxC.shape[1:])


def left_to_right(config, scores_BxCxV, tokens_BxC: Array, probability_BxC, rng_B) -> Array:
    """The first of the block's columns that is masked, as an autoregressive model writes."""
    order_C = -jnp.arange(tokens_BxC.shape[1], dtype=jnp.float32)
    return jnp.broadcast_to(order_C[None, :], tokens_BxC.shape)


def entropy(config, scores_BxCxV: Array, tokens_BxC, probability_BxC, rng_B) -> Array:
    """The negative entropy of the distribution that is sampled, nats (Dream)."""
    p_BxCxV = jax.nn.softmax(scores_BxCxV, axis=-1)
    return jnp.sum(p_BxCxV * jnp.log(p_BxCxV + 1e-10), axis=-1)


def maskgit_plus(config, scores_BxCxV: Array, tokens_BxC: Array, probability_BxC, rng_B) -> Array:
    """The proposal's probability under the distribution that is sampled (Dream)."""
    p_BxCxV = jax.nn.softmax(scores_BxCxV, axis=-1)
    return jnp.take_along_axis(p_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]


def topk_margin(config, scores_BxCxV: Array, tokens_BxC, probability_BxC, rng_B) -> Array:
    """The two largest probabilities' difference, of the distribution that is sampled (Dream)."""
    p_BxCxV = jax.nn.softmax(scores_BxCxV, axis=-1)
    return -jnp.diff(jax.lax.top_k(p_BxCxV, 2)[0], axis=-1)[..., 0]


def origin(config, scores_BxCxV, tokens_BxC: Array, probability_BxC, rng_B: Array) -> Array:
    """Noise, the same in all passes of a block: `rng_B` is the block's (Dream).

    The schedule reads the same numbers: they say at which step each position is due.
    """
    return row_uniform(rng_B, tokens_BxC.shape[1:])


REMASKING = {
    "low_confidence": low_confidence,
    "random": random,
    "left_to_right": left_to_right,
}
ALGS = {
    "entropy": entropy,
    "maskgit_plus": maskgit_plus,
    "topk_margin": topk_margin,
    "origin": origin,
}
ORDERS = REMASKING | ALGS


def find_order(
    name: str, known: Mapping[str, Callable] = ORDERS, what: str = "order"
) -> Callable[..., Array]:
    """One of the `known` orders, or a file's ORDER; `what` names the setting in messages.

    Raises:
      ValueError: an unknown name, or a file that is absent, fails or defines no function ORDER.
    """
    order = extensions.load(name, known, "ORDER", what)
    if not callable(order):
        raise ValueError(f"{what}={name}: ORDER is not a function; see sampling.ORDERS")
    return order
