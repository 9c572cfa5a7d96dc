"""Each objective by its name: its section of the settings, its recipe, and two updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding, countdown, gsm8k, math, sudoku
from configs import objectives as recipes
from gdsd_jax import experiment, models, objectives, settings, sharding, steps, weights
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.types import Prompts, Rollout, Uncut
from tests.reference import tiny

ROWS, P, G = 8, 4, 8
NAMES = tuple(name for name, objective in objectives.OBJECTIVES.items() if objective.rewards)
TASKS = {"coding": coding, "sudoku": sudoku, "countdown": countdown, "gsm8k": gsm8k, "math": math}
# of others' block-causal models nothing is published
RECIPES = [
    (task, model) for task, config in TASKS.items() for model in config.MODELS if model != "a2d"
]
MOVING = {"reference_sync.every": 64, "reference_sync.mix": 0.6}
STILL = {"reference_sync.every": 0}


def parsed(argument: str, task: str = "coding") -> settings.Settings:
    return settings.parse(TASKS[task].get_config(argument))


def check(argument: str, devices=None, task: str = "coding") -> settings.Settings:
    """The settings, refused where they do not fit; nothing is compiled."""
    chosen = parsed(argument, task)
    model = weights.with_settings(models.preset(chosen.model), chosen)
    experiment.check(chosen, experiment.make_mesh(chosen, devices), model)
    return chosen


def test_every_objective_has_a_section_with_its_fields():
    assert set(recipes.BASELINES) == set(NAMES) - {"gdsd"}
    assert {name for task in recipes.TASKS.values() for name in task} <= set(NAMES)
    for name in NAMES:
        fields = {field.name for field in dataclasses.fields(objectives.OBJECTIVES[name].config)}
        keys = settings.flat(parsed(f"tiny,objective={name}"))
        assert {key for key in keys if key.startswith(f"{name}.")} == {
            f"{name}.{field}" for field in fields
        }


@pytest.mark.parametrize("task, model", RECIPES)
@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_their_budget(task, model, name):
    """Settings are accepted, and slices hold what the objective compares."""
    chosen = check(f"{model},objective={name}", task=task)
    assert (chosen.task, chosen.objective) == (task, name)
    assert type(chosen.objective_config) is objectives.OBJECTIVES[name].config


# (prompts, group, slices), (mu, K), (rate, decay, clip), (temperature, passes, prompt's columns)
D1 = (16, 6, 2), (12, 1), (3e-6, 0.1, 0.2), (0.9, 128, 200)
WD1 = ((8, 6, 2), *D1[1:])
SPG = ((16, 6, 2), (4, 2), (3e-6, 0.1, 0.2), (0.9, 128, 400))
DMPO = (4, 16, 2), (8, 2), (1e-6, 0.1, 0.2), (0.2, 128, 200)
ESPO = (16, 6, 4), (8, 2), (3e-6, 0.01, 0.2), (1.0, 256, 400)
COUPLED = (8, 10, 2), (2, 1), (1e-6, 0.1, 0.2), (1.0, 256, 200)
ESPO_CODE = (16, 10, 20), (8, 2), (1e-6, 0.1, 0.8), (1.0, 256, 400)
PUBLISHED = {  # with what else differs from the objective's own defaults
    ("coding", "espo"): (ESPO_CODE, {"espo.epsilon_low": 0.2, "espo.beta": 1e-2, **MOVING}),
    ("gsm8k", "espo"): (ESPO, {"espo.epsilon_high": 0.2, "espo.beta": 1e-3, **STILL}),
    ("math", "espo"): (((16, 16, 16), *ESPO[1:]), {"espo.beta": 1e-3, **STILL}),
    ("countdown", "espo"): (
        (*ESPO[:3], (1.0, 128, 400)),
        {"espo.epsilon_low": 0.0, "espo.epsilon_high": 0.0, "espo.beta": 3e-3, **STILL},
    ),
    ("sudoku", "espo"): (
        (*ESPO[:3], (1.0, 128, 512)),
        {"espo.epsilon_low": 0.2, "espo.beta": 1e-2, "options.shots": 1, **STILL},
    ),
    ("coding", "coupled_grpo"): (
        COUPLED,
        {
            "optimizer.decay_steps": 2000,
            "optimizer.final_share": 0.1,
            "reward.weights.tests": 2.0,
            "reward.weights.format": 0.5,
            **MOVING,
        },
    ),
    ("gsm8k", "wd1"): (WD1, {**STILL}),
    ("sudoku", "wd1"): ((WD1[0], (8, 1), *WD1[2:]), {"options.shots": 0}),
    ("countdown", "diffu_grpo"): (D1, {"baseline": "mean"}),
    ("sudoku", "diffu_grpo"): ((D1[0], (8, 1), *D1[2:]), {"baseline": "mean"}),
    ("gsm8k", "spg"): (SPG, {"spg.beta_eubo": 1.5, "spg.mix": 0.5}),
    ("sudoku", "spg"): (
        ((16, 6, 4), *SPG[1:3], (0.3, 128, 1500)),
        {"spg.beta_eubo": 1.0, "spg.mix": 0.5, "options.shots": 3},
    ),
    ("gsm8k", "just_grpo"): (
        ((64, 16, 16), (1, 1), (5e-6, 0.0, 1.0), (1.0, 256, 400)),
        {"scale_rewards": True, "sampler.block_length": 1, "just_grpo.epsilon_low": 0.2},
    ),
    ("math", "dmpo"): (DMPO, {"sampler.cache": "prefix", "dmpo.alpha": 0.04, **STILL}),
}


@pytest.mark.parametrize("task, name", PUBLISHED)
def test_published_values(task, name):
    chosen = parsed(f"llada,objective={name}", task)
    adamw, (budget, more) = chosen.optimizer, PUBLISHED[task, name]
    assert budget == (
        (chosen.prompts_per_round, chosen.group_size, chosen.slices),
        (chosen.inner_iterations, chosen.mask_draws),
        (adamw.learning_rate, adamw.weight_decay, adamw.clip_norm),
        (chosen.temperature, chosen.sampler.steps, chosen.prompt_length),
    )
    assert more.items() <= settings.flat(chosen).items()
    whole = (task, name) in (("coding", "espo"), ("coding", "coupled_grpo"), ("gsm8k", "just_grpo"))
    assert chosen.lora_rank == (0 if whole else 128)


def test_a_dream_writes_code():
    """LLaDA's values, the sampler of the Dream recipes for other tasks; DiffuCoder is one too."""
    llada, dream = parsed("llada"), parsed("dream")
    different = {
        key
        for key, value in settings.flat(dream).items()
        if value != settings.flat(llada)[key] and not key.startswith("sampler.")
    }
    assert different == {"name", "greeting", "model"}
    assert dream.sampler == parsed("dream", "countdown").sampler
    assert parsed("dream,objective=coupled_grpo").reference_sync.every == 64


def test_a_moving_reference_of_a_recipe_is_refused_with_adapters():
    with pytest.raises(ValueError, match="reference_sync.every=64 with lora_rank=128.*lora_rank=0"):
        parsed("llada,objective=espo,lora_rank=128")
    assert parsed("llada,objective=espo,lora_rank=128,reference_sync.every=0").lora_rank == 128


def test_the_objective_is_chosen_before_other_overrides():
    for argument in (
        "llada,objective=espo,espo.beta=0.5,group_size=5",
        "llada,espo.beta=0.5,group_size=5,objective=espo",
    ):
        chosen = parsed(argument)
        espo = chosen.objective_config
        assert (chosen.objective, espo.beta, chosen.group_size) == ("espo", 0.5, 5)
        # the recipe's
        assert (espo.epsilon_low, chosen.lora_rank, chosen.mask_draws) == (0.2, 0, 2)
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
    tokens, steps = rng.integers(2, 40, (ROWS, G)), np.ones((ROWS, G))
    uncut = Uncut(
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray(steps, jnp.int32),
        -jnp.asarray(rng.random((ROWS, G)), jnp.float32),
    )
    rollout = Rollout(
        uncut.tokens_BxG,
        uncut.step_map_BxG,
        uncut.logp_BxG,
        jnp.asarray(rng.integers(3, G + 1, ROWS), jnp.int32),
        jnp.full((ROWS,), 4),
        uncut,
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
    entries = f"tiny,objective={name},minibatches=1,{SMALL},mask_draws=1,optimizer.warmup_steps=0"
    entries += ",optimizer.decay_steps=0"
    # just_grpo learns from one token a pass
    chosen = parsed(f"{entries},sampler.steps={G}" if name == "just_grpo" else entries)
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
    slices = calls.advantages(slices, jnp.asarray(rewards, jnp.float32), jnp.asarray(rewards > 0.5))
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
