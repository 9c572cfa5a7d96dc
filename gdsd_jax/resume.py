"""What a checkpoint holds of a run, and how a run goes on from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import objectives, sharding
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.run import Run, abstract, base_weights, make_trainable
from gdsd_jax.steps import Scored, Steps, abstract_round
from gdsd_jax.types import Array, Batch, PyTree, TrainState

COPIES = ("reference", "teacher")  # of weights or adapters, frozen; a checkpoint holds them


class Progress(NamedTuple):
    """Where a run stands, on the host; goes into every checkpoint as JSON."""

    phase: str = "sft"  # then "rl"
    step: int = 0  # optimizer steps of the supervised phase
    round: int = 0  # finished rounds
    inner: int = 0  # inner iterations done in the present round
    cursor: Any = None  # of the phase's data loader; None = its start
    lines: int = 0  # of metrics.jsonl
    # the present round's rollout drifted too far: the next one goes without cache and threshold
    exact: bool = False
    losses: tuple[float, ...] = ()  # of supervised steps since the last line about them

    @property
    def has_rl_state(self) -> bool:
        """Whether a round has begun, so that its checkpoint holds the frozen copies."""
        return self.round > 0 or self.inner > 0


class Buffer(NamedTuple):
    """The present round's completions, rewarded, and the scores that its updates compare with."""

    slices: Batch
    scored: Scored


def copies_of(config, trainable: PyTree) -> dict:
    """{"teacher"} or {"reference"}: a frozen copy of what the rounds start from, where the
    objective asks for one.

    Adapters that no supervised step has trained change nothing: their base serves without a copy.
    """
    if config.lora_rank and not config.sft.steps:
        return {}
    if objectives.has_teacher(config.objective):
        return {"teacher": jax.tree.map(lambda x: jnp.copy(x.astype(config.dtype)), trainable)}
    settings = objectives.make_config(config.objective, config[config.objective])
    if not objectives.uses_reference(config.objective, settings):
        return {}
    return {"reference": jax.tree.map(jnp.copy, trainable)}


def fresh_state(run: Run, trainable: PyTree, optimizer) -> TrainState:
    """A state with new optimizer moments, placed beside their parameters."""

    def make(weights):
        return init_state(weights, make_optimizer(**optimizer))

    places = sharding.shardings(run.mesh, jax.eval_shape(make, trainable))
    return jax.jit(make, out_shardings=places)(trainable)


def resume(
    run: Run, steps: Steps, checkpoints: Checkpoints, iteration: int, progress: Progress, rng: Array
) -> tuple[TrainState, dict, Buffer | None]:
    """(state, frozen, buffer) of a checkpoint, read into the places that they take.

    What it does not hold, a frozen base, is made as for a fresh run.
    """
    config, model = run.config, run.denoiser.config
    make = make_trainable(config, model)
    settings = config.sft_optimizer if progress.phase == "sft" else config.optimizer
    optimizer = make_optimizer(**settings)
    state = abstract(run.mesh, lambda rng: init_state(make(rng), optimizer))
    frozen = {"base": base_weights(config, model, run.mesh, rng)} if config.lora_rank else {}
    if progress.has_rl_state:
        copies = abstract(run.mesh, lambda rng: copies_of(config, make(rng)))
        stored = checkpoints.names(iteration)
        if not config.lora_rank or copies.keys() <= stored:
            frozen |= copies
        # else earlier versions wrote it, which compared adapters with their base
    buffer = None
    if progress.inner:
        buffer = Buffer(*abstract_round(steps, config, run.mesh, state.trainable, frozen)[1:])
    saved = checkpoints.restore(iteration, as_saved(state, frozen, buffer))
    frozen |= {name: saved[name] for name in COPIES if name in saved}
    if progress.phase == "rl" and not progress.has_rl_state:
        frozen |= copies_of(config, saved["state"].trainable)
    if buffer is not None:
        buffer = jax.tree.unflatten(jax.tree.structure(buffer), saved["buffer"])
    return saved["state"], frozen, buffer


def as_saved(state: TrainState, frozen: dict, buffer: Buffer | None) -> PyTree:
    """What a checkpoint holds: everything but the frozen base, which is where it came from."""
    tree = {"state": state} | {name: frozen[name] for name in COPIES if name in frozen}
    if buffer is not None:
        tree["buffer"] = jax.tree.leaves(buffer)
    return tree
