"""Where the time of a round goes: the loop's own device calls, timed in the loop's order.

B rows (completions).
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import dataclasses
import functools
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from gdsd_jax import experiment, hlo, objectives, sampling, sharding, weights
from gdsd_jax.experience import prompts_of
from gdsd_jax.models import ModelConfig
from gdsd_jax.resume import fresh_state
from gdsd_jax.settings import Settings, replace
from gdsd_jax.steps import Scored, Steps, make_steps
from gdsd_jax.types import Array, Batch, Denoiser, Prompts, PyTree, Rollout, TrainState

# fields of Settings that decide what a timed round does, beside the objective's own
TIMED = (
    *("sampler", "prompt_length", "temperature", "threshold", "objective", "objective_config"),
    *("prompts_per_round", "group_size", "inner_iterations", "minibatches", "slices"),
    *("slices_apart", "mask_draws", "score_masks", "baseline", "scale_rewards", "optimizer"),
    *("lora_rank", "lora_alpha", "lora_targets", "dtype", "param_dtype", "remat"),
    *("attention_kernel", "mesh", "rollout_weights", "rollout_parts", "rollout_quant"),
    *("drift_share", "drift_tokens", "probe_rows", "probe_tokens", "not_finite"),
)


class RoundTimes(NamedTuple):
    """What a round took.

    Attributes:
      seconds: what the loop waited for, by name. "rewards" is the host's grading, beside which the
        device scores, and "scores" is what is left of that afterwards.
      scoring: seconds until the device had scored, from the end of the rollout on.
      idle: seconds in which the device had nothing to do, because the host was grading still.
      operations: of the matrix products of rollout, scores and updates.
      drift: mean drift of the rollout, nats a token; None where it is exact.
    """

    seconds: dict[str, float]
    scoring: float
    idle: float
    operations: dict[str, int]
    drift: float | None


def check_timed(settings: Settings, given: Iterable[str]) -> None:
    """ValueError where a key that is given asks for what a timed round does not do.

    Args:
      settings: of the round.
      given: dotted keys.
    """
    passed_over = {field.name for field in dataclasses.fields(Settings)} - {*TIMED}
    names = [key for key in given if key.split(".")[0] in passed_over]
    if names:
        raise ValueError(
            f"{', '.join(names)}: a round that is timed does nothing of it; leave it out"
        )
    if not objectives.find(settings.objective).rewards:
        raise ValueError(
            f"objective={settings.objective}: a round that is timed learns from rewards; choose an "
            "objective that does"
        )


def round_times(
    model: ModelConfig, settings: Settings, grade: Callable[[Rollout], np.ndarray]
) -> RoundTimes:
    """Times one round in which all weights of a random model are trained, or its adapters, on all
    devices.

    Prompts are random tokens, as many as there may be. What a round calls is compiled first, by one
    of completions of one token and two updates.

    Args:
      model: its shape.
      settings: of the round; its type of activations and weights too.
      grade: the host's work, from a rollout to rewards, float32 [B], the same on every host.

    Raises:
      ValueError: settings that do not fit the devices.
    """
    mesh = experiment.make_mesh(settings)
    experiment.check_settings(settings, mesh)
    model = weights.with_settings(model, settings)
    denoiser, _ = weights.make_denoisers(settings, model, mesh)
    place = sharding.replicated(mesh)
    keys = jax.jit(lambda: jax.random.split(jax.random.key(0), 3), out_shardings=place)()
    trainable, frozen = weights.initial_weights(settings, model, mesh, keys[0])
    frozen |= weights.copies_of(settings, trainable)
    state = fresh_state(mesh, trainable, settings.optimizer)
    calls = make_steps(denoiser, settings, mesh)
    count = functools.partial(operations_of, denoiser, calls, settings, mesh)
    found = None
    for key, longest, updates in ((keys[1], 1, 2), (keys[2], None, settings.inner_iterations)):
        prompts = random_prompts(mesh, model, settings, longest)
        updates = min(updates, settings.inner_iterations)
        state, found = one_round(calls, count, mesh, state, frozen, prompts, grade, key, updates)
    return found


def random_prompts(
    mesh: jax.sharding.Mesh, model: ModelConfig, settings: Settings, longest: int | None
) -> Prompts:
    """Prompts of a round, for completions of at most `longest` tokens."""
    shape = settings.prompts_per_round, settings.prompt_length
    rows = {
        "tokens": np.random.default_rng(0).integers(model.vocab_size, size=shape, dtype=np.int32),
        "valid": np.ones(shape, bool),
        "index": np.arange(shape[0]),
        "max_length": np.full(shape[0], settings.sampler.gen_length, np.int32),
    }
    threshold = math.inf if settings.threshold is None else settings.threshold
    asked = {"temperature": settings.temperature, "threshold": threshold, "longest": longest}
    return prompts_of(mesh, rows, settings.group_size, **asked)


def one_round(
    calls: Steps,
    count: Callable[..., dict[str, int]],
    mesh: jax.sharding.Mesh,
    state: TrainState,
    frozen: dict,
    prompts: Prompts,
    grade: Callable[[Rollout], np.ndarray],
    rng: Array,
    updates: int,
) -> tuple[TrainState, RoundTimes]:
    """(the state after so many updates, what the round took); `count` is `operations_of` behind its
    first four arguments."""
    trees, moments = (state.trainable, frozen), [time.perf_counter()]
    rollout = calls.sample(*trees, prompts, rng)
    slices = calls.slices(rollout, prompts)
    moments.append(moment_of(slices))
    drift = calls.drift and calls.drift(*trees, prompts, rollout)
    scored = calls.score(*trees, slices, rng)
    probed = calls.probe and calls.probe.before(*trees, prompts, rollout, rng)
    with concurrent.futures.ThreadPoolExecutor() as thread:
        ready = thread.submit(moment_of, (drift, scored, probed))
        rewards_B = grade(rollout)
        moments.append(time.perf_counter())
        moments.append(max(moments[-1], ready.result()))

    rewards = sharding.global_rows(mesh, (rewards_B, rewards_B > 0))
    slices = calls.advantages(slices, *rewards)
    operations = count(state, frozen, prompts, rollout, slices, scored, rng)
    moments.append(time.perf_counter())  # counting is no part of a round
    for number in range(updates):
        inner = sharding.everywhere(mesh, np.int32(number))
        state, _ = calls.update(state, frozen, slices, scored, inner, rng, first=number == 0)
    moments.append(moment_of(state))
    if probed is not None:
        after = calls.probe.after(state.trainable, frozen, slices, probed, rng)
        moments.append(moment_of(after))
    names = ("rollout", "rewards", "scores", "counting", "updates", "probe")
    seconds = {name: end - start for name, start, end in zip(names, moments, moments[1:])}
    del seconds["counting"]
    drift = drift and float(sharding.fetch(mesh, drift.mean))
    scoring = ready.result() - moments[1]
    idle = max(0.0, seconds["rewards"] - scoring)
    return state, RoundTimes(seconds, scoring, idle, operations, drift)


def moment_of(arrays: PyTree) -> float:
    """When the arrays are there, by `time.perf_counter`."""
    jax.block_until_ready(arrays)
    return time.perf_counter()


def operations_of(
    denoiser: Denoiser,
    calls: Steps,
    settings: Settings,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    frozen: dict,
    prompts: Prompts,
    rollout: Rollout,
    slices: Batch,
    scored: Scored,
    rng: Array,
) -> dict[str, int]:
    """Operations of a round's matrix products, by what it calls."""
    trees, passes = (state.trainable, frozen), int(sharding.fetch(mesh, rollout.passes_B).max())
    update = calls.update.trace(state, frozen, slices, scored, np.int32(0), rng, first=False)
    score = calls.score.trace(*trees, slices, rng)
    return {
        "rollout": rollout_operations(denoiser, settings, mesh, trees, prompts, rng, passes),
        "scores": hlo.operations(score.jaxpr.jaxpr),
        "updates": settings.inner_iterations * hlo.operations(update.jaxpr.jaxpr),
    }


def rollout_operations(
    denoiser: Denoiser,
    settings: Settings,
    mesh: jax.sharding.Mesh,
    trees: tuple[PyTree, dict],
    prompts: Prompts,
    rng: Array,
    passes: int,
) -> int:
    """Operations of a rollout of so many passes, in which no row is done early.

    So none leaves: a program that lets rows leave has a loop for each number of rows, and each
    would count as long as all.
    """
    whole = replace(settings, {"sampler.compact": False})
    traced = make_steps(denoiser, whole, mesh).sample.trace(*trees, prompts, rng)
    shares = sampling.branch_shares(whole.sampler, prompts.tokens_BxP.shape[1], passes)
    return hlo.operations(traced.jaxpr.jaxpr, passes, shares)
