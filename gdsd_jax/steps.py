"""The device calls of the loop, each a pure function and jitted once.

B rows (completions of a round), S slices of b rows, P prompt columns, G completion columns, L = P + G, K mask draws,
mu inner iterations.
"""
from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import chips, objectives, sampling, sharding
from gdsd_jax.advantages import BASELINES
from gdsd_jax.optimizer import make_optimizer, make_update
from gdsd_jax.types import Array, Batch, Denoiser, Prompts, PyTree, Rollout, TrainState

STREAMS = ("init", "sft", "rollout", "masks", "shuffle", "evaluation")  # what randomness is for


class Steps(NamedTuple):
    """What a round calls on the device, in this order. `number` is the inner iteration, 0 .. mu - 1."""

    sample: Callable  # (trainable, frozen, prompts, rng, exact=False) -> Rollout; exact: without cache and threshold
    drift: Callable | None  # (trainable, frozen, prompts, rollout) -> sampling.Drift; None: nothing is approximated
    slices: Callable  # (rollout, prompts) -> Batch [S, b, ...] without masks
    score: Callable  # (trainable, frozen, slices, rng) -> Scored
    reward: Callable  # (slices, rewards_B) -> slices with advantages
    update: Callable  # (state, frozen, slices, old, ref, number, rng) -> (state, metrics)


class Scored(NamedTuple):
    """Scores at the parameters of the rollout for each inner iteration, [S, K, b] or [S, K, b, G] nats as the objective
    compares sequences or tokens; None where nothing is compared. Iteration 0 has no old score: it is its own.
    """

    old: tuple[Array | None, ...]
    ref: tuple[Array | None, ...]


@jax.jit
def make_keys(seed_key: Array, number: Array) -> dict[str, Array]:
    """A key for each use of randomness, folded with the round or step."""
    return {
        name: jax.random.fold_in(jax.random.fold_in(seed_key, stream), number) for stream, name in enumerate(STREAMS)
    }


def make_steps(denoiser: Denoiser, config, mesh: jax.sharding.Mesh) -> Steps:
    """The functions of a reinforcement round; configs/coding.py says what the settings mean."""
    mu, parts, draws = config.inner_iterations, config.slices, config.mask_draws
    settings = objectives.make_config(config.objective, config[config.objective])
    scorer = sharding.by_vocabulary(mesh, denoiser)
    loss_fn = objectives.make_loss_fn(config.objective, scorer, settings)
    score_fn = objectives.make_score_fn(config.objective, scorer, settings)
    views_fn = objectives.make_views_fn(config.objective, settings)
    update_fn = make_update(loss_fn, make_optimizer(**config.optimizer))

    def slices(rollout: Rollout, prompts: dict[str, Array]) -> Batch:
        batch = as_batch(prompts["tokens"], prompts["valid"], rollout.tokens_BxG, rollout.length_B).replace(
            logp_BxG=rollout.logp_BxG, group_B=jnp.arange(len(rollout.length_B)) // config.group_size
        )
        batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        return jax.lax.with_sharding_constraint(batch, sharding.rows(mesh, leading=1))

    def masked(batch: Batch, number: int, rng: Array) -> Batch:
        """The views of inner iteration `number`, fresh for every slice."""
        keys_S = jax.random.split(jax.random.fold_in(rng, number), parts)
        return batch.replace(masks_KxBxL=jax.vmap(lambda one, key: views_fn(one, draws, key))(batch, keys_S))

    def score(trainable, frozen, batch: Batch, rng: Array) -> Scored:
        def at(params, number):
            return jax.lax.map(lambda one: score_fn(params, one), masked(batch, number, rng))

        old, ref = [None] * mu, [None] * mu
        if score_fn is not None:
            old[1:] = [at(denoiser.bind(trainable, frozen), number)[0] for number in range(1, mu)]
            if objectives.uses_reference(config.objective, settings):
                ref = [at(frozen.get("reference", frozen.get("base")), number)[1] for number in range(mu)]
        scored = Scored(tuple(old), tuple(ref))
        return jax.lax.with_sharding_constraint(scored, sharding.rows(mesh, leading=2))

    def reward(batch: Batch, rewards_B: Array) -> Batch:
        advantages_B = BASELINES[config.baseline](rewards_B, config.group_size, config.scale_rewards)
        return batch.replace(rewards_B=rewards_B.reshape(parts, -1), advantages_B=advantages_B.reshape(parts, -1))

    def update(state: TrainState, frozen, batch: Batch, old, ref, number: Array, rng: Array):
        batch = masked(batch, number, rng).replace(old_KxB=old, ref_KxB=ref)
        return update_fn(state, frozen, batch)

    others = jax.jit(slices), jax.jit(score), jax.jit(reward), jax.jit(update, donate_argnums=0)
    return Steps(*make_samplers(denoiser, config, mesh), *others)


def make_samplers(denoiser: Denoiser, config, mesh: jax.sharding.Mesh) -> tuple[Callable, Callable | None]:
    """`Steps.sample` and `Steps.drift`."""
    sampler = sampling.SamplerConfig(**config.sampler)
    exactly = dataclasses.replace(sampler, cache="none") if sampler.approximate else sampler
    rollout_fn, exact_fn = (sampling.make_rollout_fn(sharding.by_rows(mesh, denoiser), one) for one in (sampler, exactly))

    def asked(prompts: dict[str, Array], exact: bool = False) -> Prompts:
        threshold = jnp.inf if exact or config.threshold is None else config.threshold
        threshold_B = jnp.full(prompts["temperature"].shape, threshold, jnp.float32)
        return Prompts(prompts["tokens"], prompts["valid"], prompts["temperature"], threshold_B)

    def sample(trainable, frozen, prompts: dict[str, Array], rng: Array, exact: bool = False) -> Rollout:
        rng_B = row_keys(rng, prompts["index"], prompts["sample"])
        params = rollout_params(denoiser.bind(trainable, frozen), denoiser.config.dtype, config.rollout_weights, mesh)
        rollout = (exact_fn if exact else rollout_fn)(params, asked(prompts, exact), rng_B)
        return jax.lax.with_sharding_constraint(rollout, sharding.rows(mesh))

    def drift(trainable, frozen, prompts: dict[str, Array], rollout: Rollout) -> sampling.Drift:
        count = max(1, round(config.drift_share * rollout.tokens_BxG.shape[0]))
        chosen, rollout = sampling.take_rows((asked(prompts), rollout), count)
        return sampling.drift(denoiser, sampler, denoiser.bind(trainable, frozen), chosen, rollout)

    watched = sampler.approximate or config.threshold is not None
    return jax.jit(sample, static_argnames="exact"), jax.jit(drift) if watched else None


def abstract_round(calls: Steps, config, mesh, trainable: PyTree, frozen: dict) -> tuple[dict, Batch, Scored]:
    """Shapes and places of a round's (prompts, rewarded slices, scores); the trees may be abstract."""
    rows, columns = config.prompts_per_round * config.group_size, config.prompt_length

    def placed(tree, leading):
        place = sharding.rows(mesh, leading)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    row = lambda dtype, *shape: jax.ShapeDtypeStruct((rows, *shape), dtype)  # noqa: E731
    prompts = {
        "tokens": row(jnp.int32, columns), "valid": row(bool, columns), "index": row(jnp.int32),
        "sample": row(jnp.int32), "temperature": row(jnp.float32),
    }  # fmt: skip
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rollout = jax.eval_shape(calls.sample, trainable, frozen, prompts, rng)
    slices = jax.eval_shape(calls.slices, rollout, prompts)
    scored = jax.eval_shape(calls.score, trainable, frozen, slices, rng)
    slices = jax.eval_shape(calls.reward, slices, row(jnp.float32))
    return placed(prompts, 0), placed(slices, 1), placed(scored, 2)


def rollout_params(params: PyTree, dtype: str, weights: str, mesh: jax.sharding.Mesh) -> PyTree:
    """Parameters as a rollout wants them: cast once for all its passes, and placed as `rollout_weights` says."""
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    places = sharding.shardings(mesh, params)
    return jax.lax.with_sharding_constraint(params, sharding.gathered(places) if whole(params, weights, mesh) else places)


def whole(params: PyTree, weights: str, mesh: jax.sharding.Mesh) -> bool:
    """Whether a rollout keeps its (possibly abstract) parameters whole along fsdp."""
    memory = chips.memory_of(mesh.devices.flat[0])
    if weights != "auto" or memory is None:
        return weights != "split"
    return sharding.bytes_per_device(params, sharding.gathered(sharding.shardings(mesh, params))) <= memory // 2


def make_sft_step(denoiser: Denoiser, config) -> Callable:
    """`step(state, frozen, arrays, rng) -> (state, metrics)` on given completions, jitted."""
    settings = objectives.SftConfig(weighting=config.sft.weighting, count=config.sft.count)
    loss_fn, views_fn = objectives.make_loss_fn("sft", denoiser, settings), objectives.make_views_fn("sft", settings)
    update_fn = make_update(loss_fn, make_optimizer(**config.sft_optimizer))

    def step(state: TrainState, frozen, arrays: dict[str, Array], rng: Array):
        batch = as_batch(arrays["tokens"], arrays["valid"], arrays["completion"], arrays["completion_len"])
        batch = batch.replace(masks_KxBxL=views_fn(batch, 1, rng))
        return update_fn(state, frozen, jax.tree.map(lambda x: x[None], batch))

    return jax.jit(step, donate_argnums=0)


def row_keys(rng: Array, prompt_B: Array, sample_B: Array) -> Array:
    """One key a row, from the prompt's global index and the number of the completion among the prompt's."""
    fold = lambda prompt, number: jax.random.fold_in(jax.random.fold_in(rng, prompt), number)  # noqa: E731
    return jax.vmap(fold)(prompt_B, sample_B)


def as_batch(tokens_BxP: Array, valid_BxP: Array, completion_BxG: Array, length_B: Array) -> Batch:
    """A batch without masks; the padding behind a completion is attended to, as the sampler's masks were."""
    return Batch(
        tokens_BxL=jnp.concatenate([tokens_BxP, completion_BxG], axis=1),
        valid_BxL=jnp.concatenate([valid_BxP, jnp.ones(completion_BxG.shape, bool)], axis=1),
        completion_len_B=length_B,
        masks_KxBxL=None,
        prompt_len=tokens_BxP.shape[1],
    )
