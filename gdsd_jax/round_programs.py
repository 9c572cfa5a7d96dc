"""What a round of a run computes, or a step of its supervised phase: its programs, with the shapes
and places of all arguments."""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import hlo, models, objectives, sampling, sharding, steps, weights
from gdsd_jax.optimizer import OptimizerConfig, init_state, make_optimizer
from gdsd_jax.settings import Settings, replace
from gdsd_jax.supervised import make_sft_step
from gdsd_jax.types import Denoiser, PyTree, TrainState


class Call(NamedTuple):
    """One of the run's programs with the shapes and places of its arguments."""

    function: object
    arguments: tuple
    beside: int  # bytes a chip that lie in memory meanwhile and are no arguments
    loops: int  # passes of its loop without a known length
    weight_reads: int  # times that each weight is read from memory
    weights: int  # bytes of the weights that products read, of their type, without adapters
    shares: hlo.Shares = ()  # of those passes, that go into each branch


class Other(NamedTuple):
    """One of the run's programs that is not compiled."""

    operations: int
    read: int  # bytes of the layers' weights that its products read, on all chips


class Programs(NamedTuple):
    """What a round computes."""

    calls: dict[str, Call]  # the rollout and an update, which are compiled
    others: dict[str, Other]  # the rest
    whole: bool  # whether the rollout's weights are; a teacher's lie as they do


def programs(chosen: Settings, model: models.ModelConfig, mesh) -> Programs:
    """What a round of the run computes, with the shapes and places of all arguments."""
    # counted are rollouts of which no row is done early: none leaves
    chosen = replace(chosen, {"sampler.compact": False})
    denoiser, teacher = weights.make_denoisers(chosen, model, mesh)
    calls = steps.make_steps(denoiser, chosen, mesh, teacher)
    make = weights.make_trainable(chosen, model)
    state, base = trained(chosen, model, mesh, chosen.optimizer)
    frozen = base | weights.abstract(mesh, lambda rng: weights.copies_of(chosen, make(rng)))
    prompts, slices, scored, probed = steps.abstract_round(
        calls, chosen, mesh, state.trainable, frozen
    )
    rng, number = weights.abstract(mesh, lambda rng: (rng, jnp.int32(0)))

    def used(*names):
        return {name: frozen[name] for name in names if name in frozen}

    first = chosen.inner_iterations == 1
    update = (state, used("base", "teacher"), slices, scored, number, rng, first)
    reads = 3 * chosen.slices * chosen.mask_draws
    params = jax.eval_shape(denoiser.bind, state.trainable, frozen)
    plain, sampled = (
        jax.eval_shape(functools.partial(steps.cast, config=model, quant=quant), params)
        for quant in ("none", chosen.rollout_quant)
    )
    if chosen.answers == "teacher":
        asked, beside = used("base", "teacher"), (state, used("reference"))
        rollout = teaching(chosen, teacher, (calls.teach, ({}, asked, prompts, rng)), held(beside))
    else:
        asked, beside = used("base"), (state.opt_state, used("reference", "teacher"))
        call = calls.sample, (state.trainable, asked, prompts, rng)
        rollout = answering(chosen, sampled, parts_of(chosen, mesh), call, held(beside))
    found = {
        "rollout": rollout,
        "update": Call(calls.update, update, held(used("reference")), 1, reads, bytes_of(plain)),
    }
    whole = steps.are_whole(sampled, chosen.rollout_weights, mesh) and chosen.answers == "student"
    passes = chosen.sampler.most_passes
    others = others_of(calls, (state.trainable, frozen), prompts, slices, probed, rng)
    kernels = {leaf.shape[1:] for leaf in jax.tree.leaves(plain["layers"]) if leaf.ndim == 3}
    counted = {
        name: Other(hlo.operations(jaxpr, passes), hlo.weights_read(jaxpr, kernels, passes))
        for name, jaxpr in ((name, traced.jaxpr.jaxpr) for name, traced in others.items())
    }
    return Programs(found, counted, whole)


def trained(
    chosen: Settings, model: models.ModelConfig, mesh, config: OptimizerConfig
) -> tuple[TrainState, dict]:
    """(the state that is trained, {"base"} under its adapters or {}), abstract."""
    make, optimizer = weights.make_trainable(chosen, model), make_optimizer(config)
    state = weights.abstract(mesh, lambda rng: init_state(make(rng), optimizer))
    if not chosen.lora_rank:
        return state, {}
    return state, {"base": weights.abstract(mesh, weights.make_weights(chosen, model))}


def supervised(chosen: Settings, model: models.ModelConfig, mesh) -> Call:
    """A step of the run's supervised phase, with the shapes and places of its arguments."""
    denoiser, teacher = weights.make_denoisers(chosen, model, mesh)
    state, frozen = trained(chosen, model, mesh, chosen.sft_optimizer)
    prompt, answer = chosen.prompt_length, chosen.sampler.gen_length

    def row(dtype, *shape):
        place = sharding.rows(mesh)
        return jax.ShapeDtypeStruct((chosen.sft.batch, *shape), dtype, sharding=place)

    arrays = {
        "tokens": row(jnp.int32, prompt),
        "valid": row(bool, prompt),
        "completion": row(jnp.int32, answer),
        "completion_len": row(jnp.int32),
    }
    rng = weights.abstract(mesh, lambda rng: rng)
    params = jax.eval_shape(denoiser.bind, state.trainable, frozen)
    plain = jax.eval_shape(functools.partial(steps.cast, config=model, quant="none"), params)
    step = make_sft_step(teacher or denoiser, chosen)
    return Call(step, (state, frozen, arrays, rng), 0, 1, 3, bytes_of(plain))


def answering(
    chosen: Settings, params: PyTree, parts: int, call: tuple[Callable, tuple], beside: int
) -> Call:
    """The rollout of the student, whose parameters are of the type that it reads."""
    passes = chosen.sampler.most_passes
    shares = sampling.branch_shares(chosen.sampler, chosen.prompt_length)
    return Call(*call, beside, passes, passes * parts, bytes_of(params), shares)


def teaching(
    chosen: Settings, teacher: Denoiser, call: tuple[Callable, tuple], beside: int
) -> Call:
    """The rollout of a teacher, whose answers are trained on."""
    sampler = steps.teachers(chosen.sampler)
    passes, shares = sampler.most_passes, sampling.branch_shares(sampler, chosen.prompt_length)
    _, (_, frozen, *_) = call
    params = jax.eval_shape(lambda held: objectives.frozen_params(teacher, held, "teacher"), frozen)
    return Call(*call, beside, passes, passes, bytes_of(params), shares)


def parts_of(chosen: Settings, mesh) -> int:
    """How many parts the run's rollouts have; a teacher's have one."""
    if chosen.answers == "teacher":
        return 1
    return steps.parts_of(chosen.rollout_parts, chosen.rows, sharding.row_shards(mesh))


def bytes_of(params: dict) -> int:
    """Bytes of abstract parameters on all chips that each pass reads, each array once: without
    adapters, and without an embedding that is no head too, of which a pass takes a few rows."""
    left_out = {"lora"} | ({"embed"} if "lm_head" in params else set())
    base = {name: tree for name, tree in params.items() if name not in left_out}
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(base))


def others_of(calls: steps.Steps, trees: tuple, prompts, slices, probed, rng) -> dict:
    """What a round computes besides rollout and updates, traced."""
    found = {"score": calls.score.trace(*trees, slices, rng)}
    rollout = jax.eval_shape(calls.sample, *trees, prompts, rng)
    if calls.drift is not None:
        found["drift"] = calls.drift.trace(*trees, prompts, rollout)
    if calls.probe is not None:
        found["probe_before"] = calls.probe.before.trace(*trees, prompts, rollout, rng)
        found["probe_after"] = calls.probe.after.trace(*trees, slices, probed, rng)
    return found


def unread(traced: jax.stages.Traced, arguments: tuple) -> int:
    """Bytes a chip of the arguments that no equation reads: the compiled program goes without them,
    and memory does not."""
    arrays = [x for x in jax.tree.leaves(arguments) if isinstance(x, jax.ShapeDtypeStruct)]
    jaxpr = traced.jaxpr.jaxpr
    read = {id(one) for equation in jaxpr.eqns for one in equation.invars}
    read |= {id(one) for one in jaxpr.outvars}
    return held([x for x, one in zip(arrays, jaxpr.invars, strict=True) if id(one) not in read])


def held(tree) -> int:
    """Bytes a chip of abstract arrays; other leaves are no arguments of the compiled program."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.ShapeDtypeStruct)]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)
