"""Each objective by its name: its section of the settings, its recipe, and two updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from configs import objectives as recipes
from gdsd_jax import experiment, models, objectives, settings, sharding, steps, weights
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.types import Prompts, Rollout
from tests.reference import tiny

ROWS, P, G = 8, 4, 8
NAMES = tuple(name for name, objective in objectives.OBJECTIVES.items() if objective.rewards)


def parsed(argument: str) -> settings.Settings:
    return settings.parse(coding.get_config(argument))


def check(argument: str, devices=None) -> settings.Settings:
    """The settings, refused where they do not fit; nothing is compiled."""
    chosen = parsed(argument)
    model = weights.with_settings(models.preset(chosen.model), chosen)
    experiment.check(chosen, experiment.make_mesh(chosen, devices), model)
    return chosen


def test_every_objective_has_a_section_with_its_fields():
    assert set(recipes.PUBLISHED) == set(NAMES)
    for name in NAMES:
        fields = {field.name for field in dataclasses.fields(objectives.OBJECTIVES[name].config)}
        keys = settings.flat(parsed(f"tiny,objective={name}"))
        assert {key for key in keys if key.startswith(f"{name}.")} == {
            f"{name}.{field}" for field in fields
        }


@pytest.mark.parametrize("model", coding.MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_their_budget(model, name):
    """Settings are accepted, and slices hold what the objective compares."""
    chosen = check(f"{model},objective={name}")
    assert chosen.objective == name
    assert type(chosen.objective_config) is objectives.OBJECTIVES[name].config


def test_the_objective_is_chosen_before_other_overrides():
    for argument in (
        "llada,objective=espo,espo.beta=0.5,group_size=5",
        "llada,espo.beta=0.5,group_size=5,objective=espo",
    ):
        chosen = parsed(argument)
        espo = chosen.objective_config
        assert (chosen.objective, espo.beta, chosen.group_size) == ("espo", 0.5, 5)
        # the recipe's
        assert (espo.epsilon_low, chosen.lora_rank, chosen.mask_draws) == (4e-4, 0, 2)
        assert chosen.name == "coding-llada-espo"
    assert (parsed("tiny").objective, parsed("tiny").name) == ("gdsd", "coding-tiny")
    with pytest.raises(ValueError, match="ppo.*gdsd.*dmpo"):
        parsed("tiny,objective=ppo")


@pytest.mark.parametrize(
    "argument, word",
    [
        ("objective=wd1,slices=4,prompts_per_round=2,group_size=8", "group_size"),
        ("baseline=median", "baseline"),
        ("objective=spg,spg.block_length=7", "spg.block_length"),
        ("objective=spg,mask_draws=4", "mask_draws"),
        ("objective=espo,espo.epsilon_low=2.0", "epsilon_low"),
        ("gdsd.masks=all", "masks"),
    ],
)
def test_what_does_not_fit_is_refused_before_compiling(argument, word):
    with pytest.raises(ValueError, match=word):
        check(f"tiny,{argument}", jax.devices()[:1])


SMALL = (
    f"sampler.gen_length={G},sampler.steps=4,prompt_length={P},prompts_per_round=2,group_size=4,"
    "inner_iterations=2"
)


@pytest.fixture(scope="module")
def experience():
    """(denoiser, parameters, rollout, prompts, rewards); the completions need not be its own."""
    rng = np.random.default_rng(0)
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
    model = tiny(layers=1)
    params = jax.jit(lambda rng: models.init_params(model, rng))(jax.random.key(0))
    return models.make_denoiser(model), params, rollout, prompts, rng.random(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_updates(experience, name):
    """Scores at the rollout's parameters, advantages, then two steps at the second views.

    Each changes the weights; numbers are finite. Without old scores it would be another program,
    which is tested apart.
    """
    denoiser, params, rollout, prompts, rewards = experience
    chosen = parsed(f"tiny,objective={name},{SMALL},mask_draws=1,optimizer.warmup_steps=0")
    calls = steps.make_steps(denoiser, chosen, sharding.make_mesh({}, jax.devices()[:1]))
    config = chosen.objective_config
    frozen = {"reference": params} if objectives.find(name).reference(config) else {}
    slices = calls.slices(rollout, prompts)
    np.testing.assert_array_equal(slices.group_B[0], np.arange(ROWS) // 4)
    scored = calls.score(params, frozen, slices, jax.random.key(1))
    reads = objectives.make_score_fn(name, denoiser, config) is not None
    # the first inner iteration compares with its own score
    assert len(scored.old) == 1 if reads else scored.old is None
    assert len(scored.ref) == 2 if frozen else scored.ref is None
    slices = calls.reward(slices, jnp.asarray(rewards, jnp.float32))
    state = init_state(jax.tree.map(jnp.copy, params), make_optimizer(chosen.optimizer))
    before = params
    for _ in range(2):
        state, metrics = calls.update(
            state, frozen, slices, scored, jnp.int32(1), jax.random.key(1), False
        )
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert (
            set(metrics) >= {"loss", "score", "kl", "trust", "grad_norm"}
            and metrics["grad_norm"] > 0
        )
        moved = [
            np.abs(a - b).max()
            for a, b in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(before))
        ]
        assert min(moved) > 0, "a parameter stayed where it was"
        before = jax.tree.map(jnp.copy, state.trainable)
    if name in ("gdsd", "espo"):
        assert metrics["move"] > 0  # the old score is that of the rollout's parameters
