"""configs/examples: each is a recipe, and one file that other recipes take."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import cli, extensions, models, objectives, sampling, settings, tasks
from gdsd_jax.tasks import TaskSettings
from tests import reference

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def file_of(name: str) -> str:
    return str(FOLDER / f"{name}.py")


def test_there_is_one_for_each_of_the_four():
    assert NAMES == ["own_objective", "own_order", "own_reward", "own_task"]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_recipe_that_names_its_own_file(name):
    chosen = settings.parse(cli.load_config(f"examples/{name}:tiny,rounds=7"))
    named = {
        "own_objective": chosen.objective,
        "own_order": chosen.sampler.remasking,
        "own_reward": chosen.task,
        "own_task": chosen.task,
    }
    assert named[name] == file_of(name) and chosen.rounds == 7
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 55


def test_the_task_pays_the_sum(tmp_path):
    options = tasks.options_of(file_of("own_task"))(largest=3)
    task = tasks.find(file_of("own_task"))(TaskSettings(data_dir=str(tmp_path), options=options))
    assert len(task.train) == 9
    record = task.train[5]
    found = tasks.graded(task, [record] * 3, [" 3\n", "4", task.answer(record, None)], ())
    assert (record["a"], record["b"]) == (1, 2) and found.reward_N.tolist() == [1, 0, 1]


def test_the_reward_takes_two_hundredths_for_each_character(tmp_path):
    """The rest of the grades are those of our task."""
    given = TaskSettings(data_dir=str(tmp_path), options=tasks.options_of("countdown")((2,), 9, 18))
    ours, own = (tasks.find(name)(given) for name in ("countdown", file_of("own_reward")))
    record = own.train[0]
    texts = [own.answer(record, None), "", "no"]
    before = tasks.graded(ours, [record] * 3, texts, tasks.parts_of(ours))
    found = tasks.graded(own, [record] * 3, texts, tasks.parts_of(own))
    lengths = [len(text) for text in texts]
    assert found.solved_N.tolist() == before.solved_N.tolist() == [True, False, False]
    np.testing.assert_allclose(before.reward_N - found.reward_N, [0.02 * n for n in lengths], 1e-5)
    assert set(found.parts) - set(before.parts) == {"characters"}


def test_the_order_goes_from_left_to_right():
    order = extensions.load(file_of("own_order"), {}, "ORDER")
    tokens_BxC = jnp.zeros((2, 5), jnp.int32)
    order_BxC = order(sampling.SamplerConfig(), None, tokens_BxC, None, jax.random.key(0))
    assert np.argsort(-np.asarray(order_BxC), axis=1).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_the_objective_is_the_advantage_times_the_bound():
    """Against float64 loops: nats a token, twice that of a scale of 1."""
    model = reference.tiny()
    params = reference.random_params(model)
    batch = reference.random_batch(model, rows=4, prompt_len=3, gen=6, draws=2)
    name = file_of("own_objective")
    config = objectives.find(name).config(scale=2.0)
    loss_fn = objectives.make_loss_fn(name, models.make_denoiser(model), config)
    loss, metrics = loss_fn(params, {}, batch)

    def logits_fn(tokens_BxL, valid_BxL):
        return reference.forward(model, params, tokens_BxL, valid_BxL)

    plain_KxB, _ = reference.pair_scores(
        logits_fn, model.mask_id, batch, weighting="elbo", count="answer"
    )
    score_B = plain_KxB.mean(axis=0) / np.asarray(batch.completion_len_B)
    terms_B = 2 * np.asarray(batch.advantages_B) * score_B
    np.testing.assert_allclose(loss, -terms_B.mean(), atol=1e-5 * np.abs(terms_B).mean())
    np.testing.assert_allclose(metrics["score"], score_B.mean(), rtol=1e-5)
