"""The sampling engine: block after block, denoising passes until every row is done.

B rows, P prompt columns, G completion columns, L = P + G, C columns of a block, D width, V vocabulary.
"""
import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from gdsd_jax.sampling import confidence as confidences
from gdsd_jax.sampling.schedule import quota
from gdsd_jax.sampling.select import commit_count, most_confident
from gdsd_jax.types import Array, Denoiser, Prompts, PyTree, Rollout


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """What changes the sampler's shapes or code; temperature, threshold and length cap are per row (`Prompts`).

    Attributes:
      kind: "llada", the semi-autoregressive sampler of specs/gdsd.md section 7.1.
      gen_length: completion columns, tokens.
      block_length: columns of a block, a divisor of gen_length.
      steps: denoising passes over the whole completion, shared evenly by the blocks.
      remasking: "low_confidence" or "random", who is committed first.
      stop_ids: tokens that end a completion; None = the model's own.
    """

    kind: str = "llada"
    gen_length: int = 256
    block_length: int = 32
    steps: int = 256
    remasking: str = "low_confidence"
    stop_ids: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind != "llada":
            raise ValueError(f"kind={self.kind!r}: only 'llada' is known")
        if self.remasking not in confidences.REMASKING:
            raise ValueError(f"remasking={self.remasking!r}: choose one of {', '.join(confidences.REMASKING)}")
        for key in ("gen_length", "block_length", "steps"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1")
        if self.gen_length % self.block_length:
            raise ValueError(f"gen_length={self.gen_length} must be a multiple of block_length={self.block_length}")

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        return max(1, self.steps // self.blocks)


@flax.struct.dataclass
class SamplerState:
    tokens_BxL: Array  # int32, mask id where nothing is committed
    masked_BxG: Array  # bool, the truth about what is committed
    step_map_BxG: Array  # int32
    logp_BxG: Array  # float32 nats
    passes_B: Array  # int32, the row's denoising passes so far
    done_B: Array  # bool
    block: Array  # int32, the current block


def make_rollout_fn(
    denoiser: Denoiser, config: SamplerConfig, watch: Callable[[Array, Array], None] | None = None
) -> Callable[[PyTree, Prompts, Array], Rollout]:
    """`rollout_fn(params, prompts, rng_B) -> Rollout`, jitted whole; `rng_B` holds one key per row.

    `watch(tokens_BxG, step_map_BxG)` is called on the host after every pass, with the state so far (step 0: still
    masked). On several devices its calls may come out of order; `jax.effects_barrier()` waits for the last.
    """
    stop_ids = denoiser.config.stop_ids if config.stop_ids is None else config.stop_ids

    @jax.jit
    def rollout_fn(params: PyTree, prompts: Prompts, rng_B: Array) -> Rollout:
        prompts = with_defaults(prompts, config.gen_length)
        valid_BxL, state = begin(prompts, config.gen_length, denoiser.config)

        def run_block(state: SamplerState) -> SamplerState:
            count_B = jnp.sum(block_of(state.masked_BxG, state, config), axis=1)

            def run_pass(carry):
                state, step = carry
                quota_B = quota(count_B, step, config.steps_per_block)
                state = denoise(denoiser, config, params, prompts, valid_BxL, rng_B, state, quota_B)
                if watch is not None:
                    jax.debug.callback(watch, state.tokens_BxL[:, prompts.tokens_BxP.shape[1] :], state.step_map_BxG)
                return state, step + 1

            def more(carry):
                return jnp.any(active_rows(carry[0], config))

            state, _ = jax.lax.while_loop(more, run_pass, (state, 0))
            return finish_block(state, prompts, config, stop_ids)

        def unfinished(state: SamplerState) -> Array:
            return (state.block < config.blocks) & jnp.any(~state.done_B)

        state = jax.lax.while_loop(unfinished, run_block, state)
        return finish(state, prompts, stop_ids, denoiser.config.pad_id)

    return rollout_fn


def denoise(denoiser, config, params, prompts, valid_BxL, rng_B, state: SamplerState, quota_B: Array) -> SamplerState:
    """One pass: propose for the current block's masked positions, commit the surest of each row."""
    column = prompts.tokens_BxP.shape[1] + state.block * config.block_length
    active_B = active_rows(state, config)
    rng_B = confidences.fold_rows(rng_B, state.passes_B)
    passes_B = state.passes_B + active_B

    h_BxLxD = denoiser.features(params, state.tokens_BxL, valid_BxL=valid_BxL)
    h_BxCxD = jax.lax.dynamic_slice_in_dim(h_BxLxD, column, config.block_length, axis=1)
    logits_BxCxV = denoiser.unembed(params, h_BxCxD)
    tokens_BxC, logp_BxC = confidences.propose(logits_BxCxV, rng_B, prompts.temperature_B, denoiser.config.mask_id)

    masked_BxC = block_of(state.masked_BxG, state, config)
    rng_B = confidences.fold_rows(rng_B, jnp.ones_like(passes_B))  # another stream than the proposals'
    sure_BxC = confidences.REMASKING[config.remasking](logp_BxC, rng_B)
    count_B = commit_count(quota_B, sure_BxC, masked_BxC, prompts.threshold_B)
    commit_BxC = most_confident(sure_BxC, masked_BxC, count_B) & active_B[:, None]

    def committed(x_BxN: Array, values_BxC: Array, column) -> Array:
        old_BxC = jax.lax.dynamic_slice_in_dim(x_BxN, column, config.block_length, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(x_BxN, jnp.where(commit_BxC, values_BxC, old_BxC), column, axis=1)

    start = state.block * config.block_length
    return state.replace(
        tokens_BxL=committed(state.tokens_BxL, tokens_BxC, column),
        masked_BxG=committed(state.masked_BxG, False, start),
        step_map_BxG=committed(state.step_map_BxG, passes_B[:, None], start),
        logp_BxG=committed(state.logp_BxG, logp_BxC, start),
        passes_B=passes_B,
    )


def block_of(x_BxG: Array, state: SamplerState, config: SamplerConfig) -> Array:
    """The current block's columns."""
    return jax.lax.dynamic_slice_in_dim(x_BxG, state.block * config.block_length, config.block_length, axis=1)


def active_rows(state: SamplerState, config: SamplerConfig) -> Array:
    """bool [B], rows with something left to commit in the current block."""
    return ~state.done_B & jnp.any(block_of(state.masked_BxG, state, config), axis=1)


def finish_block(state: SamplerState, prompts: Prompts, config: SamplerConfig, stop_ids) -> SamplerState:
    """A row is done when the block with its first stop id, or its last block, is committed."""
    completion_BxG = state.tokens_BxL[:, prompts.tokens_BxP.shape[1] :]
    stopped_B = jnp.any(is_stop(block_of(completion_BxG, state, config), stop_ids), axis=1)
    full_B = (state.block + 1) * config.block_length >= prompts.max_length_B
    return state.replace(done_B=state.done_B | stopped_B | full_B, block=state.block + 1)


def is_stop(tokens: Array, stop_ids: tuple[int, ...]) -> Array:
    """bool, True where a token ends the completion."""
    return jnp.isin(tokens, jnp.array(stop_ids, jnp.int32)) if stop_ids else jnp.zeros(tokens.shape, bool)


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


def begin(prompts: Prompts, gen_length: int, model) -> tuple[Array, SamplerState]:
    """(valid_BxL, state) with every completion position masked; columns beyond a row's cap do not exist for it."""
    rows = prompts.tokens_BxP.shape[0]
    exists_BxG = jnp.arange(gen_length)[None, :] < prompts.max_length_B[:, None]
    completion_BxG = jnp.where(exists_BxG, model.mask_id, model.pad_id).astype(jnp.int32)
    state = SamplerState(
        tokens_BxL=jnp.concatenate([prompts.tokens_BxP, completion_BxG], axis=1),
        masked_BxG=exists_BxG,
        step_map_BxG=jnp.zeros((rows, gen_length), jnp.int32),
        logp_BxG=jnp.zeros((rows, gen_length), jnp.float32),
        passes_B=jnp.zeros((rows,), jnp.int32),
        done_B=jnp.zeros((rows,), bool),
        block=jnp.zeros((), jnp.int32),
    )
    return jnp.concatenate([prompts.valid_BxP, exists_BxG], axis=1), state


def finish(state: SamplerState, prompts: Prompts, stop_ids: tuple[int, ...], pad_id: int) -> Rollout:
    """Cut every row behind its first stop id."""
    tokens_BxG = state.tokens_BxL[:, prompts.tokens_BxP.shape[1] :]
    stops_BxG = is_stop(tokens_BxG, stop_ids) & ~state.masked_BxG
    stops_BxG &= jnp.arange(tokens_BxG.shape[1])[None, :] < prompts.max_length_B[:, None]
    length_B = jnp.where(jnp.any(stops_BxG, axis=1), jnp.argmax(stops_BxG, axis=1) + 1, prompts.max_length_B)
    keep_BxG = jnp.arange(tokens_BxG.shape[1])[None, :] < length_B[:, None]
    return Rollout(
        tokens_BxG=jnp.where(keep_BxG, tokens_BxG, pad_id),
        step_map_BxG=jnp.where(keep_BxG, state.step_map_BxG, 0),
        logp_BxG=jnp.where(keep_BxG, state.logp_BxG, 0.0),
        length_B=length_B.astype(jnp.int32),
        passes_B=state.passes_B,
    )
