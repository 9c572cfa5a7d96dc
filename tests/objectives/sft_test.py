"""Masked-diffusion SFT against float64 NumPy, and the choice of an objective by name."""

import jax
import numpy as np
import pytest

from gdsd_jax import models, objectives
from gdsd_jax.objectives import GdsdConfig, SftConfig
from tests import reference
from tests.reference import MASK, random_batch, random_params, tiny

MODEL = tiny()


@pytest.mark.parametrize(
    "config", [SftConfig(), SftConfig("uniform", "answer")], ids=["elbo, full", "uniform, answer"]
)
def test_loss_is_the_negative_score_per_token(config):
    params = random_params(MODEL)
    batch = random_batch(MODEL, rows=4, prompt_len=3, gen=6, draws=2)

    def logits_fn(tokens, valid):
        return reference.forward(MODEL, params, tokens, valid)

    plain, _ = reference.pair_scores(
        logits_fn, MASK, batch, weighting=config.weighting, count=config.count
    )
    wanted = -np.mean(plain / reference.completion_lengths(batch, config.count)[None])
    loss_fn = jax.jit(objectives.make_loss_fn("sft", models.make_denoiser(MODEL), config))
    loss, metrics = loss_fn(params, {}, batch)
    # float32 rounding of sums of token log-probabilities
    np.testing.assert_allclose(loss, wanted, rtol=2e-5)
    np.testing.assert_allclose(metrics["score"], -wanted, rtol=2e-5)


def test_certain_answers_cost_nothing():
    """A model that is sure of the right tokens has loss 0, an undecided one half of log V."""
    batch = random_batch(MODEL, rows=3, prompt_len=2, gen=4, draws=1).replace(
        masks_KxBxL=np.array([[[False, False, True, False, True, False]] * 3])
    )
    loss_fn = objectives.make_loss_fn("sft", reference.position_denoiser(40), SftConfig("uniform"))
    right = 50.0 * jax.nn.one_hot(batch.tokens_BxL, 40)
    # the score of a pair counts each token once, at the released weight 1/2
    assert loss_fn({"z": right}, {}, batch)[0] == pytest.approx(0, abs=1e-6)
    assert loss_fn({"z": 0 * right}, {}, batch)[0] == pytest.approx(0.5 * np.log(40), rel=1e-5)


def test_objectives_are_chosen_by_name():
    denoiser = models.make_denoiser(MODEL)
    with pytest.raises(ValueError, match="ppo.*gdsd"):
        objectives.make_loss_fn("ppo", denoiser, SftConfig())
    with pytest.raises(ValueError, match="SftConfig.*GdsdConfig"):
        objectives.make_loss_fn("sft", denoiser, GdsdConfig())
    assert objectives.make_score_fn("sft", denoiser, SftConfig()) is None
    for options, word in ((dict(weighting="flat"), "weighting"), (dict(count="some"), "count")):
        with pytest.raises(ValueError, match=word):
            SftConfig(**options)
