"""The recipes for words and mathematics, accepted on a mesh of eight; what the names of models mean
in all."""

import json

import pytest

from configs import coding, countdown, gsm8k, instructions, math, reasoning_gym, sft, sudoku
from gdsd_jax import experiment, settings
from gdsd_jax.metrics import read_metrics
from gdsd_jax.tasks.instructions import problems
from gdsd_jax.train import train

MODELS = [(config, model) for config in (instructions, reasoning_gym) for model in config.MODELS]
MATHEMATICS = {  # a row of each task's file
    gsm8k: {"question": "What is {} and 2?", "answer": "{0} and 2 are {1}.\n#### {1}"},
    math: {"problem": "What is {}+2?", "solution": "It is \\boxed{{{1}}}."},
}


@pytest.mark.parametrize("config, model", MODELS)
def test_recipes_are_accepted(config, model):
    chosen = settings.parse(config.get_config(model))
    assert chosen.task == config.__name__.rpartition(".")[2]
    assert chosen.require_init == (model != "tiny")
    assert chosen.prompt is None and chosen.reward.variant == "mended"
    experiment.check_settings(chosen, experiment.make_mesh(chosen))
    experiment.check_views(chosen)


def rows_of(config, count):
    """Rows of a file, each another problem."""
    for number in range(count):
        texts = MATHEMATICS[config].items()
        yield {name: text.format(number, number + 2) for name, text in texts}


@pytest.mark.parametrize("config", MATHEMATICS)
def test_a_file_of_problems_can_be_tried_with_a_tiny_model(config, tmp_path):
    """Its questions and solutions fit; without a file one line asks for it."""
    chosen = settings.parse(config.get_config(f"tiny,data_dir={tmp_path}"))
    assert chosen.name.endswith("-tiny") and not chosen.require_init and chosen.sft.steps
    experiment.check_settings(chosen, experiment.make_mesh(chosen))
    with pytest.raises(ValueError, match="^add data_file=FILE.jsonl: one JSON object a line"):
        experiment.prepare(chosen)
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(config, 60))))
    said = []
    chosen = settings.parse(config.get_config(f"tiny,data_file={path},objective=wd1"))
    found = experiment.prepare(chosen, say=said.append)
    found.task.close()
    assert (len(found.train), len(found.heldout), len(found.sft_problems)) == (54, 6, 54)
    assert [line for line in said if "dropped" in line] == []
    assert chosen.objective == "wd1" and chosen.name.endswith("-tiny-wd1")


@pytest.mark.parametrize("config", (coding, countdown, gsm8k, instructions, math, sudoku, sft))
def test_a_converted_model_has_full_size_under_the_same_name(config):
    chosen = settings.parse(config.get_config("a2d"))
    assert chosen.model is None and chosen.require_init and chosen.lora_rank == 128
    assert (chosen.sampler.kind, chosen.sampler.gen_length) == ("block", 256)
    assert chosen.name.endswith("-a2d") and chosen.name.count("-") == 1
    experiment.check_settings(chosen, experiment.make_mesh(chosen))


def test_the_embedded_problems_go_on_from_a_tiny_converted_model():
    chosen = settings.parse(coding.get_config("tiny_a2d"))
    assert (chosen.model, chosen.name) == ("a2d_qwen3_tiny", "coding-tiny-a2d")
    assert chosen.require_init and not chosen.lora_rank and not chosen.sft.steps


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
