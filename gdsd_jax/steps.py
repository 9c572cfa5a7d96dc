"""The device calls of the loop, each a pure function that is jitted once.

B rows (completions of a round), S slices of b rows, P prompt columns, G completion columns, L = P +
G, K mask draws, mu inner iterations.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import chips, models, objectives, sampling, sharding
from gdsd_jax.advantages import BASELINES, NO_VERDICT, known
from gdsd_jax.keys import row_keys
from gdsd_jax.models import ModelConfig
from gdsd_jax.objectives import ar, opd
from gdsd_jax.optimizer import learning_rate, make_optimizer, make_update
from gdsd_jax.probe import Probe, Probed, make_probe
from gdsd_jax.reference import moved
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.settings import Settings
from gdsd_jax.types import Array, Batch, Denoiser, Prompts, PyTree, Rollout, TrainState


class Scored(NamedTuple):
    """Scores at the parameters of the rollout, nats: what the loss compares with.

    [S, K, b], or [S, K, b, G] where the objective compares tokens, for each inner iteration whose
    views no other one has (`ViewSets`). None: nothing is compared.

    Attributes:
      old: without those of iteration 0, which compares with its own, where no other one sees them.
      ref: of the reference policy.
    """

    old: Array | None
    ref: Array | None


class Distance(NamedTuple):
    """How far student and teacher are apart at each answer, float32 [S, b].

    Attributes:
      kl: KL(teacher || student) over the whole vocabulary, nats a masked token; NaN where the
        state that was drawn masks no token that counts.
      teacher_nats: -log-probability of the answer by the teacher, nats a token.
    """

    kl: Array
    teacher_nats: Array


class Steps(NamedTuple):
    """What the loop calls on the device.

    A round calls `sample`, or in its place `sample_exactly` or `teach`, then `slices`, `drift`,
    `score`, the probe and `advantages`; then for each inner iteration `update`, and `sync` between
    some of them. `distance` belongs to evaluations. `inner` is the inner iteration, 0 .. mu - 1.
    """

    # (trainable, frozen, prompts, rng) -> Rollout
    sample: Callable
    sample_exactly: Callable  # the same without a cache that approximates and without int8
    teach: Callable | None  # the same by the teacher, where there is one
    # (trainable, frozen, prompts, rollout) -> sampling.Drift; None: there is none, or no rewards
    drift: Callable | None
    slices: Callable  # (rollout, prompts) -> Batch [S, b, ...] without masks
    score: Callable  # (trainable, frozen, slices, rng) -> Scored
    # (slices, rewards_B, solved_B, judged_B | None) -> slices with rewards and advantages
    advantages: Callable
    # (state, frozen, slices, scored, inner, rng, first) -> (state, metrics); first: inner is 0
    update: Callable
    # (trainable, reference) -> the moved reference; None: it stays where it is
    sync: Callable | None
    # (trainable, frozen, slices, rng) -> Distance; None: there is no teacher
    distance: Callable | None
    probe: Probe | None


def make_steps(
    denoiser: Denoiser, settings: Settings, mesh: jax.sharding.Mesh, teacher: Denoiser | None = None
) -> Steps:
    """The functions of a round; gdsd_jax/settings/schema.py says what the settings mean."""
    config = settings.objective_config
    if teacher is not None:
        config = dataclasses.replace(config, teacher=sharding.by_vocabulary(mesh, teacher))
    sampler = settings.sampler
    exact = dataclasses.replace(sampler, cache="none") if sampler.approximate else sampler
    if sampler.stop_ids is not None:  # objectives ask the model where answers end
        model = dataclasses.replace(denoiser.config, stop_ids=sampler.stop_ids)
        denoiser = denoiser._replace(config=model)
    teach = distance = None
    if teacher is not None:
        teach = make_teach(teacher, sampler, mesh)
        distance = make_distance(denoiser, config.teacher)
    weights, parts = settings.rollout_weights, settings.rollout_parts
    sample = make_sampler(denoiser, sampler, mesh, weights, settings.rollout_quant, parts)
    sample_exactly = sample
    if settings.approximate:
        sample_exactly = make_sampler(denoiser, exact, mesh, weights, parts=parts)
    return Steps(
        sample,
        sample_exactly,
        teach,
        make_drift(denoiser, settings, sharding.row_shards(mesh)),
        make_slices(settings, mesh, denoiser.config.stop_ids),
        make_score(denoiser, settings, config, mesh),
        make_advantages(settings),
        make_round_update(denoiser, settings, config, mesh),
        make_sync(settings, mesh),
        distance,
        make_probe(denoiser, settings, mesh),
    )


def make_sampler(
    denoiser: Denoiser,
    config: SamplerConfig,
    mesh: jax.sharding.Mesh,
    weights: str = "auto",
    quant: str = "none",
    parts: int = 1,
) -> Callable[[PyTree, dict, Prompts, Array], Rollout]:
    """`sample(trainable, frozen, prompts, rng) -> Rollout`, jitted.

    `prompts` must have all their fields; `weights`, `quant` and `parts` are the settings
    `rollout_weights`, `rollout_quant` and `rollout_parts`. Where `parts` does not divide a device's
    rows, there are as many parts as both have in common.
    """
    shards = sharding.row_shards(mesh)
    rollout_fn = sampling.make_rollout_fn(sharding.by_rows(mesh, denoiser), config, shards)

    def sample(trainable, frozen, prompts: Prompts, rng: Array) -> Rollout:
        rng_B = row_keys(rng, prompts.index_B, prompts.sample_B)
        params = denoiser.bind(trainable, frozen)
        params = rollout_params(params, denoiser.config, weights, mesh, quant)
        count = parts_of(parts, len(rng_B), shards)
        if count == 1:
            rollout = rollout_fn(params, prompts, rng_B)
        else:
            work = functools.partial(rollout_fn, params)
            rollout = sharding.in_parts(mesh, work, count, prompts, rng_B)
        return jax.lax.with_sharding_constraint(rollout, sharding.rows(mesh))

    return jax.jit(sample)


def parts_of(parts: int, rows: int, shards: int) -> int:
    """How many parts a rollout of so many rows has: what `parts` and a device's rows have in
    common."""
    return math.gcd(parts, rows // shards)


def make_teach(teacher: Denoiser, sampler: SamplerConfig, mesh: jax.sharding.Mesh) -> Callable:
    """`Steps.teach`: answers that end where the student's do."""
    rollout_fn = sampling.make_rollout_fn(teacher, teachers(sampler), sharding.row_shards(mesh))

    def teach(trainable, frozen, prompts: Prompts, rng: Array) -> Rollout:
        weights = objectives.frozen_params(teacher, frozen, "teacher")
        rng_B = row_keys(rng, prompts.index_B, prompts.sample_B)
        rollout = rollout_fn(weights, prompts.replace(threshold_B=None), rng_B)
        return jax.lax.with_sharding_constraint(rollout, sharding.rows(mesh))

    return jax.jit(teach)


def teachers(sampler: SamplerConfig) -> SamplerConfig:
    """How an autoregressive teacher answers in a student's place.

    One token after another is block diffusion by blocks of one, exactly, for a causal model.
    """
    length, compact = sampler.gen_length, sampler.compact
    return SamplerConfig("block", length, 1, length, compact=compact, stop_ids=sampler.stop_ids)


def make_drift(denoiser: Denoiser, settings: Settings, shards: int = 1) -> Callable | None:
    """`Steps.drift`, of some rows of a rollout, evenly spread; so many that `shards` devices divide
    them, since else each computes all of them.

    Where nothing is compared with the recorded log-probabilities, as in distillation, they may be
    what they are. A threshold alone moves them by rounding only.
    """
    approximate = settings.approximate or settings.threshold is not None
    if not approximate or not objectives.find(settings.objective).rewards:
        return None
    count = max(1, round(settings.drift_share * settings.rows))
    count = min(math.ceil(count / shards) * shards, settings.rows)

    def drift(trainable, frozen, prompts: Prompts, rollout: Rollout) -> sampling.Drift:
        chosen, rollout = sampling.take_rows((prompts, rollout), count)
        params = denoiser.bind(trainable, frozen)
        return sampling.drift(
            denoiser, settings.sampler, params, chosen, rollout, settings.drift_tokens
        )

    return jax.jit(drift)


def make_slices(settings: Settings, mesh: jax.sharding.Mesh, stop_ids: tuple[int, ...]) -> Callable:
    """`Steps.slices`, of every minibatch one after another."""
    sampler, count = settings.sampler, settings.minibatches * settings.slices
    uncut = objectives.find(settings.objective).uncut
    capped = bool(settings.max_lengths) or settings.length_ramp.start is not None

    def slices(rollout: Rollout, prompts: Prompts) -> Batch:
        seen = rollout.uncut if uncut else rollout
        length_B, completion_BxG = rollout.length_B, seen.tokens_BxG
        if sampler.reference_quirks:  # rows go on behind the answer
            stops_BxG = sampling.is_stop(completion_BxG, stop_ids)
            length_B = sampling.length_through(stops_BxG, length_B)
        answers = completion_BxG, length_B, sampler.causal_block
        batch = as_batch(prompts.tokens_BxP, prompts.valid_BxP, *answers)
        if capped:
            exists_BxG = jnp.arange(sampler.gen_length)[None, :] < prompts.max_length_B[:, None]
            valid_BxL = jnp.concatenate([prompts.valid_BxP, exists_BxG], axis=1)
            batch = batch.replace(valid_BxL=valid_BxL, capped=True)
        batch = batch.replace(
            passes=sampler.most_passes,
            logp_BxG=seen.logp_BxG,
            step_map_BxG=seen.step_map_BxG,
            group_B=jnp.arange(len(rollout.length_B)) // settings.group_size,
            widest=settings.prompt_length + sampler.gen_length,
        )
        batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        return jax.lax.with_sharding_constraint(batch, sharding.rows(mesh, leading=1))

    return jax.jit(slices)


class ViewSets(NamedTuple):
    """Which views the inner iterations of a round see.

    Shared, the views of a minibatch are drawn once, and all passes over it see them.

    Attributes:
      count: sets of views; the first so many iterations see one each, the others one of these.
      first_old: the first set that needs the score of the rollout's parameters.
    """

    count: int
    first_old: int

    def of(self, inner):
        """The set that an inner iteration sees."""
        return inner % self.count

    def old_of(self, inner):
        """Its place in `Scored.old`."""
        return self.of(inner) - self.first_old


def view_sets(settings: Settings) -> ViewSets:
    """Those of a round."""
    count = settings.inner_iterations
    if settings.score_masks == "shared":
        count = min(count, settings.minibatches)
    return ViewSets(count, int(count == settings.inner_iterations))


def make_masked(settings: Settings, config, mesh) -> Callable[[Batch, Array, Array], Batch]:
    """`masked(batch, inner, rng)`: the slices of an inner iteration under fresh views.

    Views are drawn, and tokens or rows counted, for the whole optimizer step before it is cut: so
    its gradient is the same however many slices it has.
    """
    slices, draws, sets = settings.slices, settings.mask_draws, view_sets(settings)
    views_fn = objectives.make_views_fn(settings.objective, config)
    count_fn = objectives.make_count_fn(settings.objective, config)

    def of_step(batch: Batch, rng: Array) -> Batch:
        whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        # the key of a single slice, so that slices_apart changes nothing where there is one
        masks = views_fn(whole, draws, jax.random.split(rng, 1)[0])
        masks = jnp.moveaxis(masks.reshape(len(masks), *batch.tokens_BxL.shape), 1, 0)
        masks = jax.lax.with_sharding_constraint(masks, sharding.rows(mesh, leading=2))
        mean_count = None
        if count_fn is not None:
            mean_count = jnp.full(slices, count_fn(whole) / slices)
        return batch.replace(masks_KxBxL=masks, mean_count=mean_count)

    def of_slices(batch: Batch, rng: Array) -> Batch:
        keys_S = jax.random.split(rng, slices)
        masks = jax.vmap(lambda one, key: views_fn(one, draws, key))(batch, keys_S)
        return batch.replace(masks_KxBxL=masks)

    def masked(batch: Batch, inner: Array, rng: Array) -> Batch:
        first = (inner % settings.minibatches) * slices
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, slices), batch)
        draw = of_slices if settings.slices_apart else of_step
        return draw(batch, jax.random.fold_in(rng, sets.of(inner)))

    return masked


def make_score(denoiser: Denoiser, settings: Settings, config, mesh: jax.sharding.Mesh) -> Callable:
    """`Steps.score`: the views of one inner iteration after another, a slice at a time."""
    sets, masked = view_sets(settings), make_masked(settings, config, mesh)
    scorer = sharding.by_vocabulary(mesh, denoiser)
    score_fn = objectives.make_score_fn(settings.objective, scorer, config)
    compares = objectives.find(settings.objective).reference(config)

    def score(trainable, frozen, batch: Batch, rng: Array) -> Scored:
        if score_fn is None:
            return Scored(None, None)

        def scores(params, first: int, which: int) -> Array:
            def of_iteration(inner):
                views = masked(batch, inner, rng)
                return jax.lax.map(lambda one: score_fn(params, one)[which], views)

            return jax.lax.map(of_iteration, jnp.arange(first, sets.count))

        old = ref = None
        if sets.count > sets.first_old:
            old = scores(denoiser.bind(trainable, frozen), sets.first_old, 0)
        if compares:
            ref = scores(objectives.frozen_params(denoiser, frozen, "reference"), 0, 1)
        return jax.lax.with_sharding_constraint(Scored(old, ref), sharding.rows(mesh, leading=3))

    return jax.jit(score)


def make_advantages(settings: Settings) -> Callable:
    """`Steps.advantages`."""
    baseline = BASELINES[settings.baseline]
    reads_solved = "solved_B" in objectives.find(settings.objective).reads

    def advantages(
        batch: Batch, rewards_B: Array, solved_B: Array, judged_B: Array | None = None
    ) -> Batch:
        advantages_B = baseline(rewards_B, settings.group_size, settings.scale_rewards, judged_B)
        shape = batch.completion_len_B.shape
        rewards_B = jnp.where(known(rewards_B, judged_B), rewards_B, NO_VERDICT)
        return batch.replace(
            rewards_B=rewards_B.reshape(shape),
            advantages_B=advantages_B.reshape(shape),
            solved_B=solved_B.reshape(shape) if reads_solved else None,
        )

    return jax.jit(advantages)


def make_round_update(
    denoiser: Denoiser, settings: Settings, config, mesh: jax.sharding.Mesh
) -> Callable:
    """`Steps.update`: one optimizer step over the slices of an inner iteration."""
    sets, masked = view_sets(settings), make_masked(settings, config, mesh)
    scorer = sharding.by_vocabulary(mesh, denoiser)
    loss_fn = objectives.make_loss_fn(settings.objective, scorer, config)
    skip = settings.not_finite == "skip"
    update_fn = make_update(loss_fn, make_optimizer(settings.optimizer), skip)

    def update(
        state: TrainState, frozen, batch: Batch, scored: Scored, inner, rng: Array, first: bool
    ) -> tuple[TrainState, dict[str, Array]]:
        old = ref = None
        if scored.old is not None and not first:
            old = scored.old[sets.old_of(inner)]
        if scored.ref is not None:
            ref = scored.ref[sets.of(inner)]
        batch = masked(batch, inner, rng).replace(old_KxB=old, ref_KxB=ref)
        rate = learning_rate(settings.optimizer, state.opt_state)
        state, metrics = update_fn(state, frozen, batch)
        return state, metrics | {"learning_rate": rate}

    return jax.jit(update, donate_argnums=0, static_argnames="first")


def make_sync(settings: Settings, mesh: jax.sharding.Mesh) -> Callable | None:
    """`Steps.sync`; the moved reference takes the place of the one it is given."""
    if not settings.reference_sync.every:
        return None

    def sync(trainable: PyTree, reference: PyTree) -> PyTree:
        found = moved(trainable, reference, settings.reference_sync.mix)
        return jax.lax.with_sharding_constraint(found, sharding.shardings(mesh, found))

    return jax.jit(sync, donate_argnums=1)


def make_distance(denoiser: Denoiser, teacher: Denoiser) -> Callable:
    """`Steps.distance`, at states of the rollout, whatever is trained on."""
    config = objectives.OpdConfig(teacher)
    views_fn = objectives.make_views_fn("opd", config)

    def distance(trainable, frozen, slices: Batch, rng: Array) -> Distance:
        params = denoiser.bind(trainable, frozen)
        weights = objectives.frozen_params(teacher, frozen, "teacher")

        def of_slice(one: Batch) -> Distance:
            found = opd.apart(denoiser, config, params, one, weights)
            nats_B = ar.nats_of_rows(teacher, objectives.ArConfig(), weights, one)
            return Distance(jnp.where(found.masked_B > 0, found.divergence_B, jnp.nan), nats_B)

        keys_S = jax.random.split(rng, len(slices.completion_len_B))
        masks = jax.vmap(lambda one, key: views_fn(one, 1, key))(slices, keys_S)
        return jax.lax.map(of_slice, slices.replace(masks_KxBxL=masks))

    return jax.jit(distance)


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


def rollout_params(
    params: PyTree, config: ModelConfig, weights: str, mesh: jax.sharding.Mesh, quant: str = "none"
) -> PyTree:
    """Parameters as a rollout wants them: of the type that `cast` gives them, once for all its
    passes, and placed as `rollout_weights` says."""
    params = cast(params, config, quant)
    places = sharding.shardings(mesh, params)
    if are_whole(params, weights, mesh):
        # first where they lie, so that the smaller type is what devices collect
        params = jax.lax.with_sharding_constraint(params, places)
        places = sharding.gathered(places)
    return jax.lax.with_sharding_constraint(params, places)


def cast(params: PyTree, config: ModelConfig, quant: str) -> PyTree:
    """Parameters in the type of activations, with "int8" the layers' projections in that."""
    if quant == "int8":
        return models.quantise_layers(config, params)
    return jax.tree.map(lambda x: x.astype(config.dtype), params)


def are_whole(params: PyTree, weights: str, mesh: jax.sharding.Mesh) -> bool:
    """Whether a rollout keeps its (possibly abstract) parameters whole along fsdp."""
    memory = chips.memory_of(mesh.devices.flat[0])
    if weights != "auto" or memory is None:
        return weights != "split"
    places = sharding.gathered(sharding.shardings(mesh, params))
    in_int8 = any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(params))
    # of int8 a little more than half, so that 8B weights are whole on a v5e chip
    share = 0.6 if in_int8 else 0.5
    return sharding.bytes_per_device(params, places) <= share * memory


def abstract_round(
    calls: Steps,
    settings: Settings,
    mesh: jax.sharding.Mesh,
    trainable: PyTree,
    frozen: dict,
    columns: int | None = None,
) -> tuple[Prompts, Batch, Scored, Probed | None]:
    """Shapes and places of a round's (prompts, rewarded slices, scores, probed rows); the trees may
    be abstract.

    `columns` are those of the prompts; None = the most there are.
    """
    rows = settings.rows
    if columns is None:
        columns = settings.prompt_length

    def placed(tree, place):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def row(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    prompts = Prompts(
        tokens_BxP=row(jnp.int32, columns),
        valid_BxP=row(bool, columns),
        temperature_B=row(jnp.float32),
        threshold_B=row(jnp.float32),
        max_length_B=row(jnp.int32),
        index_B=row(jnp.int32),
        sample_B=row(jnp.int32),
    )
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rollout = jax.eval_shape(calls.sample, trainable, frozen, prompts, rng)
    slices = jax.eval_shape(calls.slices, rollout, prompts)
    scored = jax.eval_shape(calls.score, trainable, frozen, slices, rng)
    if objectives.find(settings.objective).rewards:
        slices = jax.eval_shape(calls.advantages, slices, row(jnp.float32), row(bool))
    probed = None
    if calls.probe is not None:
        probed = jax.eval_shape(calls.probe.before, trainable, frozen, prompts, rollout, rng)
    return (
        placed(prompts, sharding.rows(mesh)),
        placed(slices, sharding.rows(mesh, leading=1)),
        placed(scored, sharding.rows(mesh, leading=3)),
        placed(probed, sharding.replicated(mesh)),
    )
