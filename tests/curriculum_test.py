"""Lengths and thresholds by round, at the published values (specs/opdlm.md section 6)."""

import math

import pytest

from configs import opdlm
from gdsd_jax import curriculum


def test_lengths_grow_slowly_at_first():
    """100 -> 4000 over 100 rounds: round 50 of the released schedule has 1244 tokens, round 100 and
    later 4000."""

    def longest(number):
        return curriculum.longest(number, 4000, start=100, rounds=100, shape="cos", block=4)

    assert [longest(number) for number in (0, 49, 99, 400)] == [100, 1244, 4000, 4000]
    assert all(
        longest(number) % 4 == 0 and longest(number) <= longest(number + 1) for number in range(100)
    )
    assert curriculum.longest(0, 4000, start=None, rounds=0, shape="cos", block=4) == 4000
    assert curriculum.longest(0, 40, start=0, rounds=100, shape="cos", block=4) == 4


def test_thresholds_hold_and_fall():
    def at(number):
        return curriculum.threshold(number, 0.9, end=0.7, hold=150, rounds=333, shape="cos")

    assert (
        at(0) == at(149) == 0.9 and at(482) == pytest.approx(0.7) and at(900) == pytest.approx(0.7)
    )
    assert at(150 + 166) == pytest.approx(0.9 - 0.2 * (1 - math.cos(math.pi * 167 / 333 / 2)))
    assert curriculum.threshold(3, 0.9, end=None, hold=0, rounds=0, shape="cos") == 0.9
    assert curriculum.threshold(3, None, end=0.5, hold=0, rounds=9, shape="cos") == math.inf


def test_a_config_says_both():
    config = opdlm.get_config("qwen3_4b,init_from=DIR,data_file=FILE")
    assert curriculum.of_round(config, 49) == (0.9, 1244)
    assert [curriculum.of_round(opdlm.get_config(), number) for number in (0, 29, 59, 119)] == [
        (0.9, n) for n in (4, 16, 24, 24)
    ]
