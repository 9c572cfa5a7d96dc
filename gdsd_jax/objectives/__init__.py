"""Objectives: `make_loss_fn(name, denoiser, config)` gives a pure function of
`(trainable, frozen, batch)`, which returns `(loss, metrics)`.

A file an objective: a frozen config, `loss`, `views` (the masks it wants), `scores` (what it
compares with, old and reference).
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from gdsd_jax.objectives import ar, coupled_grpo, diffu_grpo, dmpo, espo, gdsd, opd, sft, spg, wd1
from gdsd_jax.objectives.ar import ArConfig
from gdsd_jax.objectives.checks import check_batch
from gdsd_jax.objectives.coupled_grpo import CoupledGrpoConfig
from gdsd_jax.objectives.diffu_grpo import DiffuGrpoConfig
from gdsd_jax.objectives.dmpo import DmpoConfig
from gdsd_jax.objectives.espo import EspoConfig
from gdsd_jax.objectives.gdsd import GdsdConfig
from gdsd_jax.objectives.opd import OpdConfig
from gdsd_jax.objectives.sft import SftConfig
from gdsd_jax.objectives.spg import SpgConfig
from gdsd_jax.objectives.wd1 import Wd1Config
from gdsd_jax.types import Batch, Denoiser, PyTree

__all__ = [
    "OBJECTIVES",
    "ArConfig",
    "CoupledGrpoConfig",
    "DiffuGrpoConfig",
    "DmpoConfig",
    "EspoConfig",
    "GdsdConfig",
    "Objective",
    "OpdConfig",
    "SftConfig",
    "SpgConfig",
    "Wd1Config",
    "compares_groups",
    "frozen_params",
    "has_teacher",
    "make_config",
    "make_loss_fn",
    "make_score_fn",
    "make_sft_config",
    "make_views_fn",
    "uses_reference",
    "uses_rewards",
]


class Objective(NamedTuple):
    """What the loop knows of an objective; K draws, B rows, L columns, G completion columns.

    Attributes:
      config: a frozen dataclass.
      loss: `(denoiser, config, params, batch) -> (loss, metrics)`.
      views: `(config, batch, draws, rng) -> masks_KxBxL`, the masks that the loss wants.
      scores: `(denoiser, config, params, batch) -> (old, reference)`, [K, B] or [K, B, G] nats:
        what `Batch.old_KxB` and `Batch.ref_KxB` hold. None where the loss reads neither.
      reference: `config -> bool`, whether the loss compares with the reference policy.
      by_group: a loss that compares the completions of a prompt, all of which must lie in its
        batch.
      rewards: whether the loss reads advantages.
      weighs_by: the batch's field that a loss with `rewards` weighs completions by.
      masks: whether the loss reads masks.
      teacher: a loss that distils: its config has a `teacher`, and `frozen["teacher"]` is its last
        argument.
    """

    config: type
    loss: Callable
    views: Callable
    scores: Callable | None = None
    reference: Callable = lambda config: getattr(config, "beta", 0.0) > 0
    by_group: bool = False
    rewards: bool = True
    weighs_by: str = "advantages_B"
    masks: bool = True
    teacher: bool = False


OBJECTIVES = {
    "gdsd": Objective(GdsdConfig, gdsd.loss, gdsd.views, gdsd.scores),
    "espo": Objective(EspoConfig, espo.loss, espo.views, espo.scores),
    "spg": Objective(SpgConfig, spg.loss, spg.views),
    "diffu_grpo": Objective(DiffuGrpoConfig, diffu_grpo.loss, diffu_grpo.views, diffu_grpo.scores),
    "coupled_grpo": Objective(
        CoupledGrpoConfig, coupled_grpo.loss, coupled_grpo.views, coupled_grpo.scores
    ),
    "wd1": Objective(Wd1Config, wd1.loss, wd1.views, by_group=True),
    "dmpo": Objective(
        DmpoConfig,
        dmpo.loss,
        dmpo.views,
        dmpo.scores,
        reference=lambda config: True,
        by_group=True,
        weighs_by="rewards_B",
    ),
    "opd": Objective(OpdConfig, opd.loss, opd.views, rewards=False, teacher=True),
    "sft": Objective(SftConfig, sft.loss, sft.views, rewards=False),
    "ar": Objective(ArConfig, ar.loss, ar.views, rewards=False, masks=False),
}


def make_loss_fn(name: str, denoiser: Denoiser, config) -> Callable:
    """The loss of an objective as a pure function of `(trainable, frozen, batch)`; masks and old
    scores come in the batch.

    Raises:
      ValueError: unknown name, or a config of another objective; by the loss, a field that the
        batch lacks.
    """
    objective = find(name)
    if not isinstance(config, objective.config):
        raise ValueError(
            f"objective {name!r} takes a {objective.config.__name__}, not {type(config).__name__}"
        )

    def loss_fn(trainable, frozen, batch):
        check_batch(name, batch, fields_read(objective, batch))
        params = denoiser.bind(trainable, frozen)
        if not objective.teacher:
            return objective.loss(denoiser, config, params, batch)
        teacher = frozen_params(config.teacher, frozen, "teacher")
        return objective.loss(denoiser, config, params, batch, teacher)

    return loss_fn


def frozen_params(denoiser: Denoiser, frozen: dict, name: str) -> PyTree:
    """Parameters of the frozen "reference" or "teacher": its copy, or without one the base of the
    adapters, which is what the student started from."""
    return denoiser.bind(frozen[name], frozen) if name in frozen else frozen["base"]


def fields_read(objective: Objective, batch: Batch) -> list[str]:
    """The batch's fields that the loss cannot do without."""
    fields = ["tokens_BxL", "valid_BxL", "completion_len_B"]
    # a loss that distils may have its state as tokens
    if objective.masks and not (objective.teacher and batch.noised_BxL is not None):
        fields.append("masks_KxBxL")
    return [*fields, objective.weighs_by] if objective.rewards else fields


def make_score_fn(name: str, denoiser: Denoiser, config) -> Callable | None:
    """`score_fn(params, batch) -> (old, ref)`: the scores that the loss compares with, at these
    parameters."""
    scores = find(name).scores
    return None if scores is None else lambda params, batch: scores(denoiser, config, params, batch)


def make_views_fn(name: str, config) -> Callable:
    """`views_fn(batch, draws, rng) -> masks_KxBxL`: the masks that the loss wants; ValueError for
    impossible ones."""
    views = find(name).views
    return lambda batch, draws, rng: views(config, batch, draws, rng)


def make_config(name: str, settings):
    """The objective's config from a mapping of its fields; ValueError for values that it
    refuses."""
    return find(name).config(**settings)


def make_sft_config(section):
    """The config of the supervised phase: `section.objective` ("sft" or "ar") with those of the
    section's fields it has."""
    known = {field.name for field in dataclasses.fields(find(section.objective).config)}
    return make_config(section.objective, {key: section[key] for key in section if key in known})


def uses_reference(name: str, config) -> bool:
    """Whether the loss compares with the reference policy."""
    return find(name).reference(config)


def compares_groups(name: str) -> bool:
    """Whether all completions of a prompt must lie in one batch."""
    return find(name).by_group


def uses_rewards(name: str) -> bool:
    """Whether the loss reads advantages, so that completions must be rewarded."""
    return find(name).rewards


def has_teacher(name: str) -> bool:
    """Whether the loss distils an autoregressive teacher."""
    return find(name).teacher


def find(name: str) -> Objective:
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}, known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
