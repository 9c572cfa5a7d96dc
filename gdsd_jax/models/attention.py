"""Who attends to whom.

B rows, Q queries, K keys, L columns. `allowed(query, key, columns)` of a kind says whether a query
column may look at a key column, in a row of `columns` columns. The column numbers are numpy or jax
arrays that broadcast. None: everything is allowed. Every column may look at itself.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Full:
    """Every column attends to every valid column."""

    def allowed(self, query, key, columns: int):
        return None


@dataclasses.dataclass(frozen=True)
class Causal:
    """A column attends to itself and earlier valid columns."""

    def allowed(self, query, key, columns: int):
        return key <= query


@dataclasses.dataclass(frozen=True)
class BlockCausal:
    """A column attends to its own block and earlier ones.

    Attributes:
      block: columns of a block; the block of a column is (column - offset) // block.
      offset: where the first block begins.
    """

    block: int
    offset: int = 0

    def allowed(self, query, key, columns: int):
        return (key - self.offset) // self.block <= (query - self.offset) // self.block


@dataclasses.dataclass(frozen=True)
class Doubled:
    """The row [prompt | clean | noised] that scores a block-causal denoiser.

    The clean and the noised stream share the prompt. A clean column attends like
    `BlockCausal(block, prompt_len)` and never to the noised stream. A noised one attends to the
    clean columns of earlier blocks and to its own noised block. The row's width tells where the
    noised stream begins.

    Attributes:
      prompt_len: columns of the prompt; blocks are counted from its end.
      block: columns of a block.
      continues: whether the noised block goes on from the clean one before it where states are
        shifted, as in a rollout, whose earlier blocks are decided; else from the noised one.
    """

    prompt_len: int
    block: int
    continues: bool = False

    def allowed(self, query, key, columns: int):
        completion = self.completion(columns)
        noised_query = query >= self.prompt_len + completion
        noised_key = key >= self.prompt_len + completion
        block_query = (query - self.prompt_len - completion * noised_query) // self.block
        block_key = (key - self.prompt_len - completion * noised_key) // self.block
        own_noised = noised_key & noised_query & (block_key == block_query)
        return own_noised | (~noised_key & (block_key <= block_query - noised_query))

    def completion(self, columns: int) -> int:
        """Columns of each stream behind the prompt."""
        return (columns - self.prompt_len) // 2


KINDS = {"full": Full(), "causal": Causal()}


def attention_mask(
    spec, valid_BxL: Array | None, length: int, start: Array | int = 0, queries: int | None = None
) -> Array | None:
    """[1|B, 1, L, L] bool, True where a query may look; None where everything is allowed.

    With `queries`, [1|B, 1, Q, L]: of so many columns from `start` on. Padding is never a key. Its
    own rows look at the valid keys, which keeps them finite, and nobody reads them.
    """
    columns_L = jnp.arange(length)
    query_Q = columns_L if queries is None else start + jnp.arange(queries)
    allowed_QxL = spec.allowed(query_Q[:, None], columns_L[None, :], length)
    mask = None if allowed_QxL is None else allowed_QxL[None, None]
    if valid_BxL is None:
        return mask
    keys = valid_BxL[:, None, None, :]
    return keys if mask is None else mask & keys


def positions_of(valid_BxL: Array, spec=Full()) -> Array:
    """int32 [B, L]: positions count real tokens, so that padding does not move a row's text.

    The two streams of a doubled row count alike.
    """
    if isinstance(spec, Doubled):
        clean = spec.prompt_len + spec.completion(valid_BxL.shape[1])
        once = positions_of(valid_BxL[:, :clean])
        return jnp.concatenate([once, once[:, spec.prompt_len :]], axis=1)
    return jnp.maximum(jnp.cumsum(valid_BxL, axis=1) - 1, 0)


def previous_valid(valid_BxL: Array, spec=Full()) -> Array:
    """int32 [B, L]: column of the previous valid position of the same stream.

    A position without one keeps its own column.
    """
    if isinstance(spec, Doubled):
        prompt, completion = spec.prompt_len, spec.completion(valid_BxL.shape[1])
        clean_BxS = previous_valid(valid_BxL[:, : prompt + completion])
        noised_valid_BxS = jnp.concatenate(
            [valid_BxL[:, :prompt], valid_BxL[:, prompt + completion :]], axis=1
        )
        noised_BxS = previous_valid(noised_valid_BxS)
        noised_BxS += completion * (noised_BxS >= prompt)
        noised_BxS = noised_BxS[:, prompt:]
        if spec.continues:
            is_first_S = jnp.arange(completion) % spec.block == 0
            noised_BxS = jnp.where(is_first_S, clean_BxS[:, prompt:], noised_BxS)
        return jnp.concatenate([clean_BxS, noised_BxS], axis=1)
    columns_L = jnp.arange(valid_BxL.shape[1])
    last_seen_BxL = jax.lax.cummax(jnp.where(valid_BxL, columns_L, -1), axis=1)
    previous_BxL = jnp.pad(last_seen_BxL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return jnp.where(previous_BxL >= 0, previous_BxL, columns_L)
