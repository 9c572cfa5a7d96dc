"""Whole runs with numbers that are not finite, in a loss or in a reward."""

import contextlib

import numpy as np
import pytest

from gdsd_jax import experiment, metrics, settings, tasks, train
from gdsd_jax.checkpoint import Checkpoints

# every second batch or so has a loss that is NaN
OBJECTIVE = """
import jax.numpy as jnp

from gdsd_jax.objectives import sft


def loss(denoiser, config, params, batch):
    value, metrics = sft.loss(denoiser, config, params, batch)
    return value * jnp.where(jnp.sum(batch.tokens_BxL) % 2, 1.0, jnp.nan), metrics


OBJECTIVE = sft.OBJECTIVE._replace(loss=loss)
"""


@pytest.fixture(scope="module")
def prepared(workdir):
    found = experiment.prepare(settings.read(workdir), say=len)
    with contextlib.closing(found.task):
        yield found


def with_settings(prepared, **changes):
    return prepared._replace(settings=settings.replace(prepared.settings, changes))


@pytest.fixture
def breaking(prepared, tmp_path):
    """A run whose supervised phase breaks down."""
    own = tmp_path / "breaking.py"
    own.write_text(OBJECTIVE)
    return with_settings(prepared, **{"sft.objective": str(own), "sft.steps": 8})


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(breaking, tmp_path):
    """With the step, a tensor and the rows."""
    said = r"sft step [1-8]: loss is nan, the gradient of embed\S* is not finite, from rows 1 to 16"
    with pytest.raises(FloatingPointError, match=f"{said} of the step on; there is no") as error:
        train.train(breaking, tmp_path / "run", say=len)
    assert "\n" not in str(error.value) and "not_finite=skip" in str(error.value)
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() is None


@pytest.mark.slow
def test_or_such_steps_are_left_out_and_counted(breaking, tmp_path):
    """A reward that is NaN counts as not judged then, here half of them."""
    task = breaking.task

    def grade(records, texts):
        found = task.grade(records, texts)
        odd = np.arange(len(texts)) % 2 == 1
        broken_N = odd if len(texts) > 1 else np.array([texts[0] in left_out])
        left_out.update(text for text, broken in zip(texts, broken_N) if broken)
        return found._replace(reward_N=np.where(broken_N, np.nan, found.reward_N))

    left_out, said = set(), []
    chosen = with_settings(breaking, not_finite="skip", rounds=1, **{"sft.log_every": 8})
    train.train(chosen._replace(task=task._replace(grade=grade)), tmp_path, say=said.append)
    rows = metrics.read_metrics(tmp_path / "metrics.jsonl")
    told = [line for line in said if "sft step" in line and "the step is left out" in line]
    (line,) = (row for row in rows if row["phase"] == "sft")
    assert 0 < line["skipped"] == len(told) < 8 and np.isfinite(line["loss"])
    (shown,) = (line for line in said if line.startswith("sft step 8/8"))
    assert f"| {len(told)} skipped |" in shown
    (rollout,) = (row for row in rows if row["phase"] == "rollout")
    assert 0 < rollout["judged"] < 1 and np.isfinite(rollout["reward"])
    assert any("answers count as not judged" in line for line in said)


@pytest.mark.slow
def test_a_grade_that_fails_ends_the_run(prepared, tmp_path):
    def grade(records, texts):
        raise KeyError("column")

    chosen = prepared._replace(task=prepared.task._replace(grade=grade))
    with pytest.raises(tasks.GradeError, match="not_finite_test.py: grade fails on .*KeyError"):
        train.train(chosen, tmp_path, say=len)
