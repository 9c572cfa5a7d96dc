"""Structs that cross module borders.

B rows, P prompt columns, G completion columns, L = P + G, K mask draws, D width, V vocabulary.
Log-probabilities are in nats, lengths in tokens.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

Array = jax.Array
PyTree = Any


class Denoiser(NamedTuple):
    """A language model as pure functions over plain nested dicts of arrays.

    Attributes:
      config: the static `ModelConfig`.
      features: `(params, tokens_BxL, *, valid_BxL=None, positions_BxL=None, attention=None) ->
        h_BxLxD`. Aligned: `unembed(params, h[:, i])` scores the token AT column i, whatever the
        family.
      unembed: `(params, h_...xD) -> logits_...xV` float32.
      bind: `(trainable, frozen) -> params`: with `frozen["base"]`, that under the adapters
        `trainable`; else the weights `trainable` themselves.
      init_cache: `(params, batch, length, *, valid_BxL=None) -> Cache`, empty.
      extend: `(params, tokens_BxQ, cache, start, *, write, attention=None, seen=None) -> (h_BxQxD,
        cache)`: features of the Q columns from `start` on, aligned too. The other columns are as
        the cache holds them; `seen` says how many of its first columns are looked at (None: all;
        0: none, and `start` is 0). `write`: the cache that comes back holds the Q columns.
      block_causal: `(block, offset) -> attention`: a column sees its own block of columns and
        earlier blocks.
      doubled: `(prompt_len, block) -> attention` of the row [prompt | clean | noised]: a noised
        column sees the prompt, the clean blocks before its own, and its own noised block, and
        has the features that a rollout had which had decided those before.
      logit_shards: how many devices share the logits that `unembed` gives.
    """

    config: Any
    features: Callable[..., Array]
    unembed: Callable[[PyTree, Array], Array]
    bind: Callable[[PyTree, dict], PyTree]
    init_cache: Callable[..., "Cache"] | None = None  # None: this denoiser keeps nothing
    extend: Callable[..., tuple[Array, "Cache"]] | None = None
    block_causal: Callable[[int, int], Any] | None = None
    doubled: Callable[..., Any] | None = None
    logit_shards: int = 1


@flax.struct.dataclass
class Cache:
    """What a denoiser remembers of its rows. N layers, K key heads, d head width."""

    k_NxBxKxdxL: Array  # keys, rotated, in the activations' dtype
    v_NxBxKxLxd: Array  # values
    valid_BxL: Array  # bool, columns that may be attended to; positions count them
    # unshifted states, for families whose column i is scored by the state before it
    h_BxLxD: Array | None


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array on disk, read when it is asked for.

    Trees of these pass through a machine that cannot hold the model.

    Attributes:
      shape, dtype: of the array.
      read: `(index=None) -> np.ndarray`; a tuple of slices reads that part alone.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[..., np.ndarray]


@flax.struct.dataclass
class Prompts:
    """What the sampler is asked, one row a completion."""

    tokens_BxP: Array  # int32, left-padded
    valid_BxP: Array  # bool, False on padding
    temperature_B: Array | None = None  # float32, None = 0 (greedy)
    threshold_B: Array | None = None  # float32 probability, inf or None = off
    max_length_B: Array | None = None  # int32 tokens, None = the sampler's gen_length
    index_B: Array | None = None  # int32, the record of each row, for its noise
    sample_B: Array | None = None  # int32, which of that record's completions


@flax.struct.dataclass
class Uncut:
    """A completion with what was committed behind its stop id, in the same block.

    Every state that the sampler saw can be rebuilt from it.
    """

    tokens_BxG: Array  # int32
    step_map_BxG: Array  # int32, 0 where nothing was committed
    logp_BxG: Array  # float32 nats, as in Rollout


@flax.struct.dataclass
class Rollout:
    """Completions and how they came about; from `length_B` on they are pad ids and zeros.

    Under a sampler's `reference_quirks` nothing is cut, and `length_B` counts all that is written.
    """

    tokens_BxG: Array  # int32
    step_map_BxG: Array  # int32, 1-based count of the row's own denoising passes at the commit
    logp_BxG: Array  # float32 nats: plain log-softmax at the committing state
    length_B: Array  # int32, up to and including the first stop id
    passes_B: Array  # int32, denoising passes the row needed
    uncut: Uncut | None = None


@flax.struct.dataclass
class Batch:
    """What an objective reads. Fields that an objective does not use are None."""

    tokens_BxL: Array  # int32, prompt (left-padded) then completion
    valid_BxL: Array  # bool, False on padding that must not be attended to
    completion_len_B: Array  # int32, up to and including the first stop id
    masks_KxBxL: Array  # bool, True where a token is masked; of just_grpo where it is scored
    advantages_B: Array | None = None  # float32, reward units
    rewards_B: Array | None = None  # float32, advantages.NO_VERDICT where there is none
    solved_B: Array | None = None  # bool, whether the answer solves its problem
    group_B: Array | None = None  # int32, rows of one prompt share a number
    # float32 nats, None = stop-gradient of the current score; [K, B, G] for tokens
    old_KxB: Array | None = None
    ref_KxB: Array | None = None  # the same of the reference policy
    noised_BxL: Array | None = None  # int32, distillation states
    step_map_BxG: Array | None = None  # int32, as in Rollout
    logp_BxG: Array | None = None  # float32 nats, as in Rollout
    # float32, what means over tokens or rows divide by: how many of them the mean slice of an
    # optimizer step has; None = as many as these rows have
    mean_count: Array | None = None
    prompt_len: int = flax.struct.field(pytree_node=False, default=0)  # P, static
    # whether rows may have fewer completion columns than L - P, by `valid_BxL`, static
    capped: bool = flax.struct.field(pytree_node=False, default=False)
    # of a block-causal denoiser, tokens, static
    block: int | None = flax.struct.field(pytree_node=False, default=None)
    # columns of the run's widest rows, static: draws for each column are made for so many, and are
    # then those of the last L, however narrow a round is. 0 = as many as these rows have
    widest: int = flax.struct.field(pytree_node=False, default=0)
    # the most denoising passes of a row, static; None = one a token
    passes: int | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class TrainState:
    """What an update changes; `resume.as_saved` says what else a checkpoint holds."""

    trainable: PyTree  # weights, or adapters over frozen["base"]
    opt_state: PyTree
    step: Array  # int32, optimizer steps of the present phase
