"""Objectives by name: `make_loss_fn(name, denoiser, config)` and its companions.

`loss_fn(trainable, frozen, batch) -> (loss, metrics)`. A file for each objective: a frozen config,
`loss`, `views` (the masks that it wants), `scores` (what it compares with) and, at its end,
OBJECTIVE. Where a name is taken, the path of a .py file that defines OBJECTIVE is taken too.
"""

from collections.abc import Callable
import functools

from gdsd_jax import extensions
from gdsd_jax.objectives import (
    ar,
    coupled_grpo,
    diffu_grpo,
    dmpo,
    espo,
    gdpo,
    gdsd,
    just_grpo,
    opd,
    rft,
    sft,
    spg,
    trajectory,
    wd1,
)
from gdsd_jax.objectives.ar import ArConfig
from gdsd_jax.objectives.checks import check_fields
from gdsd_jax.objectives.coupled_grpo import CoupledGrpoConfig
from gdsd_jax.objectives.diffu_grpo import DiffuGrpoConfig
from gdsd_jax.objectives.dmpo import DmpoConfig
from gdsd_jax.objectives.espo import EspoConfig
from gdsd_jax.objectives.gdpo import GdpoConfig
from gdsd_jax.objectives.gdsd import GdsdConfig
from gdsd_jax.objectives.just_grpo import JustGrpoConfig
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.objectives.opd import OpdConfig
from gdsd_jax.objectives.rft import RftConfig
from gdsd_jax.objectives.sft import SftConfig
from gdsd_jax.objectives.spg import SpgConfig
from gdsd_jax.objectives.trajectory import TrajectoryConfig
from gdsd_jax.objectives.wd1 import Wd1Config
from gdsd_jax.types import Denoiser, PyTree

__all__ = [
    "OBJECTIVES",
    "ArConfig",
    "CoupledGrpoConfig",
    "DiffuGrpoConfig",
    "DmpoConfig",
    "EspoConfig",
    "GdpoConfig",
    "GdsdConfig",
    "JustGrpoConfig",
    "Objective",
    "OpdConfig",
    "RftConfig",
    "SftConfig",
    "SpgConfig",
    "TrajectoryConfig",
    "Wd1Config",
    "find",
    "frozen_params",
    "make_loss_fn",
    "make_score_fn",
    "make_count_fn",
    "make_views_fn",
]

OBJECTIVES = {
    "gdsd": gdsd.OBJECTIVE,
    "espo": espo.OBJECTIVE,
    "spg": spg.OBJECTIVE,
    "diffu_grpo": diffu_grpo.OBJECTIVE,
    "coupled_grpo": coupled_grpo.OBJECTIVE,
    "wd1": wd1.OBJECTIVE,
    "dmpo": dmpo.OBJECTIVE,
    "rft": rft.OBJECTIVE,
    "gdpo": gdpo.OBJECTIVE,
    "trajectory": trajectory.OBJECTIVE,
    "just_grpo": just_grpo.OBJECTIVE,
    "opd": opd.OBJECTIVE,
    "sft": sft.OBJECTIVE,
    "ar": ar.OBJECTIVE,
}
ROWS = ("tokens_BxL", "valid_BxL", "completion_len_B")  # what every objective reads of a batch


def find(name: str) -> Objective:
    """An objective of `OBJECTIVES`, or the OBJECTIVE of a .py file.

    Raises:
      ValueError: an unknown name, or a file without an `Objective` as its OBJECTIVE.
    """
    objective = extensions.load(name, OBJECTIVES, "OBJECTIVE", what="objective")
    if not isinstance(objective, Objective):
        kind = type(objective).__name__
        raise ValueError(f"objective={name}: OBJECTIVE is a {kind}, give an objectives.Objective")
    return objective


def make_loss_fn(name: str, denoiser: Denoiser, config) -> Callable:
    """`loss_fn(trainable, frozen, batch) -> (loss, metrics)`, a pure function.

    Masks and old scores come in the batch. With adapters, `frozen["base"]` is what they change. A
    distilled teacher's parameters are `frozen["teacher"]`, weights or adapters over the base;
    without them it is the base itself.

    Raises:
      ValueError: an unknown name, a config of another objective, or one without the teacher that
        the objective distils; from loss_fn: a batch without a field that the objective reads.
    """
    objective = find_for(name, config)
    if objective.teacher and config.teacher is None:
        raise ValueError(f"objective {name!r} distils: its config needs a teacher, a Denoiser")

    def loss_fn(trainable, frozen, batch):
        check_fields(f"objective {name!r}", batch, *ROWS, *objective.reads)
        params = denoiser.bind(trainable, frozen)
        if not objective.teacher:
            return objective.loss(denoiser, config, params, batch)
        teacher_params = frozen_params(config.teacher, frozen, "teacher")
        return objective.loss(denoiser, config, params, batch, teacher_params)

    return loss_fn


def frozen_params(denoiser: Denoiser, frozen: dict, name: str) -> PyTree:
    """Parameters of the frozen "reference" or "teacher".

    That is its copy, or without one the base of the adapters, which is what the student started
    from.

    Raises:
      ValueError: neither a copy nor a base.
    """
    if name in frozen:
        return denoiser.bind(frozen[name], frozen)
    if "base" not in frozen:
        raise ValueError(f'the {name} has no weights: give frozen["{name}"], or frozen["base"]')
    return frozen["base"]


def make_score_fn(name: str, denoiser: Denoiser, config) -> Callable | None:
    """`score_fn(params, batch) -> (old, reference)`; None: the loss compares with nothing.

    These are the scores at the parameters given, [K, B] or [K, B, G] nats.

    Raises:
      ValueError: an unknown name, or a config of another objective; from score_fn: a batch without
        a field that is read.
    """
    objective = find_for(name, config)
    if objective.scores is None:
        return None

    def score_fn(params, batch):
        check_fields(f"a score of objective {name!r}", batch, *ROWS, "masks_KxBxL")
        return objective.scores(denoiser, config, params, batch)

    return score_fn


def make_views_fn(name: str, config) -> Callable:
    """`views_fn(batch, draws, rng) -> masks_KxBxL`, the masks that the loss wants.

    Raises:
      ValueError: an unknown name, or a config of another objective; from views_fn: views that are
        impossible, or a batch without a field that is read.
    """
    objective = find_for(name, config)

    def views_fn(batch, draws, rng):
        check_fields(f"a view of objective {name!r}", batch, "tokens_BxL", "completion_len_B")
        return objective.views(config, batch, draws, rng)

    return views_fn


def make_count_fn(name: str, config) -> Callable | None:
    """`count_fn(batch) -> float32`, how many tokens or rows the loss is a mean over; None: it is a
    mean over groups, or over all rows.

    Raises:
      ValueError: an unknown name, or a config of another objective.
    """
    objective = find_for(name, config)
    return None if objective.count is None else functools.partial(objective.count, config)


def find_for(name: str, config) -> Objective:
    """The objective, whose config this is."""
    objective = find(name)
    if not isinstance(config, objective.config):
        wanted = objective.config.__name__
        raise ValueError(f"objective {name!r} takes a {wanted}, not {type(config).__name__}")
    return objective
