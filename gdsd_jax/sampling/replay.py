"""Replay: the log-probability of every token at the state in which a rollout committed it.

It is computed from the completion and its step map, for any parameters, and has a gradient.
B rows, P prompt columns, G completion columns, S forwards.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from gdsd_jax.sampling.rollout import undecided
from gdsd_jax.scoring import NO_CENTRING, token_scores
from gdsd_jax.types import Array, Denoiser, PyTree, Uncut

NEVER = jnp.iinfo(jnp.int32).max  # a pass that no row has


def replay(
    denoiser: Denoiser,
    params: PyTree,
    tokens_BxP: Array,
    valid_BxP: Array,
    uncut: Uncut,
    *,
    block: int | None = None,
    passes: int | None = None,
    groups: int = 0,
    picked: tuple[Array, int] | None = None,
) -> Array:
    """float32 [B, G], nats of each committed token at its state, and 0 where none was committed.

    Those of the raw softmax, like a rollout's own. Each pass is a forward of all rows, one after
    another, and the backward pass computes it again: memory is that of one. Of a block-causal
    denoiser the first passes of all blocks are one forward of the row [prompt | clean | noised],
    then the second ones, and so on.

    Args:
      denoiser: of the rollout.
      params: any.
      tokens_BxP: int32, left-padded prompts.
      valid_BxP: bool, False on padding.
      uncut: of the rollout. A column that is neither committed nor undecided lies beyond the row's
        cap and does not exist.
      block: tokens of a block that the denoiser attends by, as `SamplerConfig.causal_block`.
      passes: the most that a row took, as `SamplerConfig.most_passes`; None = one a token.
      groups: 0 = exact. Else so many groups of consecutive passes of each row, whose tokens are
        scored at the state before the group: cheaper, and not the law of the rollout.
      picked: (tokens, bool [B, G]; the most passes that they have in a row). Those passes are
        replayed, and the tokens of others get 0. None = all.
    """
    gen_length = uncut.tokens_BxG.shape[1]
    number_BxG = pass_numbers(uncut.step_map_BxG, block)
    most = passes or gen_length if block is None else min(block, gen_length)
    features = make_features(denoiser, tokens_BxP, valid_BxP, uncut, block)

    def scores(params, first_B, now_BxG):
        h_BxGxD = features(params, (number_BxG > 0) & (number_BxG < first_B[:, None]))
        logp_BxG, _ = token_scores(denoiser, params, h_BxGxD, uncut.tokens_BxG, NO_CENTRING)
        return jnp.where(now_BxG, logp_BxG, 0.0)

    return summed(scores, params, number_BxG, slots(number_BxG, most, groups, picked))


def summed(
    scores: Callable[..., Array], params: PyTree, number_BxG: Array, slots: tuple[Array, Array]
) -> Array:
    """The sum over the slots of `scores(params, first_B, now_BxG)`, float32 [B, G]; a slot in which
    no row has a token is left out."""

    # around the condition: inside of it the weights would be kept once for each slot
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_slot(params, first_B, last_B):
        now_BxG = (number_BxG >= first_B[:, None]) & (number_BxG <= last_B[:, None])
        return jax.lax.cond(
            jnp.any(now_BxG),
            lambda: scores(params, first_B, now_BxG),
            lambda: jnp.zeros(now_BxG.shape, jnp.float32),
        )

    def add(total_BxG, slot):
        return total_BxG + of_slot(params, *slot), None

    return jax.lax.scan(add, jnp.zeros(number_BxG.shape, jnp.float32), slots)[0]


def existing(model, uncut: Uncut) -> Array:
    """bool [B, G], the columns that existed for the row: committed, or left undecided."""
    return (uncut.step_map_BxG > 0) | (uncut.tokens_BxG == undecided(model))


def pass_numbers(step_map_BxG: Array, block: int | None) -> Array:
    """int32 [B, G], the pass of each token, from 1 on; 0 where nothing was committed.

    Of a row, or with `block` of the token's own block.
    """
    if block is None:
        return step_map_BxG
    step_BxNxC = step_map_BxG.reshape(len(step_map_BxG), -1, block)
    taken_BxNxC = step_BxNxC > 0
    begun_BxNx1 = jnp.min(jnp.where(taken_BxNxC, step_BxNxC, NEVER), axis=-1, keepdims=True)
    return jnp.where(taken_BxNxC, step_BxNxC - begun_BxNx1 + 1, 0).reshape(step_map_BxG.shape)


def distinct_passes(number_BxG: Array, count: int) -> Array:
    """int32 [S, B], the passes above 0 that a row's tokens have, each once; S is `count`, and NEVER
    stands where they are fewer."""
    number_BxG = jnp.sort(number_BxG, axis=1)
    is_new_BxG = jnp.diff(number_BxG, axis=1, prepend=0) > 0
    return jnp.sort(jnp.where(is_new_BxG, number_BxG, NEVER), axis=1)[:, :count].T


def slots(
    number_BxG: Array, passes: int, groups: int, picked: tuple[Array, int] | None
) -> tuple[Array, Array]:
    """(first, last pass of what each forward scores), both int32 [S, B]."""
    if picked is not None:
        picked_BxG, most = picked
        pass_SxB = distinct_passes(jnp.where(picked_BxG, number_BxG, 0), most)
        return pass_SxB, pass_SxB
    rows = len(number_BxG)
    if not groups or groups >= passes:
        every_SxB = jnp.tile(1 + jnp.arange(passes, dtype=jnp.int32)[:, None], (1, rows))
        return every_SxB, every_SxB
    last_1xB = jnp.max(number_BxG, axis=1)[None, :]
    edge_Sx1 = jnp.arange(groups + 1, dtype=jnp.int32)[:, None]
    edge_SxB = -(-edge_Sx1 * last_1xB // groups)  # passes before each group, rounded up
    return edge_SxB[:-1] + 1, edge_SxB[1:]


def make_features(
    denoiser: Denoiser,
    tokens_BxP: Array,
    valid_BxP: Array,
    uncut: Uncut,
    block: int | None,
) -> Callable[[PyTree, Array], Array]:
    """`features(params, known_BxG) -> h_BxGxD` of the completion in which these tokens are known
    and the others undecided."""
    prompt_len, gen_length = tokens_BxP.shape[1], uncut.tokens_BxG.shape[1]
    exists_BxG, undecided_id = existing(denoiser.config, uncut), undecided(denoiser.config)
    before_BxL, valid_BxL = tokens_BxP, jnp.concatenate([valid_BxP, exists_BxG], axis=1)
    forward = denoiser.features
    if block is not None:
        before_BxL = jnp.concatenate([tokens_BxP, uncut.tokens_BxG], axis=1)
        valid_BxL = jnp.concatenate([valid_BxL, exists_BxG], axis=1)
        forward = functools.partial(forward, attention=denoiser.doubled(prompt_len, block))

    def features(params: PyTree, known_BxG: Array) -> Array:
        state_BxG = jnp.where(known_BxG | ~exists_BxG, uncut.tokens_BxG, undecided_id)
        row_BxL = jnp.concatenate([before_BxL, state_BxG], axis=1)
        return forward(params, row_BxL, valid_BxL=valid_BxL)[:, -gen_length:]

    return features
