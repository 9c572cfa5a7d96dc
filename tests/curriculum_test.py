"""Lengths and thresholds by round, at the published values (OPDLM, arXiv 2606.06712)."""

import math

import pytest

from configs import opdlm
from gdsd_jax import curriculum, settings
from gdsd_jax.curriculum import LengthRamp, ThresholdRamp


def test_lengths_grow_slowly_at_first():
    """100 -> 4000 over 100 rounds: round 50 of the released schedule has 1244 tokens, round 100 and
    later 4000."""

    ramp = LengthRamp(start=100, rounds=100, shape="cos")

    def longest(number):
        return curriculum.longest(number, 4000, 4, ramp)

    assert [longest(number) for number in (0, 49, 99, 400)] == [100, 1244, 4000, 4000]
    assert all(
        longest(number) % 4 == 0 and longest(number) <= longest(number + 1) for number in range(100)
    )
    assert curriculum.longest(0, 4000, 4, LengthRamp(start=None, rounds=0, shape="cos")) == 4000
    assert curriculum.longest(0, 40, 4, LengthRamp(start=0, rounds=100, shape="cos")) == 4


def test_thresholds_hold_and_fall():
    ramp = ThresholdRamp(end=0.7, hold=150, rounds=333, shape="cos")

    def at(number):
        return curriculum.threshold(number, 0.9, ramp)

    assert (
        at(0) == at(149) == 0.9 and at(482) == pytest.approx(0.7) and at(900) == pytest.approx(0.7)
    )
    assert at(150 + 166) == pytest.approx(0.9 - 0.2 * (1 - math.cos(math.pi * 167 / 333 / 2)))
    assert curriculum.threshold(3, 0.9, ThresholdRamp(end=None)) == 0.9
    assert curriculum.threshold(3, None, ThresholdRamp(end=0.5, rounds=9)) == math.inf


def of_round(argument, number):
    """(threshold, longest completion) of a round, as the config says."""
    chosen = settings.parse(opdlm.get_config(argument))
    sampler = chosen.sampler
    return (
        curriculum.threshold(number, chosen.threshold, chosen.threshold_ramp),
        curriculum.longest(number, sampler.gen_length, sampler.block_length, chosen.length_ramp),
    )


def test_a_config_says_both():
    assert of_round("qwen3_4b,init_from=DIR,data_file=FILE", 49) == (0.9, 1244)
    assert [of_round("", number) for number in (0, 29, 59, 119)] == [
        (0.9, n) for n in (4, 16, 24, 24)
    ]


@pytest.mark.parametrize("ramp", [LengthRamp, ThresholdRamp])
def test_an_unknown_shape_is_refused(ramp):
    with pytest.raises(ValueError, match="shape='step': choose one of linear, cos, sin"):
        ramp(shape="step")
