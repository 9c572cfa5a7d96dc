"""A student beside its teacher; tests/opdlm_test.py asks real ones."""

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding, opdlm
from gdsd_jax import settings, sharding
from gdsd_jax.evaluation import distances
from gdsd_jax.steps import Distance


def test_the_threshold_is_that_of_the_next_round():
    """And of the last round after it."""
    ramp = "threshold=0.9,threshold_ramp.end=0.5,threshold_ramp.rounds=4"
    chosen = settings.parse(opdlm.get_config(f"tiny,rounds=4,{ramp},threshold_ramp.shape=linear"))
    found = [distances.threshold_after(chosen, number) for number in range(6)]
    assert found == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
    # rounds that end before the ramp does: the last one's, not the next one's
    chosen = settings.replace(chosen, {"rounds": 2})
    assert distances.threshold_after(chosen, 2) == pytest.approx(0.7)
    assert distances.threshold_after(settings.parse(coding.get_config("tiny")), 0) == math.inf


def test_each_problem_counts_once(monkeypatch):
    """Three problems in two rounds of two, with two answers each: the row that fills the last round
    up is left out. Rounds that are kept are not asked again."""
    sampler = types.SimpleNamespace(gen_length=4)
    chosen = types.SimpleNamespace(group_size=2, eval_problems=3, sampler=sampler)
    mesh = sharding.make_mesh({"fsdp": 8})
    experiment = types.SimpleNamespace(settings=chosen, mesh=mesh, heldout=range(9))
    asked = []

    def distance(trainable, frozen, batch, rng):
        asked.append(batch)
        return Distance(jnp.asarray(batch, jnp.float32), jnp.asarray(batch, jnp.float32) + 1)

    steps = types.SimpleNamespace(
        distance=distance, sample=lambda *call: call[2], slices=lambda rollout, prompts: rollout
    )
    rounds = [[[1, 2], [3, 5]], [[6, 8], [100, 200]]]  # slices of two rows
    monkeypatch.setattr(distances, "heldout_rounds", lambda *_: rounds)

    def taught(number, prompts):
        return [[number, np.nan]] * 2

    kept = {}
    finished = types.SimpleNamespace(get=kept.get, keep=kept.__setitem__)
    for _ in range(2):
        found = distances.distances(experiment, steps, ({}, {}), None, 1.0, taught, finished)
        np.testing.assert_array_equal(found["kl"], [1.5, 4.0, 7.0])
        np.testing.assert_array_equal(found["teacher_nats"], [2.5, 5.0, 8.0])
        np.testing.assert_array_equal(found["kl_common"], [0.0, 0.0, 1.0])
        assert len(asked) == 4 and len(kept) == 2


def test_answers_of_which_nothing_counts_are_left_out():
    """They are no student at distance 0."""
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [2.0, 4.0]], np.float32)
    np.testing.assert_array_equal(distances.mean_known(values), [1.0, np.nan, 3.0])
    assert distances.mean_known(np.array([np.nan, 2.0, 4.0])) == 3.0
