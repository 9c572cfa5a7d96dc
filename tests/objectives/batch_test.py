"""Batches that lack what an objective reads are refused before its loss is traced."""

import jax
import jax.numpy as jnp
import pytest

from gdsd_jax import models, objectives
from gdsd_jax.types import Batch
from tests.reference import random_batch, tiny

MODEL = tiny()
ALWAYS = ("tokens_BxL", "valid_BxL", "completion_len_B")
READ = {
    **dict.fromkeys(objectives.OBJECTIVES, (*ALWAYS, "masks_KxBxL", "advantages_B")),
    "dmpo": (*ALWAYS, "masks_KxBxL", "rewards_B"),
    "opd": (*ALWAYS, "masks_KxBxL"),
    "sft": (*ALWAYS, "masks_KxBxL"),
    "ar": ALWAYS,
}
SHAPES = {
    "tokens_BxL": r"int32 \[B, L\]",
    "valid_BxL": r"bool \[B, L\]",
    "completion_len_B": r"int32 \[B\]",
    "masks_KxBxL": r"bool \[K, B, L\]",
    "advantages_B": r"float32 \[B\]",
    "rewards_B": r"float32 \[B\]",
}


def make_batch() -> Batch:
    return random_batch(MODEL, rows=4, prompt_len=3, gen=6, draws=2, rewards_B=jnp.zeros(4))


def make_loss_fn(name):
    config = objectives.make_config(name, {})
    return objectives.make_loss_fn(name, models.make_denoiser(MODEL), config)


@pytest.mark.parametrize("name, field", [(name, field) for name in READ for field in READ[name]])
def test_a_missing_field_is_named(name, field):
    batch = make_batch().replace(**{field: None})
    with pytest.raises(ValueError, match=f"'{name}' needs batch.{field}.*give {SHAPES[field]}"):
        make_loss_fn(name)({}, {"base": {}}, batch)


@pytest.mark.parametrize("name", READ)
def test_what_is_not_read_may_be_missing(name, monkeypatch):
    """The loss is replaced: whether it is reached is the question."""
    reached = objectives.OBJECTIVES[name]._replace(loss=lambda *_: "reached")
    monkeypatch.setitem(objectives.OBJECTIVES, name, reached)
    batch = make_batch().replace(**dict.fromkeys(set(SHAPES) - set(READ[name])))
    assert make_loss_fn(name)({}, {"base": {}}, batch) == "reached"


def test_a_state_as_tokens_needs_no_masks(monkeypatch):
    reached = objectives.OBJECTIVES["opd"]._replace(loss=lambda *_: "reached")
    monkeypatch.setitem(objectives.OBJECTIVES, "opd", reached)
    batch = make_batch()
    batch = batch.replace(masks_KxBxL=None, noised_BxL=batch.tokens_BxL)
    assert make_loss_fn("opd")({}, {"base": {}}, batch) == "reached"


def test_next_token_prediction_reads_no_masks():
    denoiser = models.make_denoiser(tiny(shift=True, attention="causal"))
    loss_fn = objectives.make_loss_fn("ar", denoiser, objectives.ArConfig())
    params = models.param_shapes(tiny(shift=True, attention="causal"))
    loss, _ = jax.eval_shape(loss_fn, params, {}, make_batch().replace(masks_KxBxL=None))
    assert loss.shape == ()
