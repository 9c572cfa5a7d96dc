"""What a checkpoint holds of a run, and how a run goes on from it."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import objectives, paths, sharding, version
from gdsd_jax.checkpoint import (
    FORMAT,
    Checkpoints,
    Damaged,
    format_of,
    latest_iteration,
    load_trainable,
    read_host,
    stored_in,
)
from gdsd_jax.experiment import Experiment
from gdsd_jax.models import ModelConfig
from gdsd_jax.optimizer import OptimizerConfig, init_state, make_optimizer
from gdsd_jax.probe import Probed
from gdsd_jax.settings import Settings
from gdsd_jax.steps import Scored, Steps, abstract_round
from gdsd_jax.types import Array, Batch, PyTree, TrainState
from gdsd_jax.weights import (
    abstract,
    base_weights,
    check_teacher,
    copies_of,
    make_trainable,
    settings_of,
    starts_adapted,
)

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
    # of the checkpoint that keep_best keeps: that setting and its number, the greater the better
    best: dict[str, float] | None = None

    @property
    def has_rl_state(self) -> bool:
        """Whether a round has begun, so that its checkpoint holds the frozen copies."""
        return self.round > 0 or self.inner > 0


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


KINDS: Mapping[str, Callable[[Any], bool]] = types.MappingProxyType(
    {  # what the entries of a `Progress` are, as JSON
        "phase": lambda value: value in ("sft", "rl"),
        "step": is_count,
        "round": is_count,
        "inner": is_count,
        "cursor": lambda value: value is None or isinstance(value, dict),
        "lines": is_count,
        "exact": lambda value: isinstance(value, bool),
        "losses": lambda value: isinstance(value, list | tuple),
        "best": lambda value: value is None or isinstance(value, dict),
    }
)


class Resumed(NamedTuple):
    """What a run goes on from."""

    state: TrainState
    frozen: dict
    buffer: "Buffer | None"
    progress: Progress
    damaged: dict[int, str]  # newer checkpoints that cannot be used, and why


class Buffer(NamedTuple):
    """The present round's completions, rewarded, and the scores that its updates compare with."""

    slices: Batch
    scored: Scored
    probed: Probed | None = None  # None: the probe is off, or was when the round began


def as_host(progress: Progress) -> dict[str, Any]:
    """The host's part of a checkpoint."""
    return version.stamp(FORMAT) | progress._asdict()


def from_host(entries: Mapping[str, Any]) -> tuple[Progress, int]:
    """(where the run stands, the format of its checkpoint).

    Raises:
      checkpoint.OtherSettings: a format of a later version.
      checkpoint.Damaged: no entries of a run.
    """
    number = format_of(entries)
    told = {key: entries[key] for key in entries if key not in (version.FORMAT, version.VERSION)}
    for name, value in told.items():
        if name not in KINDS or not KINDS[name](value):
            raise Damaged(f"a checkpoint's entries are not those of a run: {name}={value!r:.40}")
    return Progress(**told), number


def as_saved(state: TrainState, frozen: dict, buffer: Buffer | None) -> PyTree:
    """What a checkpoint holds: everything but the frozen base, which is where it came from."""
    tree = {"state": state} | {name: frozen[name] for name in COPIES if name in frozen}
    if buffer is not None:
        tree["buffer"] = {
            "slices": arrays_of(vars(buffer.slices)),
            "scored": arrays_of(buffer.scored._asdict()),
        }
        if buffer.probed is not None:
            tree["buffer"]["probed"] = buffer.probed._asdict()
    return tree


def arrays_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are arrays, or stand for some; the others are settings, or None."""
    kinds = (jax.Array, jax.ShapeDtypeStruct)
    return {name: value for name, value in fields.items() if isinstance(value, kinds)}


def fresh_state(mesh: jax.sharding.Mesh, trainable: PyTree, config: OptimizerConfig) -> TrainState:
    """A state with new optimizer moments, placed beside their parameters."""
    optimizer = make_optimizer(config)

    def make(weights):
        return init_state(weights, optimizer)

    places = sharding.shardings(mesh, jax.eval_shape(make, trainable))
    return jax.jit(make, out_shardings=places)(trainable)


def resume_newest(
    experiment: Experiment, steps: Steps, checkpoints: Checkpoints, rng: Array
) -> Resumed:
    """The newest checkpoint that is whole; changes no file.

    Raises:
      checkpoint.OtherSettings: as `resume`.
      checkpoint.Damaged: no one is whole; one line.
    """
    damaged = {}
    for iteration in checkpoints.iterations():
        try:
            return Resumed(*resume(experiment, steps, checkpoints, iteration, rng), damaged)
        except Damaged as error:
            damaged[iteration] = str(error)
    raise Damaged(
        f"{checkpoints.folder}: no checkpoint there is whole ({'; '.join(damaged.values())}): give "
        "another --workdir, or delete that folder to start afresh"
    )


def resume(
    experiment: Experiment,
    steps: Steps,
    checkpoints: Checkpoints,
    iteration: int,
    rng: Array,
) -> tuple[TrainState, dict, Buffer | None, Progress]:
    """(state, frozen, buffer, progress) of a checkpoint, read into the places that they take.

    What it does not hold, a frozen base, is made as for a fresh run.

    Raises:
      checkpoint.OtherSettings: it was written with other settings, or inside a round by an earlier
        version; one line.
      checkpoint.Damaged: it cannot be read, or its numbers are not those that were written.
    """
    settings, mesh, model = experiment.settings, experiment.mesh, experiment.denoiser.config
    progress, number = from_host(checkpoints.host(iteration))
    make = make_trainable(settings, model)
    optimizer_config = settings.sft_optimizer if progress.phase == "sft" else settings.optimizer
    optimizer = make_optimizer(optimizer_config)
    state = abstract(mesh, lambda rng: init_state(make(rng), optimizer))
    frozen = {}
    if settings.lora_rank:
        frozen["base"] = base_weights(settings, model, mesh, rng)
    if progress.has_rl_state:
        copies = abstract(mesh, lambda rng: copies_of(settings, make(rng)))
        stored = checkpoints.shapes(iteration)
        if not settings.lora_rank or copies.keys() <= stored.keys():
            frozen |= copies
        # else earlier versions wrote it, which compared adapters with their base
    buffer = written = None
    if progress.inner:  # a round has begun: its shapes are read above
        columns = prompt_columns(stored["buffer"], settings.sampler.gen_length)
        _, *parts = abstract_round(steps, settings, mesh, state.trainable, frozen, columns)
        buffer = Buffer(*parts)
        buffer, written = as_written(stored["buffer"], buffer, settings.minibatches)
    if buffer is not None and number == 1:
        saved = restore_format_1(checkpoints, iteration, as_saved(state, frozen, None), buffer)
    else:
        saved = checkpoints.restore(iteration, as_saved(state, frozen, written))
    frozen |= {name: saved[name] for name in COPIES if name in saved}
    if progress.phase == "rl" and not progress.has_rl_state:
        frozen |= copies_of(settings, saved["state"].trainable)
    if buffer is not None:
        found = filled(buffer, saved["buffer"])
        cut = functools.partial(recut, slices=settings.slices, minibatches=settings.minibatches)
        buffer = jax.jit(cut, out_shardings=jax.tree.map(lambda x: x.sharding, buffer))(found)
    return saved["state"], frozen, buffer, progress


def teacher_of(
    folder, settings: Settings, model: ModelConfig, mesh: jax.sharding.Mesh, trainable: PyTree
) -> dict | None:
    """The frozen {"teacher"} of a folder's student, {} where its adapters' base is the teacher;
    None where none is known.

    It is the copy that a run has kept, before its first round the student itself, and for other
    folders without adapters the model that `settings` start from.

    Args:
      folder: a run's workdir or a model's folder, whose weights or adapters are `trainable`.
      settings: of an objective with a teacher.

    Raises:
      ValueError: the settings start from what another run has distilled; one line.
    """
    number = latest_iteration(folder)
    theirs = settings if number is None else settings_of(folder)
    if number is not None and objectives.find(theirs.objective).teacher:
        place = paths.absolute(folder) / "checkpoints" / str(number)
        if not from_host(read_host(place))[0].has_rl_state:
            return copies_of(theirs, trainable)
        if "teacher" not in stored_in(place):
            return {}
        make = make_trainable(theirs, model)
        copies = abstract(mesh, lambda rng: copies_of(theirs, make(rng)))
        return {"teacher": load_trainable(folder, copies["teacher"], "teacher")}
    if settings.init_from is None or model.lora_rank or starts_adapted(settings):
        return None
    check_teacher(settings)
    whole = dataclasses.replace(settings, lora_rank=0)
    return copies_of(whole, base_weights(whole, model, mesh, None))


def prompt_columns(stored: PyTree, gen_length: int) -> int | None:
    """How many columns the prompts of the stored buffer have; None = the most, as in format 1."""
    if not isinstance(stored, Mapping):
        return None
    return stored["slices"]["tokens_BxL"].shape[-1] - gen_length


def as_written(stored: PyTree, buffer: Buffer, minibatches: int) -> tuple[Buffer, Buffer]:
    """(the abstract buffer without a probe where the stored one has none, the same in as many
    slices as that); where these are others, which the mesh may not divide, on all devices."""
    if not isinstance(stored, Mapping) or "probed" not in stored:
        buffer = buffer._replace(probed=None)
    if not isinstance(stored, Mapping):
        return buffer, buffer  # of format 1
    count = stored["slices"]["completion_len_B"].shape[0]
    lengths = buffer.slices.completion_len_B
    if count == len(lengths) or lengths.size % count or count % minibatches:
        return buffer, buffer
    cut = functools.partial(recut, slices=count // minibatches, minibatches=minibatches)
    place = sharding.replicated(lengths.sharding.mesh)
    return buffer, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(cut, buffer),
    )


def filled(buffer: Buffer, saved: Mapping[str, Mapping[str, Array]]) -> Buffer:
    """The abstract buffer with the arrays of a checkpoint."""
    return Buffer(
        buffer.slices.replace(**saved["slices"]),
        Scored(None, None)._replace(**saved["scored"]),
        None if buffer.probed is None else Probed(**saved["probed"]),
    )


def recut(buffer: Buffer, slices: int, minibatches: int) -> Buffer:
    """The same rows, in their order, with `slices` slices a minibatch."""

    def rows(x):
        return x.reshape(minibatches * slices, -1, *x.shape[2:])

    def scores(x):
        by_rows = jnp.moveaxis(x, 1, 2)
        parts = by_rows.reshape(*by_rows.shape[:2], slices, -1, *by_rows.shape[4:])
        return jnp.moveaxis(parts, 2, 1)

    slices, scored = jax.tree.map(rows, buffer.slices), jax.tree.map(scores, buffer.scored)
    return buffer._replace(slices=slices, scored=scored)


def restore_format_1(
    checkpoints: Checkpoints, iteration: int, tree: dict[str, Any], buffer: Buffer
) -> dict[str, Any]:
    """A checkpoint inside a round whose buffer is a list: the arrays of the slices, then old
    scores, then those of the reference, one for each inner iteration that has them."""
    slices = jax.tree.leaves(buffer.slices)
    old, ref = (each_of(scores) for scores in buffer.scored)
    saved = checkpoints.restore(iteration, tree | {"buffer": [*slices, *old, *ref]})
    found = saved["buffer"]
    scored = {}
    if old:
        scored["old"] = jnp.stack(found[len(slices) : len(slices) + len(old)])
    if ref:
        scored["ref"] = jnp.stack(found[len(slices) + len(old) :])
    whole = jax.tree.unflatten(jax.tree.structure(buffer.slices), found[: len(slices)])
    return saved | {"buffer": {"slices": arrays_of(vars(whole)), "scored": scored}}


def each_of(scores: jax.ShapeDtypeStruct | None) -> list[jax.ShapeDtypeStruct]:
    """The entries along the first axis, each in its place."""
    if scores is None:
        return []
    spec = jax.sharding.PartitionSpec(*scores.sharding.spec[1:])
    place = jax.sharding.NamedSharding(scores.sharding.mesh, spec)
    one = jax.ShapeDtypeStruct(scores.shape[1:], scores.dtype, sharding=place)
    return [one] * scores.shape[0]
