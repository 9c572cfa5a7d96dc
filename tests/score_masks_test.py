"""Views that all passes over a round share: drawn once, scored once, and the right ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from gdsd_jax import models, objectives, settings, sharding, steps
from gdsd_jax.optimizer import init_state, make_optimizer, make_update
from gdsd_jax.types import Prompts, Rollout
from tests.reference import tiny

ROWS, P, G = 16, 4, 8
MODEL = tiny(layers=1)
DENOISER = models.make_denoiser(MODEL)
SMALL = (
    "tiny,prompts_per_round=4,group_size=4,slices=2,mask_draws=2,gdsd.beta=0.01,"
    "optimizer.warmup_steps=0,optimizer.learning_rate=0.01"
)


def parsed(**options):
    told = ",".join(f"{key}={value}" for key, value in options.items())
    return settings.parse(coding.get_config(f"{SMALL},{told}"))


class Round:
    """A round of random completions under some settings."""

    def __init__(self, chosen):
        rng = np.random.default_rng(0)
        self.chosen, self.mesh = chosen, sharding.make_mesh({}, jax.devices()[:1])
        self.calls = steps.make_steps(DENOISER, chosen, self.mesh)
        rollout = Rollout(
            jnp.asarray(rng.integers(2, 40, (ROWS, G)), jnp.int32),
            jnp.ones((ROWS, G), jnp.int32),
            -jnp.asarray(rng.random((ROWS, G)), jnp.float32),
            jnp.asarray(rng.integers(3, G + 1, ROWS), jnp.int32),
            jnp.full((ROWS,), 4),
        )
        prompts = Prompts(
            jnp.asarray(rng.integers(2, 40, (ROWS, P)), jnp.int32), jnp.ones((ROWS, P), bool)
        )
        make = jax.jit(lambda rng: models.init_params(MODEL, rng))
        self.params, reference = make(jax.random.key(0)), make(jax.random.key(1))
        self.frozen, self.key = {"reference": reference}, jax.random.key(2)
        slices = self.calls.slices(rollout, prompts)
        self.slices = self.calls.advantages(
            slices, jnp.asarray(rng.random(ROWS), jnp.float32), jnp.ones(ROWS, bool)
        )
        self.scored_from = self.params, self.frozen, slices, self.key

    def views(self, number):
        """The slices that inner iteration `number` trains on."""
        masked = steps.make_masked(self.chosen, self.chosen.objective_config, self.mesh)
        return jax.jit(masked)(self.slices, number, self.key)

    def scores(self, views):
        """(old, reference) scores of the views, one slice after the other."""
        params = DENOISER.bind(self.params, self.frozen)
        score_fn = objectives.make_score_fn("gdsd", DENOISER, self.chosen.objective_config)
        old = jax.lax.map(lambda one: score_fn(params, one)[0], views)
        return old, jax.lax.map(lambda one: score_fn(self.frozen["reference"], one)[1], views)


@pytest.mark.parametrize(
    ("masks", "mu", "minibatches", "old", "ref"),
    [
        ("fresh", 4, 1, 3, 4),
        ("fresh", 4, 2, 3, 4),
        ("shared", 4, 1, 1, 1),
        ("shared", 4, 2, 2, 2),
        ("shared", 2, 2, 1, 2),  # one pass: nothing to share
        ("shared", 1, 1, None, 1),
    ],
)
def test_each_view_is_scored_once(masks, mu, minibatches, old, ref):
    one = Round(parsed(score_masks=masks, inner_iterations=mu, minibatches=minibatches))
    scored = jax.eval_shape(one.calls.score, *one.scored_from)
    assert len(scored.ref) == ref
    assert scored.old is None if old is None else len(scored.old) == old


def test_passes_share_the_views_of_a_minibatch():
    one = Round(parsed(score_masks="shared", inner_iterations=5, minibatches=2))
    masks = [np.asarray(one.views(number).masks_KxBxL) for number in range(5)]
    for number in (2, 3, 4):
        np.testing.assert_array_equal(masks[number], masks[number % 2])
    assert (masks[0] != masks[1]).any()
    fresh = Round(parsed(score_masks="fresh", inner_iterations=5, minibatches=2))
    assert (np.asarray(fresh.views(2).masks_KxBxL) != masks[2]).any()


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["fresh", "shared"])
def test_updates_compare_with_scores_of_their_own_views(masks):
    """Four updates as the loop has them equal those with scores made beside each of them."""
    one = Round(parsed(score_masks=masks, inner_iterations=4, minibatches=2))
    optimizer = make_optimizer(one.chosen.optimizer)
    loss_fn = objectives.make_loss_fn("gdsd", DENOISER, one.chosen.objective_config)
    update = jax.jit(make_update(loss_fn, optimizer))
    scored = one.calls.score(*one.scored_from)
    states = [init_state(jax.tree.map(jnp.copy, one.params), optimizer) for _ in range(2)]
    for number in range(4):
        first = number == 0
        found, told = one.calls.update(
            states[0], one.frozen, one.slices, scored, jnp.int32(number), one.key, first
        )
        views = one.views(number)
        old, ref = one.scores(views)
        views = views.replace(old_KxB=None if first else old, ref_KxB=ref)
        wanted, expected = update(states[1], one.frozen, views)
        for name in ("loss", "move", "kl"):
            np.testing.assert_allclose(told[name], expected[name], rtol=1e-4, atol=1e-6)
        states = [found, wanted]
    assert told["move"] > 1e-3  # the old scores are those of the rollout's parameters
