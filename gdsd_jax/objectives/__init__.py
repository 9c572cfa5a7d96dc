"""Objectives: `make_loss_fn(name, denoiser, config)` gives `loss_fn(trainable, frozen, batch) -> (loss, metrics)`."""
from collections.abc import Callable
from typing import NamedTuple

from gdsd_jax.objectives import gdsd, sft
from gdsd_jax.objectives.gdsd import GdsdConfig
from gdsd_jax.objectives.sft import SftConfig
from gdsd_jax.types import Denoiser

__all__ = ["OBJECTIVES", "GdsdConfig", "Objective", "SftConfig", "make_config", "make_loss_fn", "make_score_fn"]


class Objective(NamedTuple):
    config: type
    loss: Callable
    scores: Callable | None  # what `Batch.old_KxB` and `Batch.ref_KxB` hold; None where the objective reads neither


OBJECTIVES = {
    "gdsd": Objective(GdsdConfig, gdsd.loss, gdsd.scores),
    "sft": Objective(SftConfig, sft.loss, None),
}


def make_loss_fn(name: str, denoiser: Denoiser, config) -> Callable:
    """The loss of an objective as a pure function of `(trainable, frozen, batch)`; masks and old scores come in the batch.

    Raises:
      ValueError: unknown name, or a config of another objective.
    """
    objective = find(name)
    if not isinstance(config, objective.config):
        raise ValueError(f"objective {name!r} takes a {objective.config.__name__}, not {type(config).__name__}")

    def loss_fn(trainable, frozen, batch):
        return objective.loss(denoiser, config, denoiser.bind(trainable, frozen), batch)

    return loss_fn


def make_score_fn(name: str, denoiser: Denoiser, config) -> Callable | None:
    """`score_fn(params, batch) -> (old_KxB, ref_KxB)`: the scores that the loss compares with, at these parameters."""
    scores = find(name).scores
    return None if scores is None else lambda params, batch: scores(denoiser, config, params, batch)


def make_config(name: str, settings):
    """The objective's config from a mapping of its fields; ValueError for values that it refuses."""
    return find(name).config(**settings)


def find(name: str) -> Objective:
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}, known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
