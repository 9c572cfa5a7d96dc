"""Each objective by its name: its section of the config, its recipe, and two updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from configs import objectives as recipes
from gdsd_jax import models, objectives, run, sharding, steps
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.types import Rollout
from tests.reference import tiny

NAMES = tuple(name for name, objective in objectives.OBJECTIVES.items() if objective.rewards)


def test_every_objective_has_a_section_with_its_fields():
    assert set(recipes.SECTIONS) == set(NAMES) and set(recipes.PUBLISHED) == set(NAMES)
    for name in NAMES:
        fields = {field.name for field in dataclasses.fields(objectives.OBJECTIVES[name].config)}
        assert set(recipes.SECTIONS[name]) == fields, name


@pytest.mark.parametrize("model", coding.MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_their_budget(model, name):
    """Settings are accepted, and slices hold what the objective compares; nothing is compiled."""
    config = coding.get_config(f"{model},objective={name}")
    assert config.objective == name
    run.validate(config, run.make_mesh(config))


def test_the_objective_is_chosen_before_other_overrides():
    for argument in (
        "llada,objective=espo,espo.beta=0.5,group_size=4",
        "llada,espo.beta=0.5,group_size=4,objective=espo",
    ):
        config = coding.get_config(argument)
        assert (config.objective, config.espo.beta, config.group_size) == ("espo", 0.5, 4)
        # the recipe's
        assert (config.espo.epsilon_low, config.lora_rank, config.mask_draws) == (4e-4, 0, 2)
        assert config.name == "coding-llada-espo"
    assert (
        coding.get_config("tiny").objective == "gdsd"
        and coding.get_config("tiny").name == "coding-tiny"
    )
    with pytest.raises(ValueError, match="ppo.*gdsd.*dmpo"):
        coding.get_config("tiny,objective=ppo")


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
    config = coding.get_config(f"tiny,{argument}")
    with pytest.raises(ValueError, match=word):
        run.validate(config, sharding.make_mesh({}, jax.devices()[:1]))


ROWS, P, G = 8, 4, 8
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
    prompts = {
        "tokens": jnp.asarray(rng.integers(2, 40, (ROWS, P)), jnp.int32),
        "valid": jnp.ones((ROWS, P), bool),
    }
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
    config = coding.get_config(
        f"tiny,objective={name},{SMALL},mask_draws=1,optimizer.warmup_steps=0"
    )
    calls = steps.make_steps(denoiser, config, sharding.make_mesh({}, jax.devices()[:1]))
    objective = objectives.find(name)
    settings = objective.config(**config[name])
    frozen = {"reference": params} if objective.reference(settings) else {}
    slices = calls.slices(rollout, prompts)
    np.testing.assert_array_equal(slices.group_B[0], np.arange(ROWS) // 4)
    scored = calls.score(params, frozen, slices, jax.random.key(1))
    reads = objectives.make_score_fn(name, denoiser, settings) is not None
    assert [x is not None for x in scored.old] == [False, reads]
    assert [x is not None for x in scored.ref] == [bool(frozen)] * 2
    slices = calls.reward(slices, jnp.asarray(rewards, jnp.float32))
    state = init_state(jax.tree.map(jnp.copy, params), make_optimizer(**config.optimizer))
    before = params
    for _ in range(2):
        state, metrics = calls.update(
            state, frozen, slices, scored.old[1], scored.ref[1], jnp.int32(1), jax.random.key(1)
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
