"""What an evaluation counts."""

import numpy as np

from configs import coding, opdlm
from gdsd_jax import evaluation, settings


def test_forwards_count_passes_and_saves():
    """Answers of 5 and 4 tokens in 4 and 2 passes: blocks of 4 are saved twice and once; other
    samplers save nothing."""
    length_B, passes_B = np.array([5, 4]), np.array([4, 2])
    by_blocks, other = (settings.parse(recipe.get_config()) for recipe in (opdlm, coding))
    assert evaluation.forwards_of(by_blocks.sampler, length_B, passes_B).tolist() == [6, 3]
    assert evaluation.forwards_of(other.sampler, length_B, passes_B).tolist() == [4, 2]
