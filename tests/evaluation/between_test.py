"""The evaluation between rounds; tests/opdlm_test.py runs it beside a teacher."""

import math

import pytest

from configs import coding, opdlm
from gdsd_jax import settings
from gdsd_jax.evaluation import between


def test_the_threshold_is_that_of_the_next_round():
    """And of the last round after it."""
    ramp = "threshold=0.9,threshold_ramp.end=0.5,threshold_ramp.rounds=4"
    chosen = settings.parse(opdlm.get_config(f"tiny,rounds=4,{ramp},threshold_ramp.shape=linear"))
    found = [between.threshold_after(chosen, number) for number in range(6)]
    assert found == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
    # rounds that end before the ramp does: the last one's, not the next one's
    chosen = settings.replace(chosen, {"rounds": 2})
    assert between.threshold_after(chosen, 2) == pytest.approx(0.7)
    assert between.threshold_after(settings.parse(coding.get_config("tiny")), 0) == math.inf
