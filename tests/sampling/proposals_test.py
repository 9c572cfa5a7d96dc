"""What thresholds and top-p do to proposals. B rows, C columns, V tokens."""

import jax.numpy as jnp
import numpy as np

from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.sampling.proposals import tempered
from gdsd_jax.sampling.select import sure_enough
from tests.reference import tiny


def test_a_threshold_of_one_commits_nothing():
    """Though float32 gives a token a probability of 1; below, what is above it."""
    probability = jnp.array([[1.0, 0.95, 0.5]] * 3)
    masked = jnp.array([[True, True, True]] * 2 + [[False, True, True]])
    found = sure_enough(probability, masked, jnp.array([1.0, 0.5, 0.9]))
    np.testing.assert_array_equal(
        found, [[False, False, False], [True, True, False], [False, True, False]]
    )


def test_top_p_is_of_drawn_tokens_alone():
    """A greedy row's confidences are those of the whole softmax, of which commits go in order."""
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 32)), jnp.float32)
    model = tiny(vocab_size=32)
    temperature = jnp.array([0.0, 1.0])
    whole, part = (
        np.asarray(tempered(logits, temperature, SamplerConfig(top_p=top_p), model))
        for top_p in (1.0, 0.5)
    )
    np.testing.assert_array_equal(part[0], whole[0])
    kept = part[1] == whole[1]
    assert kept.any(axis=-1).all() and not kept.all(axis=-1).any()
