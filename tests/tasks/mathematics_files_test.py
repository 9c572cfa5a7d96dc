r"""Problems of mathematics from files, how they are asked, worked answers, and the recipes."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import gsm8k as gsm8k_config
from configs import math as math_config
from gdsd_jax import experiment, settings
from gdsd_jax.tasks import OPTIONS, RewardConfig, TaskSettings, array_records, graded, parts_of
from gdsd_jax.tasks.mathematics import competition, gsm8k, problems

STEPS = "Half is 96/2 = <<96/2=48>>48.\nAll is 48+24 = <<48+24=72>>72.\n#### 72"
APPLES = {"question": "How many apples?", "answer": STEPS}
HALF = {
    "problem": "What is half?",
    "solution": "Not $\\boxed{1}$, but $\\boxed{\\frac{1}{2}}$.",
    "level": "Level 1",
    "subject": "Algebra",
}
FILES = {gsm8k: APPLES, competition: HALF}


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def make(task, path, **chosen):
    return task.make(TaskSettings(data_file=str(path), **chosen))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    "row, answer, solution",
    [
        (APPLES, "72", STEPS),
        ({"question": "q", "answer": "#### 1,080"}, "1,080", "#### 1,080"),
        ({"question": "q", "answer": -5}, "-5", ""),
        ({"question": "q", "answer": "5"}, "5", ""),
        ({"question": "q", "generations": "", "ground_truth": 18.0}, "18", ""),
        ({"question": "q", "ground_truth": 18.5}, "18.5", ""),
    ],
)
def test_rows_of_gsm8k(row, answer, solution):
    found = gsm8k.read(row)
    assert found == {"question": row["question"], "answer": answer, "solution": solution}


@pytest.mark.parametrize(
    "row, answer",
    [
        (HALF, "\\frac{1}{2}"),
        (HALF | {"answer": "0.5"}, "0.5"),
        ({"problem": "p", "answer": 3}, "3"),
        ({"question": "p", "generations": "", "ground_truth": "p - q"}, "p - q"),
        ({"question": "p", "solution": "$\\boxed 5$"}, "5"),
    ],
)
def test_rows_of_math(row, answer):
    found = competition.read(row)
    assert found["answer"] == answer and found["question"] == row.get("problem", "p")
    assert found["solution"] == row.get("solution", "")


@pytest.mark.parametrize(
    "task, row, said",
    [
        (gsm8k, [], "not a JSON object"),
        (gsm8k, {"answer": "#### 5"}, "question is missing"),
        (gsm8k, {"question": "q"}, "answer is missing: give the steps and then ####"),
        (gsm8k, {"question": "q", "answer": "five"}, "answer='five' is not a number"),
        (gsm8k, {"question": "q", "answer": "5\n####"}, "answer='' is not a number"),
        (gsm8k, {"question": "q", "answer": "1" * 17}, "is not a number"),
        (gsm8k, {"question": "q", "answer": True}, "neither a string nor a number"),
        (gsm8k, {"question": "q", "ground_truth": [1]}, "neither a string nor a number"),
        (gsm8k, {"ground_truth": 1}, "question is missing"),
        (competition, [], "not a JSON object"),
        (competition, {"answer": "5"}, "question is missing"),
        (competition, {"problem": 3, "answer": "5"}, "question is not a non-empty string"),
        (competition, {"problem": "p"}, "no answer, and none in a .*: give the final answer"),
        (competition, {"problem": "p", "solution": "\\boxed{"}, "no answer"),
        (competition, {"problem": "p", "solution": 5}, "solution is not a string"),
        (competition, {"question": "p", "ground_truth": None}, "no answer"),
    ],
)
def test_bad_rows_are_refused_in_one_line(task, row, said):
    with pytest.raises(ValueError, match=said) as error:
        task.read(row)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", FILES)
def test_files_columns_and_notes(tmp_path, task):
    first = "question" if task is gsm8k else "problem"
    path = write(tmp_path / "a.jsonl", FILES[task], FILES[task] | {first: "Another?"})
    found = make(task, path)
    assert len(found.train) == 2 and found.heldout is None and found.notes == ()
    found = make(task, path, heldout_file=write(tmp_path / "b.jsonl", FILES[task]))
    assert len(found.heldout) == 1
    renamed = {"asked" if name == first else name: text for name, text in FILES[task].items()}
    path = write(tmp_path / "c.jsonl", renamed)
    assert make(task, path, columns={first: "asked"}).train == found.heldout
    with pytest.raises(ValueError, match=rf"columns\.text: .*{first}"):
        make(task, path, columns={"text": "asked"})
    with pytest.raises(ValueError, match="add data_file=FILE.jsonl"):
        task.make(TaskSettings(data_dir=str(tmp_path / "nothing")))


class Gsm8k(array_records.RowsBuilder):
    """As tensorflow-datasets has it."""

    VERSION = tfds.core.Version("1.0.0")

    def row_features(self):
        return dict.fromkeys(("question", "answer", "short_answer"), tfds.features.Text())


def test_records_of_tensorflow_datasets_are_read(tmp_path):
    rows = [APPLES | {"short_answer": "72", "question": f"{number}?"} for number in range(5)]
    array_records.write(Gsm8k, {"train": rows[:3], "test": rows[3:]}, tmp_path)
    assert (tmp_path / "gsm8k").is_dir()
    task = gsm8k.make(TaskSettings(data_dir=str(tmp_path)))
    assert [record["question"] for record in task.train] == ["0?", "1?", "2?"]
    assert [record["question"] for record in task.heldout] == ["3?", "4?"]
    assert task.train[0]["answer"] == "72" and task.train[0]["solution"] == STEPS
    with pytest.raises(ValueError, match="tfds build gsm8k --file_format=array_record"):
        gsm8k.make(TaskSettings(data_dir="gs://bucket"))


# ---------------------------------------------------------------- prompts and answers


@pytest.mark.parametrize("task", FILES)
def test_prompts(tmp_path, task):
    path = write(tmp_path / "a.jsonl", FILES[task])
    record = task.read(FILES[task])
    (turn,) = make(task, path, prompt="bare").messages(record)
    assert turn == {"role": "user", "content": record["question"]}
    (turn,) = make(task, path, prompt="full").messages(record)
    assert turn["content"].startswith(record["question"]) and "\\boxed{}" in turn["content"]
    assert make(task, path).messages(record) == [turn]
    (bare,) = make(task, path, from_nothing=True).messages(record)
    assert bare["content"] == record["question"]
    (turn,) = make(task, path, prompt="released").messages(record)
    assert turn["content"].endswith(record["question"]) and "<reasoning>" in turn["content"]
    assert ("\\boxed" in turn["content"]) == (task is competition)
    asked = task.OPTIONS(asked="evaluation")
    turns = make(task, path, prompt="released", options=asked).messages(record)
    assert "\\boxed{...}" in turns[0]["content"]
    assert turns[1] == {"role": "assistant", "content": "<reasoning>"}


@pytest.mark.parametrize("task", FILES)
def test_examples_come_from_the_training_problems(tmp_path, task):
    first = "question" if task is gsm8k else "problem"
    rows = [FILES[task] | {first: f"Number {number}?"} for number in range(6)]
    path = write(tmp_path / "a.jsonl", *rows)
    two = task.OPTIONS(shots=2)
    found = make(task, path, options=two, seed=1)
    record = task.read(FILES[task])
    turns = found.messages(record)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    shown = {turn["content"].partition("\n")[0] for turn in turns[:-1:2]}
    left = {one["question"] for one in found.train}
    assert len(shown) == 2 and len(left) == 4 and not shown & left
    # by no seed of a run: runs that differ in it hold out, ask and train on the same problems
    others = [make(task, path, options=two, seed=seed) for seed in range(1, 6)]
    assert all(turns == other.messages(record) for other in others)
    assert all(found.train == other.train for other in others)
    final = "\\boxed{72}" if task is gsm8k else "\\boxed{\\frac{1}{2}}"
    assert all(turn["content"].endswith(f"{final}.") for turn in turns[1:-1:2])
    (turn,) = make(task, path, options=two, prompt="released").messages(record)
    assert turn["content"].count("Question: ") == 3 and turn["content"].endswith("Answer:\n")
    with pytest.raises(ValueError, match=r"options\.shots=6: there are 6"):
        make(task, path, options=task.OPTIONS(shots=6))


@pytest.mark.parametrize("options", [{"shots": -1}, {"asked": "never"}, {"workers": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=f"options.{next(iter(options))}"):
        problems.OPTIONS(**options)
    assert OPTIONS["gsm8k"] is OPTIONS["math"] is problems.OPTIONS


@pytest.mark.parametrize("task", FILES)
@pytest.mark.parametrize("variant", ["mended", "released"])
@pytest.mark.parametrize(
    "prompt, asked", [("full", "training"), ("released", "training")] + [("released", "evaluation")]
)
def test_answers_are_right_or_wrong_by_seed(tmp_path, task, variant, prompt, asked):
    first = "question" if task is gsm8k else "problem"
    rows = [FILES[task] | {first: f"Number {number}?"} for number in range(200)]
    path = write(tmp_path / "a.jsonl", *rows)
    reward, options = RewardConfig(variant), task.OPTIONS(asked=asked)
    found = make(task, path, reward=reward, prompt=prompt, noise=0.5, options=options)
    best = [found.answer(record, None) for record in found.train]
    assert "<<" not in best[0] and "####" not in best[0]
    grades = graded(found, found.train, best, parts_of(found))
    if prompt == "released" or variant == "mended":
        assert grades.solved_N.all() and (grades.reward_N >= 1).all()
    if variant == "released" and prompt == "released":
        full = (task is gsm8k and asked == "training") or task is competition
        assert (grades.parts["exact"] == full).all()
    drawn = [found.answer(record, "7") for record in found.train]
    assert drawn == [found.answer(record, "7") for record in found.train]
    assert drawn != [found.answer(record, "8") for record in found.train]
    grades = graded(found, found.train, drawn, parts_of(found))
    assert 70 < grades.solved_N.sum() < 130
    found.close()


# ---------------------------------------------------------------- recipes

CONFIGS = {"gsm8k": gsm8k_config, "math": math_config}
# prompts a round, inner iterations, slices, draws, rate, weight decay, psi, beta, trust
RELEASED = {
    "gsm8k": (20, 8, 4, 2, 3e-6, 0.01, 10.0, 1e-3, 4e-4),
    "math": (16, 8, 4, 2, 1e-5, 0.01, 10.0, 1e-4, 4e-4),
}


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("model", gsm8k_config.MODELS)
def test_recipes_are_accepted(task, model):
    chosen = settings.parse(CONFIGS[task].get_config(model))
    assert chosen.task == task and chosen.name == f"{task}-{model}"
    assert chosen.require_init == (model != "tiny") and chosen.reward.variant == "mended"
    assert chosen.prompt == (None if model == "tiny" else "full")
    experiment.check_settings(chosen, experiment.make_mesh(chosen))
    experiment.check_views(chosen)


@pytest.mark.parametrize("task", RELEASED)
def test_released_values(task):
    chosen = settings.parse(CONFIGS[task].get_config("gdsd.recipe=r1"))
    gdsd, optimizer = chosen.objective_config, chosen.optimizer
    found = (chosen.prompts_per_round, chosen.inner_iterations, chosen.slices, chosen.mask_draws)
    found += (optimizer.learning_rate, optimizer.weight_decay, gdsd.psi, gdsd.beta)
    assert (*found, gdsd.trust[0]) == RELEASED[task]
    assert (gdsd.preset, gdsd.centring, chosen.prompt) == ("r1", "none", "released")
    assert (chosen.model, chosen.sampler.gen_length, chosen.prompt_length) == ("llada_8b", 256, 400)
    with pytest.raises(ValueError, match="unknown model 'small'.*llada, dream, a2d"):
        CONFIGS[task].get_config("small")
    told = settings.parse(
        CONFIGS[task].get_config(
            "gdsd.recipe=r1,options.shots=3,options.asked=evaluation,reward.variant=mended"
        )
    )
    assert (told.options.shots, told.options.asked) == (3, "evaluation")
    assert np.isclose(told.sampler.steps, 256) and told.reward.variant == "mended"
