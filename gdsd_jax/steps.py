"""The device calls of the loop, each a pure function and jitted once.

B rows (completions of a round), S slices of b rows, P prompt columns, G completion columns, L = P +
G, K mask draws, mu inner iterations.
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
    """What a round calls on the device, in this order. `number` is the inner iteration, 0 .. mu -
    1."""

    # (trainable, frozen, prompts, rng, exact=False) -> Rollout; exact: without cache and threshold
    sample: Callable
    teach: Callable | None  # the same by the teacher, where there is one
    # (trainable, frozen, prompts, rollout) -> sampling.Drift; None: nothing is approximated
    drift: Callable | None
    slices: Callable  # (rollout, prompts) -> Batch [S, b, ...] without masks
    score: Callable  # (trainable, frozen, slices, rng) -> Scored
    reward: Callable  # (slices, rewards_B) -> slices with advantages
    update: Callable  # (state, frozen, slices, old, ref, number, rng) -> (state, metrics)
    # (trainable, frozen, slices, rng) -> KL(teacher || student), nats a masked token
    distance: Callable | None


class Scored(NamedTuple):
    """Scores at the parameters of the rollout for each inner iteration, [S, K, b] or [S, K, b, G]
    nats as the objective compares sequences or tokens; None where nothing is compared. Iteration 0
    has no old score: it is its own.
    """

    old: tuple[Array | None, ...]
    ref: tuple[Array | None, ...]


@jax.jit
def make_keys(seed_key: Array, number: Array) -> dict[str, Array]:
    """A key for each use of randomness, folded with the round or step."""
    return {
        name: jax.random.fold_in(jax.random.fold_in(seed_key, stream), number)
        for stream, name in enumerate(STREAMS)
    }


def make_steps(
    denoiser: Denoiser, config, mesh: jax.sharding.Mesh, teacher: Denoiser | None = None
) -> Steps:
    """The functions of a round; configs/coding.py says what the settings mean."""
    mu, parts, draws = config.inner_iterations, config.slices, config.mask_draws
    objective = objectives.find(config.objective)
    settings = objective.config(**config[config.objective])
    if teacher is not None:
        settings = dataclasses.replace(settings, teacher=sharding.by_vocabulary(mesh, teacher))
    scorer = sharding.by_vocabulary(mesh, denoiser)
    loss_fn = objectives.make_loss_fn(config.objective, scorer, settings)
    score_fn = objectives.make_score_fn(config.objective, scorer, settings)
    views_fn = objectives.make_views_fn(config.objective, settings)
    update_fn = make_update(loss_fn, make_optimizer(**config.optimizer))

    def masked(batch: Batch, number: int, rng: Array) -> Batch:
        """The slices of inner iteration `number`, every one under fresh views."""
        first = (number % config.minibatches) * parts
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, parts), batch)
        keys_S = jax.random.split(jax.random.fold_in(rng, number), parts)
        return batch.replace(
            masks_KxBxL=jax.vmap(lambda one, key: views_fn(one, draws, key))(batch, keys_S)
        )

    def score(trainable, frozen, batch: Batch, rng: Array) -> Scored:
        def at(params, number):
            return jax.lax.map(lambda one: score_fn(params, one), masked(batch, number, rng))

        old, ref = [None] * mu, [None] * mu
        if score_fn is not None:
            old[1:] = [at(denoiser.bind(trainable, frozen), number)[0] for number in range(1, mu)]
            if objective.reference(settings):
                ref = [
                    at(frozen.get("reference", frozen.get("base")), number)[1]
                    for number in range(mu)
                ]
        scored = Scored(tuple(old), tuple(ref))
        return jax.lax.with_sharding_constraint(scored, sharding.rows(mesh, leading=2))

    def reward(batch: Batch, rewards_B: Array) -> Batch:
        advantages_B = BASELINES[config.baseline](
            rewards_B, config.group_size, config.scale_rewards
        )
        shape = batch.completion_len_B.shape
        return batch.replace(
            rewards_B=rewards_B.reshape(shape), advantages_B=advantages_B.reshape(shape)
        )

    def update(state: TrainState, frozen, batch: Batch, old, ref, number: Array, rng: Array):
        batch = masked(batch, number, rng).replace(old_KxB=old, ref_KxB=ref)
        return update_fn(state, frozen, batch)

    sample, drift = make_samplers(denoiser, config, mesh)
    teach, distance = (
        (make_teach(teacher, config, mesh), make_distance(denoiser, settings.teacher))
        if teacher
        else (None, None)
    )
    slices = make_slices(config, mesh, uncut=teacher is not None)
    return Steps(
        sample,
        teach,
        drift,
        slices,
        jax.jit(score),
        jax.jit(reward),
        jax.jit(update, donate_argnums=0),
        distance,
    )


def make_slices(config, mesh: jax.sharding.Mesh, uncut: bool) -> Callable:
    """`Steps.slices`. With `uncut` the rows hold what the sampler saw, also behind the end of an
    answer."""
    block = sampling.SamplerConfig(**config.sampler).causal_block

    def slices(rollout: Rollout, prompts: dict[str, Array]) -> Batch:
        seen = rollout.uncut if uncut else rollout
        batch = as_batch(
            prompts["tokens"], prompts["valid"], seen.tokens_BxG, rollout.length_B, block
        ).replace(
            logp_BxG=rollout.logp_BxG,
            step_map_BxG=seen.step_map_BxG,
            group_B=jnp.arange(len(rollout.length_B)) // config.group_size,
        )
        batch = jax.tree.map(
            lambda x: x.reshape(config.minibatches * config.slices, -1, *x.shape[1:]), batch
        )
        return jax.lax.with_sharding_constraint(batch, sharding.rows(mesh, leading=1))

    return jax.jit(slices)


def make_teach(teacher: Denoiser, config, mesh: jax.sharding.Mesh) -> Callable:
    """`Steps.teach`: one token after another is block diffusion by blocks of one, exactly, for a
    causal model."""
    gen_length = config.sampler.gen_length
    sampler = sampling.SamplerConfig(
        kind="block", gen_length=gen_length, block_length=1, steps=gen_length
    )
    rollout_fn = sampling.make_rollout_fn(teacher, sampler)

    def teach(
        trainable, frozen, prompts: dict[str, Array], rng: Array, exact: bool = False
    ) -> Rollout:
        asked = Prompts(
            prompts["tokens"], prompts["valid"], prompts["temperature"], None, prompts["max_length"]
        )
        weights = frozen["teacher"] if "teacher" in frozen else frozen["base"]
        rollout = rollout_fn(weights, asked, row_keys(rng, prompts["index"], prompts["sample"]))
        return jax.lax.with_sharding_constraint(rollout, sharding.rows(mesh))

    return jax.jit(teach, static_argnames="exact")


def make_distance(denoiser: Denoiser, teacher: Denoiser) -> Callable:
    """`Steps.distance`: forward KL over the whole vocabulary at states of the rollout, the same
    whatever is trained on."""
    settings = objectives.OpdConfig(teacher)
    loss_fn, views_fn = (
        objectives.make_loss_fn("opd", denoiser, settings),
        objectives.make_views_fn("opd", settings),
    )

    def distance(trainable, frozen, slices: Batch, rng: Array) -> Array:
        keys_S = jax.random.split(rng, len(slices.completion_len_B))
        slices = slices.replace(
            masks_KxBxL=jax.vmap(lambda one, key: views_fn(one, 1, key))(slices, keys_S)
        )
        return jnp.mean(jax.lax.map(lambda one: loss_fn(trainable, frozen, one)[1]["kl"], slices))

    return jax.jit(distance)


def make_samplers(
    denoiser: Denoiser, config, mesh: jax.sharding.Mesh
) -> tuple[Callable, Callable | None]:
    """`Steps.sample` and `Steps.drift`."""
    sampler = sampling.SamplerConfig(**config.sampler)
    exactly = dataclasses.replace(sampler, cache="none") if sampler.approximate else sampler
    rollout_fn, exact_fn = (
        sampling.make_rollout_fn(sharding.by_rows(mesh, denoiser), one)
        for one in (sampler, exactly)
    )

    def asked(prompts: dict[str, Array], exact: bool = False) -> Prompts:
        threshold_B = (
            jnp.full_like(prompts["threshold"], jnp.inf) if exact else prompts["threshold"]
        )
        return Prompts(
            prompts["tokens"],
            prompts["valid"],
            prompts["temperature"],
            threshold_B,
            prompts["max_length"],
        )

    def sample(
        trainable, frozen, prompts: dict[str, Array], rng: Array, exact: bool = False
    ) -> Rollout:
        rng_B = row_keys(rng, prompts["index"], prompts["sample"])
        params = rollout_params(
            denoiser.bind(trainable, frozen), denoiser.config.dtype, config.rollout_weights, mesh
        )
        rollout = (exact_fn if exact else rollout_fn)(params, asked(prompts, exact), rng_B)
        return jax.lax.with_sharding_constraint(rollout, sharding.rows(mesh))

    def drift(trainable, frozen, prompts: dict[str, Array], rollout: Rollout) -> sampling.Drift:
        count = max(1, round(config.drift_share * rollout.tokens_BxG.shape[0]))
        chosen, rollout = sampling.take_rows((asked(prompts), rollout), count)
        return sampling.drift(denoiser, sampler, denoiser.bind(trainable, frozen), chosen, rollout)

    # where nothing is compared with the recorded log-probabilities, as in distillation, they may be
    # what they are
    rewards = objectives.find(config.objective).rewards
    watched = (sampler.approximate or config.threshold is not None) and rewards
    return jax.jit(sample, static_argnames="exact"), jax.jit(drift) if watched else None


def abstract_round(
    calls: Steps, config, mesh, trainable: PyTree, frozen: dict
) -> tuple[dict, Batch, Scored]:
    """Shapes and places of a round's (prompts, rewarded slices, scores); the trees may be
    abstract."""
    rows, columns = config.prompts_per_round * config.group_size, config.prompt_length

    def placed(tree, leading):
        place = sharding.rows(mesh, leading)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def row(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    prompts = {
        "tokens": row(jnp.int32, columns),
        "valid": row(bool, columns),
        "index": row(jnp.int32),
        "sample": row(jnp.int32),
        "temperature": row(jnp.float32),
        "threshold": row(jnp.float32),
        "max_length": row(jnp.int32),
    }
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rollout = jax.eval_shape(calls.sample, trainable, frozen, prompts, rng)
    slices = jax.eval_shape(calls.slices, rollout, prompts)
    scored = jax.eval_shape(calls.score, trainable, frozen, slices, rng)
    if objectives.find(config.objective).rewards:
        slices = jax.eval_shape(calls.reward, slices, row(jnp.float32))
    return placed(prompts, 0), placed(slices, 1), placed(scored, 2)


def rollout_params(params: PyTree, dtype: str, weights: str, mesh: jax.sharding.Mesh) -> PyTree:
    """Parameters as a rollout wants them: cast once for all its passes, and placed as
    `rollout_weights` says."""
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    places = sharding.shardings(mesh, params)
    return jax.lax.with_sharding_constraint(
        params, sharding.gathered(places) if whole(params, weights, mesh) else places
    )


def whole(params: PyTree, weights: str, mesh: jax.sharding.Mesh) -> bool:
    """Whether a rollout keeps its (possibly abstract) parameters whole along fsdp."""
    memory = chips.memory_of(mesh.devices.flat[0])
    if weights != "auto" or memory is None:
        return weights != "split"
    return (
        sharding.bytes_per_device(params, sharding.gathered(sharding.shardings(mesh, params)))
        <= memory // 2
    )


def make_sft_step(denoiser: Denoiser, config) -> Callable:
    """`step(state, frozen, arrays, rng) -> (state, metrics)` on given completions, jitted."""
    name = config.sft.objective
    fields = [field.name for field in dataclasses.fields(objectives.find(name).config)]
    settings = objectives.find(name).config(
        **{key: config.sft[key] for key in config.sft if key in fields}
    )
    loss_fn, views_fn = (
        objectives.make_loss_fn(name, denoiser, settings),
        objectives.make_views_fn(name, settings),
    )
    update_fn = make_update(loss_fn, make_optimizer(**config.sft_optimizer))
    block = sampling.SamplerConfig(**config.sampler).causal_block

    def step(state: TrainState, frozen, arrays: dict[str, Array], rng: Array):
        answers = arrays["completion"], arrays["completion_len"]
        batch = as_batch(arrays["tokens"], arrays["valid"], *answers, block)
        batch = batch.replace(masks_KxBxL=views_fn(batch, 1, rng))
        return update_fn(state, frozen, jax.tree.map(lambda x: x[None], batch))

    return jax.jit(step, donate_argnums=0)


def row_keys(rng: Array, prompt_B: Array, sample_B: Array) -> Array:
    """One key a row, from the prompt's global index and the number of the completion among the
    prompt's."""

    def fold(prompt, number):
        return jax.random.fold_in(jax.random.fold_in(rng, prompt), number)

    return jax.vmap(fold)(prompt_B, sample_B)


def as_batch(
    tokens_BxP: Array, valid_BxP: Array, completion_BxG: Array, length_B: Array, block: int | None
) -> Batch:
    """A batch without masks; the padding behind a completion is attended to, as the sampler's masks
    were."""
    return Batch(
        tokens_BxL=jnp.concatenate([tokens_BxP, completion_BxG], axis=1),
        valid_BxL=jnp.concatenate([valid_BxP, jnp.ones(completion_BxG.shape, bool)], axis=1),
        completion_len_B=length_B,
        masks_KxBxL=None,
        prompt_len=tokens_BxP.shape[1],
        block=block,
    )
