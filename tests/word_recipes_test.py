"""The recipes for instructions and reasoning-gym: accepted on a mesh of eight."""

import pytest

from configs import instructions, reasoning_gym
from gdsd_jax import experiment, settings
from gdsd_jax.metrics import read_metrics
from gdsd_jax.tasks.instructions import problems
from gdsd_jax.train import train

MODELS = [(config, model) for config in (instructions, reasoning_gym) for model in config.MODELS]


@pytest.mark.parametrize("config, model", MODELS)
def test_recipes_are_accepted(config, model):
    chosen = settings.parse(config.get_config(model))
    assert chosen.task == config.__name__.rpartition(".")[2]
    assert chosen.require_init == (model != "tiny")
    assert chosen.prompt is None and chosen.reward.variant == "mended"
    experiment.check_settings(chosen, experiment.make_mesh(chosen))
    experiment.check_views(chosen)


def test_options_of_a_library_data_set_are_typed():
    text = "llada,options.dataset=(leg_counting,zebra_puzzles),options.config.max_animals=5"
    options = settings.parse(reasoning_gym.get_config(text)).options
    assert options.dataset == ("leg_counting", "zebra_puzzles")
    assert options.config == {"max_animals": "5"}
    chosen = settings.parse(reasoning_gym.get_config("llada,options.dataset=zebra_puzzles"))
    assert chosen.options.dataset == ("zebra_puzzles",)


@pytest.mark.slow
def test_a_few_steps_of_the_embedded_default(tmp_path, monkeypatch):
    """Problems are built, answers learnt from, rollouts graded."""
    monkeypatch.setattr(problems, "NUM_TRAIN", 96)
    monkeypatch.setattr(problems, "NUM_HELDOUT", 8)
    chosen = settings.parse(
        instructions.get_config(
            "rounds=1,prompts_per_round=8,group_size=2,inner_iterations=1,sft.steps=2,sft.batch=8,"
            f"eval_problems=8,data_dir={tmp_path}"
        )
    )
    said = []
    prepared = experiment.prepare(chosen, say=said.append)
    assert said == []  # every prompt and answer fits
    train(prepared, tmp_path / "run", say=said.append)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    evals = [row for row in rows if row["phase"] == "eval"]
    assert [row["problems"] for row in evals] == [8, 8]
    assert all(0 <= row["all"] <= row["mean_reward"] <= 1 for row in evals)
