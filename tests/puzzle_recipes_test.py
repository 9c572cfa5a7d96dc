"""The recipes of GDSD by name; those for Sudoku and Countdown on a mesh of eight."""

import pytest

from configs import coding, countdown, gsm8k, instructions, math, opdlm, sft, sudoku
from gdsd_jax import experiment, objectives, settings, tasks
from gdsd_jax.metrics import read_metrics
from gdsd_jax.train import train
from tests.objectives.recipes_test import NAMES, TASKS, check

CONFIGS = {"sudoku": sudoku, "countdown": countdown}
# prompts a round, inner iterations, slices, draws, rate, weight decay, psi, beta, trust, centring
RELEASED = {
    ("sudoku", "llada"): (20, 8, 4, 2, 1e-5, 0.01, 10.0, 1e-3, 4e-4, ("top_k", 64)),
    ("sudoku", "dream"): (16, 1, 4, 2, 1e-5, 0.01, 1.0, 1e-3, 0.2, ("top_k", 8)),
    ("countdown", "llada"): (20, 8, 4, 2, 1e-5, 0.01, 1.0, 3e-3, 4e-4, ("none", 64)),
    ("countdown", "dream"): (16, 8, 4, 2, 1e-5, 0.01, 10.0, 3e-3, 4e-4, ("top_k", 64)),
}


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("model", sudoku.MODELS)
def test_recipes_are_accepted(task, model):
    chosen = settings.parse(CONFIGS[task].get_config(model))
    assert chosen.task == task and chosen.name == f"{task}-{model}"
    assert chosen.require_init == (model != "tiny")
    experiment.check_settings(chosen, experiment.make_mesh(chosen))
    experiment.check_views(chosen)


@pytest.mark.parametrize("task, model", RELEASED)
def test_released_values(task, model):
    chosen = settings.parse(CONFIGS[task].get_config(f"{model},gdsd.recipe=r2"))
    gdsd, optimizer = chosen.objective_config, chosen.optimizer
    found = (chosen.prompts_per_round, chosen.inner_iterations, chosen.slices, chosen.mask_draws)
    found += (optimizer.learning_rate, optimizer.weight_decay, gdsd.psi, gdsd.beta)
    assert (*found, gdsd.trust[0], (gdsd.centring, gdsd.centring_k)) == RELEASED[task, model]
    assert (gdsd.preset, chosen.group_size, chosen.sampler.gen_length) == ("r2", 16, 256)
    assert (chosen.prompt, chosen.reward.variant) == ("released", "released")
    assert (chosen.lora_rank, chosen.lora_alpha, chosen.prompt_length) == (128, 64.0, 400)


@pytest.mark.parametrize("config", (sudoku, countdown, gsm8k, math, coding))
@pytest.mark.parametrize("model", ["llada", "dream"])
def test_recipes_by_name(config, model):
    """The mended one is the default; those of the releases bring their prompts and rewards, r1
    without centralisation; another objective takes these of the recipe too."""

    def parts(arg):
        chosen = settings.parse(config.get_config(f"{model},{arg}"))
        return chosen.objective_config, (chosen.prompt, chosen.reward.variant), chosen.greeting

    mended, asked, greeting = parts("seed=1")
    assert asked == ("full", "mended") and greeting.endswith(", mended recipe")
    assert (mended.preset, mended.psi, mended.trust) == (None, 10.0, (0.02, 0.02))
    first, asked, _ = parts("gdsd.recipe=r1")
    assert asked == ("released", "released")
    assert (first.preset, first.centring, first.trust) == ("r1", "none", (4e-4, 4e-4))
    # the first release sums the log-probabilities of uniform masks, the later one estimates the
    # ELBO under the states of a sampler that goes block by block
    assert (first.weighting, first.masks) == ("uniform", "uniform")
    later, asked, _ = parts("gdsd.recipe=r2")
    assert asked == ("released", "released") and later.preset == "r2"
    positions = "random" if (config, model) == (sudoku, "dream") else "confidence"
    assert (later.weighting, later.masks, later.mask_block) == ("elbo", f"block_{positions}", 32)
    assert later.beta == first.beta == mended.beta > 0
    assert parts("gdsd.recipe=r2,objective=wd1")[1] == ("released", "released")
    assert parts("objective=wd1")[1] == ("full", "mended")
    with pytest.raises(ValueError, match=r"gdsd\.recipe=r3: choose one of mended, r1, r2"):
        config.get_config(f"{model},gdsd.recipe=r3")


@pytest.mark.parametrize("config", (sudoku, countdown, gsm8k, math, coding, instructions))
@pytest.mark.parametrize("model", ["llada", "dream", "a2d"])
def test_a_recipe_may_be_fast(config, model):
    """Nothing else changes, and what is published stays as it is."""
    slow = settings.flat(settings.parse(config.get_config(f"{model},fast=false")))
    assert slow == settings.flat(settings.parse(config.get_config(model)))
    fast = settings.flat(settings.parse(config.get_config(f"{model},fast=true")))
    changed = {key: value for key, value in fast.items() if slow[key] != value}
    wanted = {"score_masks": "shared", "rollout_quant": "int8"}
    wanted |= {"drift_share": 0.034, "drift_tokens": 64}
    if model == "llada" and config is coding:  # the others have the released sampler's quirks
        wanted |= {"sampler.cache": "prefix", "rollout_parts": 5}
    assert changed == wanted
    with pytest.raises(ValueError, match="fast=1: choose true or false"):
        config.get_config(f"{model},fast=1")
    if config in (sudoku, countdown, coding):
        with pytest.raises(ValueError, match="gdsd.recipe=r2 is a released one"):
            config.get_config(f"{model},gdsd.recipe=r2,fast=true")


@pytest.mark.parametrize("config", (sudoku, countdown, coding, instructions, sft))
@pytest.mark.parametrize("name", ["r1", "r2", "r3"])
def test_an_embedded_model_has_one_recipe(config, name):
    with pytest.raises(ValueError, match=f"gdsd.recipe={name}: the releases have no values for"):
        config.get_config(f"tiny,gdsd.recipe={name}")
    mended = settings.parse(config.get_config("tiny,gdsd.recipe=mended"))
    assert mended == settings.parse(config.get_config("tiny"))


@pytest.mark.parametrize("task", CONFIGS)
def test_objectives_and_overrides(task):
    chosen = settings.parse(CONFIGS[task].get_config("objective=espo,seed=3"))
    assert (chosen.objective, chosen.seed, chosen.name) == ("espo", 3, f"{task}-tiny-espo")
    with pytest.raises(ValueError, match="unknown model 'big'.*tiny, llada, dream, a2d"):
        CONFIGS[task].get_config("big")


@pytest.mark.parametrize("task", CONFIGS)
def test_a_few_steps_of_the_embedded_default(task, tmp_path, monkeypatch):
    """Problems are built, answers learnt from, rollouts graded, and the file's line is said."""
    problems = getattr(tasks, task).problems
    monkeypatch.setattr(problems, "NUM_TRAIN", 96)
    monkeypatch.setattr(problems, "NUM_HELDOUT", 8)
    chosen = settings.parse(
        CONFIGS[task].get_config(
            "rounds=1,prompts_per_round=8,group_size=2,inner_iterations=1,sft.steps=2,sft.batch=8,"
            f"eval_problems=8,data_dir={tmp_path}"
        )
    )
    prepared = experiment.prepare(chosen, say=lambda line: None)
    train(prepared, tmp_path / "run", say=lambda line: None)
    prepared.task.close()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    evals = [row for row in rows if row["phase"] == "eval"]
    assert [row["problems"] for row in evals] == [8, 8]
    assert all(0 <= row["mean_reward"] <= 1 and 0 <= row["format"] <= 1 for row in evals)
    part = {"sudoku": "cells", "countdown": "correct"}[task]
    assert [row[part] <= row["format"] for row in rows if row["phase"] == "rollout"] == [True]


def test_notes_of_a_task_are_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Puzzle,Solution\n" + "1004041021000320,1234341221434321\n" * 2)
    chosen = settings.parse(
        sudoku.get_config(f"data_file={path},heldout_file={path},sft.steps=0,data_dir={tmp_path}")
    )
    said = []
    experiment.prepare(chosen, say=said.append).task.close()
    assert f"{path}: 2 of 2 puzzles have a solved grid that is trained on, 2 have one" in said[0]


@pytest.mark.parametrize("config", (coding, sudoku, countdown, instructions, gsm8k, math))
@pytest.mark.parametrize("model", ["tiny", "llada", "dream", "a2d"])
def test_the_target_may_be_within_reach(config, model):
    """GDSD as a regression: the same run but for psi; no other objective has such a target."""
    usual = settings.flat(settings.parse(config.get_config(model)))
    near = settings.flat(settings.parse(config.get_config(f"{model},gdsd.recipe=regression")))
    changed = {key for key in usual if usual[key] != near[key]} - {"greeting"}
    assert changed == {"gdsd.psi"} and near["gdsd.psi"] * 10 == usual["gdsd.psi"]
    with pytest.raises(ValueError, match="regression is a target of objective gdsd: leave it out"):
        config.get_config(f"{model},objective=espo,gdsd.recipe=regression")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_of_any_objective_may_be_fast(task, model, name):
    """As far as the objective allows: those that learn from the law of exact rollouts share masks
    alone."""
    chosen = check(f"{model},objective={name},fast=true", task=task)
    assert chosen.score_masks == "shared" and chosen.rows % chosen.rollout_parts == 0
    exact = chosen.rollout_quant == "none"
    assert exact == (objectives.find(name).rollouts is not None)


FASTER = {
    "prompts_per_round=24,slices=12": ("prefix", 4),
    "prompts_per_round=36,group_size=8,slices=12": ("prefix", 4),
    "sampler.reference_quirks=true": (None, 1),
    "sampler.kind=block,sampler.block_length=4": (None, 1),
    "rollout_parts=3": ("prefix", 3),
}


@pytest.mark.parametrize("given", FASTER)
def test_fast_rounds_fit_what_else_is_asked(given):
    fast = settings.parse(coding.get_config(f"llada,fast=true,{given}"))
    plain = settings.parse(coding.get_config(f"llada,{given}"))
    cache, parts = FASTER[given]
    assert (fast.sampler.cache, fast.rollout_parts) == (cache or plain.sampler.cache, parts)
    assert fast.rollout_quant == "int8" and fast.score_masks == "shared"


@pytest.mark.parametrize("config", (coding, sudoku, instructions, sft, opdlm))
def test_fast_rounds_are_of_full_size_recipes(config):
    with pytest.raises(ValueError, match="fast=true: is of the full-size recipes of reinforcement"):
        config.get_config("tiny,fast=true")


def test_the_released_recipe_on_code_is_whole():
    """Its adapters, its noise, three completions a device and slice; Dream has none of these."""
    for name in ("r1", "r2"):
        chosen = settings.parse(coding.get_config(f"llada,gdsd.recipe={name}"))
        assert chosen.lora_targets == ("q", "k", "v", "up") and chosen.sampler.reference_quirks
        assert chosen.rows // chosen.slices == 3 * 8
    assert not settings.parse(coding.get_config("dream,gdsd.recipe=r2")).sampler.reference_quirks
