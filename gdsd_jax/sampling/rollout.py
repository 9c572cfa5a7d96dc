"""The sampling engine: pass after pass, block after block, until every row is done.

B rows, P prompt columns, G completion columns, L = P + G, C columns that a pass may commit (a
block's), D width, V vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from gdsd_jax.sampling import schedule
from gdsd_jax.sampling.cache import Forward, columns, make_forward
from gdsd_jax.sampling.compaction import all_passes, sizes_of
from gdsd_jax.sampling.config import SamplerConfig, stop_ids_of
from gdsd_jax.sampling.noise import BLOCK_NOISE, fold_rows, row_uniform
from gdsd_jax.sampling.orders import find_order
from gdsd_jax.sampling.proposals import Proposal, propose
from gdsd_jax.sampling.select import most_confident, sure_enough
from gdsd_jax.types import Array, Cache, Denoiser, Prompts, PyTree, Rollout, Uncut


@flax.struct.dataclass
class SamplerState:
    """A rollout under way."""

    tokens_BxL: Array  # int32, `undecided` where nothing is committed
    valid_BxL: Array  # bool, columns that exist for the row
    masked_BxG: Array  # bool, the truth about what is committed
    step_map_BxG: Array  # int32
    logp_BxG: Array  # float32 nats
    passes_B: Array  # int32, the row's denoising passes so far
    done_B: Array  # bool
    block: Array  # int32, the current block
    begun_B: Array  # int32, positions masked when the block began
    step_B: Array  # int32, the row's next step of the block's schedule
    age: Array  # int32, passes since the block began
    cache: Cache | None


class Passes(NamedTuple):
    """A rollout one denoising pass at a time, for those who want to watch.

    `make_rollout_fn` loops over the same functions.

    Attributes:
      begin: `(params, prompts) -> SamplerState`.
      advance: `(params, prompts, rng_B, state) -> SamplerState`, one pass later; rows that are done
        do not change.
      running: `(state) -> bool`, whether anything is left to do.
      end: `(prompts, state) -> Rollout`.
    """

    begin: Callable[[PyTree, Prompts], SamplerState]
    advance: Callable[[PyTree, Prompts, Array, SamplerState], SamplerState]
    running: Callable[[SamplerState], Array]
    end: Callable[[Prompts, SamplerState], Rollout]


def make_rollout_fn(
    denoiser: Denoiser, config: SamplerConfig, shards: int = 1
) -> Callable[[PyTree, Prompts, Array], Rollout]:
    """`rollout_fn(params, prompts, rng_B) -> Rollout`, jitted; `rng_B` holds one key per row.

    Args:
      denoiser: the model.
      config: of the sampler.
      shards: equal parts that the rows of a batch lie in on a mesh, one after another.

    Raises:
      ValueError: the denoiser cannot do what the config asks for.
    """
    begin, advance, running, end = make_passes(denoiser, config)

    @jax.jit
    def rollout_fn(params: PyTree, prompts: Prompts, rng_B: Array) -> Rollout:
        prompts = with_defaults(prompts, config.gen_length)
        sizes = sizes_of(config, len(prompts.tokens_BxP), shards)

        def one_pass(asked, state):
            return advance(params, *asked, state)

        state = begin(params, prompts)
        return end(prompts, all_passes(one_pass, running, config, sizes, (prompts, rng_B), state))

    return rollout_fn


def make_passes(denoiser: Denoiser, config: SamplerConfig) -> Passes:
    """The rollout's parts, not jitted; `prompts` must have been through `with_defaults`.

    Raises:
      ValueError: the denoiser cannot do what the config asks for.
    """
    check(denoiser, config)
    model, order = denoiser.config, find_order(config.order)
    config = dataclasses.replace(config, stop_ids=stop_ids_of(config, model))

    def begin(params, prompts):
        state = fresh_state(prompts, config, model)
        tokens_RxL, valid_RxL = streams(state, config, undecided(model))
        forward = forward_of(denoiser, config, state)
        return state.replace(cache=forward.begin(params, tokens_RxL, valid_RxL))

    def advance(params, prompts, rng_B, state):
        return advanced(denoiser, config, order, params, prompts, rng_B, state)

    def running(state):
        return (state.block < config.blocks) & jnp.any(~state.done_B)

    def end(prompts, state):
        return finish(state, prompts, config, model.pad_id)

    return Passes(begin, advance, running, end)


def advanced(
    denoiser: Denoiser,
    config: SamplerConfig,
    order: Callable[..., Array],
    params: PyTree,
    prompts: Prompts,
    rng_B: Array,
    state: SamplerState,
) -> SamplerState:
    """The state one denoising pass later."""
    model = denoiser.config
    window = window_of(config, state)
    masked_BxC = window.of(state.masked_BxG) & before_block_end(state, config, window)
    pass_rng_B = fold_rows(rng_B, state.passes_B)
    block_rng_B = fold_rows(rng_B, BLOCK_NOISE + state.block)
    step_B, quota_B = next_step(config, state, masked_BxC, block_rng_B)
    active_B = jnp.any(masked_BxC, axis=1) & ~state.done_B
    forward = forward_of(denoiser, config, state)
    h_RxCxD, cache = features(forward, config, undecided(model), params, state, window.block)
    raw, without = split_streams(denoiser.unembed(params, h_RxCxD), config)
    found = propose(
        config,
        order,
        model,
        raw,
        without,
        prompts.temperature_B,
        pass_rng_B,
        block_rng_B,
    )
    commit_BxC = most_confident(found.order_BxC, masked_BxC, quota_B)
    commit_BxC |= sure_enough(found.probability_BxC, masked_BxC, prompts.threshold_B)
    state = state.replace(
        step_B=step_B + 1, passes_B=state.passes_B + active_B, age=state.age + 1, cache=cache
    )
    state = committed(state, window, commit_BxC & active_B[:, None], found)
    if config.reference_quirks:
        completion_BxG = state.tokens_BxL[:, -config.gen_length :]
        state = state.replace(masked_BxG=completion_BxG == model.mask_id)
    return end_block(state, prompts, config, model.pad_id)


def every_block(config: SamplerConfig) -> bool:
    """Whether a pass looks at all blocks at once.

    The released full-attention samplers do: they go on trying masks left over in earlier blocks.
    """
    return config.reference_quirks and config.kind != "block"


def forward_of(denoiser: Denoiser, config: SamplerConfig, state: SamplerState) -> Forward:
    """How the features of a pass's window are computed."""
    if every_block(config):
        config = dataclasses.replace(config, block_length=config.gen_length)
    return make_forward(denoiser, config, state.tokens_BxL.shape[1] - config.gen_length)


def check(denoiser: Denoiser, config: SamplerConfig) -> None:
    """ValueError naming what this denoiser lacks."""
    check_model(denoiser.config, config)
    if config.cache != "none" and denoiser.extend is None:
        raise ValueError(
            f"cache={config.cache!r}: this denoiser keeps no keys and values, use cache='none'"
        )


def check_model(model, config: SamplerConfig) -> None:
    """ValueError where the config asks for what a model of this kind cannot do."""
    if not model.autoregressive:
        if model.mask_id is None:
            raise ValueError("mask_id is None: a denoiser needs a mask, name its id")
        return
    if config.kind != "block" or config.block_length != 1:
        raise ValueError(
            "this model is autoregressive and writes one token after another: set "
            "sampler.kind=block and sampler.block_length=1, or convert it to a denoiser with --a2d"
        )
    if config.reference_quirks or config.cfg_scale:
        raise ValueError(
            "this model is autoregressive: reference_quirks and cfg_scale are of denoisers"
        )


def undecided(model) -> int:
    """The token where nothing is committed; of an autoregressive model nobody looks there."""
    return model.pad_id if model.mask_id is None else model.mask_id


class Window(NamedTuple):
    """The completion columns that a pass may commit."""

    block: Array | int  # counted in windows
    width: int  # columns

    def of(self, x_BxG: Array) -> Array:
        return columns(x_BxG, self.block * self.width, self.width)

    def put(self, x_BxG: Array, new_BxC: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x_BxG, new_BxC, self.block * self.width, axis=1)


def window_of(config: SamplerConfig, state: SamplerState) -> Window:
    """The window of the next pass: the current block, or the whole completion."""
    if every_block(config):
        return Window(0, config.gen_length)
    return Window(state.block, config.block_length)


def fresh_state(prompts: Prompts, config: SamplerConfig, model) -> SamplerState:
    """Every completion position masked, without a cache yet.

    Columns beyond a row's cap do not exist for it.
    """
    (rows, prompt_len), gen_length = prompts.tokens_BxP.shape, config.gen_length
    # The cache "block" needs a whole block before the first one. Blocks are counted from the
    # prompt's end, so padding on the left moves none of them.
    left = -prompt_len % config.block_length if config.cache == "block" else 0
    pad = ((0, 0), (left, 0))
    tokens_BxP = jnp.pad(prompts.tokens_BxP, pad, constant_values=model.pad_id)
    exists_BxG = jnp.arange(gen_length)[None, :] < prompts.max_length_B[:, None]
    completion_BxG = jnp.where(exists_BxG, undecided(model), model.pad_id).astype(jnp.int32)
    return SamplerState(
        tokens_BxL=jnp.concatenate([tokens_BxP, completion_BxG], axis=1),
        valid_BxL=jnp.concatenate([jnp.pad(prompts.valid_BxP, pad), exists_BxG], axis=1),
        masked_BxG=exists_BxG,
        step_map_BxG=jnp.zeros((rows, gen_length), jnp.int32),
        logp_BxG=jnp.zeros((rows, gen_length), jnp.float32),
        passes_B=jnp.zeros((rows,), jnp.int32),
        done_B=prompts.max_length_B <= 0,
        block=jnp.zeros((), jnp.int32),
        begun_B=jnp.minimum(prompts.max_length_B, config.block_length),
        step_B=jnp.zeros((rows,), jnp.int32),
        age=jnp.zeros((), jnp.int32),
        cache=None,
    )


def streams(state: SamplerState, config: SamplerConfig, mask_id: int) -> tuple[Array, Array]:
    """(tokens, valid) that are forwarded.

    The rows, and under guidance below them the rows with the prompt masked.
    """
    if config.cfg_scale == 0:
        return state.tokens_BxL, state.valid_BxL
    columns_L = jnp.arange(state.tokens_BxL.shape[1])
    in_prompt_L = columns_L < len(columns_L) - config.gen_length
    without_BxL = jnp.where(in_prompt_L[None, :], mask_id, state.tokens_BxL)
    return jnp.concatenate([state.tokens_BxL, without_BxL]), jnp.concatenate([state.valid_BxL] * 2)


def split_streams(x_RxCxV: Array, config: SamplerConfig) -> tuple[Array, Array | None]:
    """(of the rows, of the rows with the prompt masked or None): the inverse of `streams`."""
    if config.cfg_scale == 0:
        return x_RxCxV, None
    of_rows, without = jnp.split(x_RxCxV, 2)
    return of_rows, without


def features(
    forward: Forward, config: SamplerConfig, mask_id: int, params, state: SamplerState, block
) -> tuple[Array, Cache | None]:
    """The window's features in the present state, and the cache behind them."""
    tokens_RxL, valid_RxL = streams(state, config, mask_id)

    def write(cache):
        return forward.write(params, tokens_RxL, valid_RxL, cache, block)

    if forward.read is None:
        return write(state.cache)

    def read(cache):
        return forward.read(params, tokens_RxL, cache, block), cache

    due = state.age == 0
    if config.refresh_every > 0:
        due |= state.age % config.refresh_every == 0
    return jax.lax.cond(due, write, read, state.cache)


def before_block_end(state: SamplerState, config: SamplerConfig, window: Window) -> Array:
    """bool [1, C], the window's columns that do not lie behind the current block."""
    column_C = window.block * window.width + jnp.arange(window.width)
    return (column_C < (state.block + 1) * config.block_length)[None, :]


def next_step(
    config: SamplerConfig, state: SamplerState, masked_BxC: Array, block_rng_B: Array
) -> tuple[Array, Array]:
    """(the row's step in its block's schedule, how many positions it commits there).

    Both int32 [B]. `masked_BxC` are the positions that may be committed.
    """
    steps, quirks = config.steps_per_block, config.reference_quirks
    if config.order == "origin":
        noise_BxC = row_uniform(block_rng_B, masked_BxC.shape[1:])
        quota_BxS = schedule.dream_origin(noise_BxC, masked_BxC, steps)
    elif config.kind == "dream":
        count_B = jnp.sum(masked_BxC, axis=1)
        if quirks:  # the batch's
            count_B = jnp.full(count_B.shape, jnp.mean(count_B))
        quota_BxS = schedule.dream(count_B, steps)
    elif config.kind == "block" and quirks:
        quota_S = jnp.array(schedule.half_even(config.block_length, steps))
        quota_BxS = jnp.tile(quota_S[None, :], (masked_BxC.shape[0], 1))
    else:
        quota_BxS = schedule.even(state.begun_B, steps)
    if quirks:
        return schedule.at_step(quota_BxS, state.step_B)
    return schedule.next_quota(quota_BxS, state.step_B)


def committed(
    state: SamplerState, window: Window, commit_BxC: Array, found: Proposal
) -> SamplerState:
    """The state with the proposals at `commit_BxC` taken."""
    prompt_len = state.tokens_BxL.shape[1] - state.masked_BxG.shape[1]

    def taken(x_BxG: Array, new_BxC) -> Array:
        return window.put(x_BxG, jnp.where(commit_BxC, new_BxC, window.of(x_BxG)))

    prompt_BxP, tokens_BxG = jnp.split(state.tokens_BxL, [prompt_len], axis=1)
    return state.replace(
        tokens_BxL=jnp.concatenate([prompt_BxP, taken(tokens_BxG, found.tokens_BxC)], axis=1),
        masked_BxG=taken(state.masked_BxG, False),
        step_map_BxG=taken(state.step_map_BxG, state.passes_B[:, None]),
        logp_BxG=taken(state.logp_BxG, found.logp_BxC),
    )


def end_block(
    state: SamplerState, prompts: Prompts, config: SamplerConfig, pad_id: int
) -> SamplerState:
    """The next block, if the current one is committed in every row that is not done.

    A row is done when the block with its first stop id, or its last block, is committed.
    """
    block = Window(state.block, config.block_length)
    tokens_BxG = state.tokens_BxL[:, -config.gen_length :]
    stopped_B = jnp.any(is_stop(block.of(tokens_BxG), config.stop_ids), axis=1)
    valid_BxL = state.valid_BxL
    if config.reference_quirks:
        ended, done_B = quirky_end(state, config)
        if config.kind == "block":
            prompt_valid_BxP = valid_BxL[:, : -config.gen_length]
            valid_BxL = jnp.concatenate([prompt_valid_BxP, tokens_BxG != pad_id], axis=1)
    else:
        ended = ~jnp.any(jnp.any(block.of(state.masked_BxG), axis=1) & ~state.done_B)
        last_B = (state.block + 1) * config.block_length >= prompts.max_length_B
        done_B = state.done_B | stopped_B | last_B
    following = Window(state.block + 1, config.block_length)

    def if_ended(new, old):
        return jnp.where(ended, new, old)

    return state.replace(
        block=state.block + ended,
        begun_B=if_ended(jnp.sum(following.of(state.masked_BxG), axis=1), state.begun_B),
        step_B=if_ended(0, state.step_B),
        age=if_ended(0, state.age),
        done_B=if_ended(done_B, state.done_B),
        valid_BxL=if_ended(valid_BxL, state.valid_BxL),
    )


def quirky_end(state: SamplerState, config: SamplerConfig) -> tuple[Array, Array]:
    """(block ended, rows done) as the released samplers have it.

    A block ends after a fixed number of passes, and all rows are done together.
    """
    if config.kind != "block":
        return state.step_B[0] == config.steps_per_block, state.done_B
    completion_BxG = state.tokens_BxL[:, -config.gen_length :]
    seen_BxG = jnp.arange(config.gen_length)[None, :] < (state.block + 1) * config.block_length
    every = jnp.all(jnp.any(is_stop(completion_BxG, config.stop_ids) & seen_BxG, axis=1))
    passes = len(schedule.half_even(config.block_length, config.steps_per_block))
    return state.step_B[0] == passes, jnp.full_like(state.done_B, every)


def is_stop(tokens: Array, stop_ids: tuple[int, ...]) -> Array:
    """bool, True where a token ends the completion."""
    if not stop_ids:
        return jnp.zeros(tokens.shape, bool)
    return jnp.isin(tokens, jnp.array(stop_ids, jnp.int32))


def with_defaults(prompts: Prompts, gen_length: int) -> Prompts:
    """Prompts with every per-row setting an array: greedy, no threshold, the whole length."""
    rows = prompts.tokens_BxP.shape[0]

    def given(value, default, dtype):
        return jnp.full((rows,), default, dtype) if value is None else jnp.asarray(value, dtype)

    return prompts.replace(
        temperature_B=given(prompts.temperature_B, 0.0, jnp.float32),
        threshold_B=given(prompts.threshold_B, jnp.inf, jnp.float32),
        max_length_B=jnp.minimum(given(prompts.max_length_B, gen_length, jnp.int32), gen_length),
    )


def length_through(stops_BxG: Array, most_B: Array) -> Array:
    """int32 [B], columns through the first stop among the first `most_B`; these where there is
    none."""
    column_1xG = jnp.arange(stops_BxG.shape[1])[None, :]
    stops_BxG = stops_BxG & (column_1xG < most_B[:, None])
    first_B = jnp.argmax(stops_BxG, axis=1) + 1
    return jnp.where(jnp.any(stops_BxG, axis=1), first_B, most_B).astype(jnp.int32)


def finish(state: SamplerState, prompts: Prompts, config: SamplerConfig, pad_id: int) -> Rollout:
    """Cut every row behind its first stop id."""
    tokens_BxG = state.tokens_BxL[:, -config.gen_length :]
    column_1xG = jnp.arange(config.gen_length)[None, :]
    if config.reference_quirks:
        length_B = jnp.minimum(prompts.max_length_B, state.block * config.block_length)
    else:
        stops_BxG = is_stop(tokens_BxG, config.stop_ids) & ~state.masked_BxG
        length_B = length_through(stops_BxG, prompts.max_length_B)
    keep_BxG = column_1xG < length_B[:, None]
    return Rollout(
        tokens_BxG=jnp.where(keep_BxG, tokens_BxG, pad_id),
        step_map_BxG=jnp.where(keep_BxG, state.step_map_BxG, 0),
        logp_BxG=jnp.where(keep_BxG, state.logp_BxG, 0.0),
        length_B=length_B,
        passes_B=state.passes_B,
        uncut=Uncut(tokens_BxG, state.step_map_BxG, state.logp_BxG),
    )
