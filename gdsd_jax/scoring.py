"""Masked views of completions and their log-probabilities: what every objective is made of.

B rows, L columns, P prompt columns, G = L - P completion columns, K mask draws, D width, V
vocabulary. Scores are in nats, lengths in tokens. The method is that of arXiv 2605.29398.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.types import Array, Batch, Denoiser, PyTree

CHUNK_BYTES = 64 << 20  # of float32 logits alive at once on a device in `token_scores`


class Centring(NamedTuple):
    """What is taken from a token's logit besides the normaliser (arXiv 2605.29398, Eq. 8).

    Attributes:
      kind: "none", "vocab" (the mean of all logits) or "top_k" (the mean of the k largest).
      k: logits in the mean of "top_k".
      detach: no gradient through the mean.
    """

    kind: str = "none"
    k: int = 64
    detach: bool = False


NO_CENTRING = Centring()


class Scores(NamedTuple):
    """Sequence scores of a pair of complementary views, float32 [K, B] nats."""

    plain_KxB: Array  # of normalised token log-probabilities
    centred_KxB: Array  # the same under the centring; equal to plain_KxB without one


def stratified_counts(offset: Array, length_B: Array) -> Array:
    """How many of `length_B` positions each row masks, int32 [B] in 0 .. length.

    Row i takes the fraction (offset + i / B) mod 1. It is uniform for each row and evenly spread
    over all B rows; the completions of one prompt are neighbours and get a share of that alone.
    `offset` is uniform in [0, 1). The released code draws an integer k for the rows of a device;
    its offset is (k + 1/2) / (L + 1).
    """
    rows = length_B.shape[0]
    fraction_B = (offset + jnp.arange(rows) / rows) % 1.0
    return jnp.minimum(jnp.floor(fraction_B * (length_B + 1)).astype(jnp.int32), length_B)


def draw_masks(
    rng: Array,
    draws: int,
    prompt_len: int,
    columns: int,
    length_B: Array,
    *,
    block_length: int | None = None,
    order_BxG: Array | None = None,
) -> Array:
    """Stratified masks over the first `length_B` completion columns, bool [K, B, L].

    The complement of a mask within these columns makes its pair.

    Args:
      block_length: tokens. The masked positions then fill whole blocks from the last one backwards,
        and only the foremost of them is masked in part, like the states of a sampler that goes
        block by block. None: the whole completion is one block.
      order_BxG: where a block is masked in part, its positions of lowest `order` are masked. None:
        random ones.
    """
    column_1xG = jnp.arange(columns - prompt_len)[None, :]
    inside_BxG = column_1xG < length_B[:, None]

    def draw(rng):
        rng_count, rng_place = jax.random.split(rng)
        count_B = stratified_counts(jax.random.uniform(rng_count), length_B)
        if order_BxG is None:
            own_order_BxG = jax.random.uniform(rng_place, inside_BxG.shape)
        else:
            own_order_BxG = order_BxG
        rank_BxG = ranks(own_order_BxG, inside_BxG)
        if block_length is not None:
            block_1xG = column_1xG // block_length
            rank_BxG = ranks(rank_BxG - rank_BxG.shape[1] * block_1xG, inside_BxG)
        return jnp.pad(rank_BxG < count_B[:, None], ((0, 0), (prompt_len, 0)))

    return jax.vmap(draw)(jax.random.split(rng, draws))


def draw_pairs(
    rng: Array,
    draws: int,
    batch: Batch,
    count: str,
    *,
    block_length: int | None = None,
    order_BxG: Array | None = None,
) -> Array:
    """`draw_masks` over the columns that count, `hiding_behind` them; one half of each pair."""
    columns, length_B = batch.tokens_BxL.shape[1], counted_length(batch, count)
    own = {"block_length": block_length, "order_BxG": order_BxG}
    masks_KxBxL = draw_masks(rng, draws, batch.prompt_len, columns, length_B, **own)
    return hiding_behind(masks_KxBxL, batch, count)


def hiding_behind(masks_KxBxL: Array, batch: Batch, count: str) -> Array:
    """The masks, bool [K, B, L], which also cover what is behind the columns that count.

    Both halves of a pair mask that, as it was when the answer was sampled: what stands there would
    tell where it ends.
    """
    behind_BxL = jnp.pad(~counted(batch, count), ((0, 0), (batch.prompt_len, 0)))
    return masks_KxBxL | behind_BxL[None]


def ranks(order_BxG: Array, among_BxG: Array) -> Array:
    """Place of each column in its row's ascending order, int32 [B, G].

    Ties go to the left, columns outside `among` come last.
    """
    return jnp.argsort(jnp.argsort(jnp.where(among_BxG, order_BxG, jnp.inf), axis=-1), axis=-1)


def draw_full_masks(rng: Array, draws: int, batch: Batch, mask_prompt: float) -> Array:
    """Masks of the whole completion, bool [K, B, L].

    Each prompt token is masked too, with probability `mask_prompt`.
    """
    columns = batch.tokens_BxL.shape[1]
    hidden_KxBxL = draw_columns(rng, draws, batch) < mask_prompt
    return hidden_KxBxL | (jnp.arange(columns) >= batch.prompt_len)[None, None, :]


def draw_columns(rng: Array, draws: int, batch: Batch) -> Array:
    """Uniform numbers in [0, 1) for each column of each view, float32 [K, B, L].

    A column's number does not depend on how many columns of padding these rows have.
    """
    rows, columns = batch.tokens_BxL.shape
    shape = (draws, rows, max(batch.widest, columns))
    return jax.random.uniform(rng, shape)[..., -columns:]


def counted_length(batch: Batch, count: str) -> Array:
    """int32 [B], how many completion columns count.

    "full": all that the row may have. "answer": those through its end token.
    """
    if count == "answer":
        return batch.completion_len_B
    if batch.capped:
        return jnp.sum(batch.valid_BxL[:, batch.prompt_len :], axis=1, dtype=jnp.int32)
    return jnp.full_like(batch.completion_len_B, batch.tokens_BxL.shape[1] - batch.prompt_len)


def rows_counted(config, batch: Batch) -> Array:
    """Rows of which some column counts, float32, at least 1: what means over rows divide by."""
    return jnp.maximum(jnp.sum(counted_length(batch, config.count) > 0), 1).astype(jnp.float32)


def row_mean(x_xB: Array, batch: Batch, config) -> Array:
    """Mean over the rows of which some column counts, and over all leading axes.

    Completions without a token have no score per token: they enter no mean.
    """
    rows = rows_counted(config, batch) if batch.mean_count is None else batch.mean_count
    some_B = counted_length(batch, config.count) > 0
    by_row_B = jnp.mean(x_xB.reshape(-1, x_xB.shape[-1]), axis=0)
    return jnp.sum(jnp.where(some_B, by_row_B, 0.0)) / rows


def score_length(batch: Batch, count: str) -> Array:
    """float32 [B], what a row's score is divided by: its `counted_length`, or 1 where that is 0."""
    return jnp.maximum(counted_length(batch, count), 1).astype(jnp.float32)


def counted(batch: Batch, count: str) -> Array:
    """bool [B, G], the completion positions that count."""
    column_1xG = jnp.arange(batch.tokens_BxL.shape[1] - batch.prompt_len)[None, :]
    return column_1xG < counted_length(batch, count)[:, None]


def token_scores(
    denoiser: Denoiser, params: PyTree, h_BxGxD: Array, tokens_BxG: Array, centring: Centring
):
    """(log-probability, centred score) of each token, both float32 [B, G].

    The vocabulary projection runs in chunks of columns with rematerialisation. At most about
    `CHUNK_BYTES` of logits are alive at once, and never [B, G, V].
    """

    def score(h_BxCxD, tokens_BxC):
        logits_BxCxV = denoiser.unembed(params, h_BxCxD)
        # a sum with one term, which needs no logits of other devices
        is_own_BxCxV = tokens_BxC[..., None] == jnp.arange(logits_BxCxV.shape[-1])[None, None, :]
        own_BxC = jnp.sum(jnp.where(is_own_BxCxV, logits_BxCxV, 0.0), axis=-1)
        logp_BxC = own_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)
        if centring.kind == "none":
            return logp_BxC, logp_BxC
        return logp_BxC, own_BxC - centre_of(logits_BxCxV, centring, denoiser.logit_shards)

    return by_chunks(score, vocab_part(denoiser), h_BxGxD, tokens_BxG)


def vocab_part(denoiser: Denoiser) -> int:
    """Logits that a device holds for each row: its words, where it holds all rows, and fewer where
    rows are split too."""
    return denoiser.config.vocab_size // denoiser.logit_shards


def by_chunks(score: Callable, logits: int, *arrays: Array) -> PyTree:
    """`score(*arrays)` of arrays [B, G, ...], a tree of [B, G], for a few columns at a time.

    `logits` times the rows is how many float32 logits of a column a device holds. A chunk's logits
    take about `CHUNK_BYTES`, and the backward pass computes them again.
    """
    rows, columns = arrays[0].shape[:2]
    fitting = max(1, CHUNK_BYTES // (4 * rows * logits))
    chunk = max(size for size in range(1, columns + 1) if columns % size == 0 and size <= fitting)
    if chunk == columns:
        return score(*arrays)

    def one_chunk(number):
        def take(x):
            return jax.lax.dynamic_slice_in_dim(x, number * chunk, chunk, axis=1)

        return jax.checkpoint(score)(*map(take, arrays))

    chunks = jax.lax.map(one_chunk, jnp.arange(columns // chunk))  # [chunks, B, C]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, columns), chunks)


def centre_of(logits_BxCxV: Array, centring: Centring, shards: int) -> Array:
    """The mean logit to take away, float32 [B, C]."""
    if centring.kind == "vocab":
        centre_BxC = jnp.mean(logits_BxCxV, axis=-1)
    else:
        centre_BxC = jnp.mean(largest(logits_BxCxV, centring.k, shards)[0], axis=-1)
    return jax.lax.stop_gradient(centre_BxC) if centring.detach else centre_BxC


def largest(x_xV: Array, k: int, shards: int) -> tuple[Array, Array]:
    """(values, places) [..., K] of the k largest, or of all there are, as from `jax.lax.top_k`.

    The largest of each device's part of the vocabulary are found first. No other device needs to
    see the rest.
    """
    leading, vocab_size = x_xV.shape[:-1], x_xV.shape[-1]
    parts = shards if vocab_size % shards == 0 else 1
    width = vocab_size // parts
    best_xPxK, place_xPxK = jax.lax.top_k(x_xV.reshape(*leading, parts, width), min(k, width))
    place_xPxK += width * jax.lax.broadcasted_iota(place_xPxK.dtype, place_xPxK.shape, len(leading))
    best_xK, among_xK = jax.lax.top_k(best_xPxK.reshape(*leading, -1), min(k, vocab_size))
    return best_xK, jnp.take_along_axis(place_xPxK.reshape(*leading, -1), among_xK, axis=-1)


def half_weights(masked_BxG: Array, counted_BxG: Array, weighting: str) -> Array:
    """Weight of each token's log-probability in its pair's score, float32 [B, G].

    With m the number of positions masked in the half that predicts the token:

    - "uniform": 1/2.
    - "elbo": (length + 1) / 2m. The expected score over all stratified masks is then the ELBO,
      where these are uniform over the completion.
    - "share": length / 2m, so that each half speaks for the whole length.

    A half that has a token to weigh is not empty.
    """
    length_Bx1 = jnp.sum(counted_BxG, axis=1, keepdims=True).astype(jnp.float32)
    if weighting == "uniform":
        return 0.5 * counted_BxG.astype(jnp.float32)
    count_Bx1 = jnp.sum(masked_BxG & counted_BxG, axis=1, keepdims=True).astype(jnp.float32)
    own_BxG = jnp.where(masked_BxG, count_Bx1, length_Bx1 - count_Bx1)
    total_Bx1 = length_Bx1 + 1 if weighting == "elbo" else length_Bx1
    return jnp.where(counted_BxG, 0.5 * total_Bx1 / jnp.maximum(own_BxG, 1.0), 0.0)


def view_features(denoiser: Denoiser, params: PyTree, batch: Batch, masks_NxBxL: Array) -> Array:
    """States that score each completion token under N views, [N, B, G, D].

    One forward of R = B x N rows. A row's views lie side by side, so that rows stay on their
    devices. A block-causal denoiser (`batch.block`) gets the row [prompt | clean | view], in which
    a block of the view sees the clean blocks before it, as in its rollouts.
    """
    views, rows, columns = masks_NxBxL.shape
    prompt_len, gen_length = batch.prompt_len, columns - batch.prompt_len
    tokens_RxL = jnp.repeat(batch.tokens_BxL, views, axis=0)
    valid_RxL = jnp.repeat(batch.valid_BxL, views, axis=0)
    masks_RxL = jnp.moveaxis(masks_NxBxL, 0, 1).reshape(-1, columns)
    view_RxL = jnp.where(masks_RxL, denoiser.config.mask_id, tokens_RxL)
    if batch.block is None:
        h_RxLxD = denoiser.features(params, view_RxL, valid_BxL=valid_RxL)
    else:
        prompt_RxP, view_RxG = jnp.split(view_RxL, [prompt_len], axis=1)
        row_RxL = jnp.concatenate([prompt_RxP, tokens_RxL[:, prompt_len:], view_RxG], axis=1)
        valid_RxL = jnp.concatenate([valid_RxL, valid_RxL[:, prompt_len:]], axis=1)
        spec = denoiser.doubled(prompt_len, batch.block)
        h_RxLxD = denoiser.features(params, row_RxL, valid_BxL=valid_RxL, attention=spec)
    return jnp.moveaxis(h_RxLxD[:, -gen_length:].reshape(rows, views, gen_length, -1), 1, 0)


def pair_token_scores(
    denoiser: Denoiser,
    params: PyTree,
    batch: Batch,
    counted_BxG: Array,
    centring: Centring = NO_CENTRING,
) -> tuple[Array, Array]:
    """(log-probability, centred score) of each token in the half of its pair that masks it.

    Both float32 [K, B, G]. Each counted position is masked in exactly one half, and what else the
    mask covers in both. So the features of the two halves are merged first, and the vocabulary is
    projected once per pair.
    """
    prompt_len = batch.prompt_len
    completion_BxL = jnp.pad(counted_BxG, ((0, 0), (prompt_len, 0)))

    def score(mask_BxL):
        halves_2xBxL = jnp.stack([mask_BxL, completion_BxL ^ mask_BxL])
        first_BxGxD, second_BxGxD = view_features(denoiser, params, batch, halves_2xBxL)
        h_BxGxD = jnp.where(mask_BxL[:, prompt_len:, None], first_BxGxD, second_BxGxD)
        return token_scores(denoiser, params, h_BxGxD, batch.tokens_BxL[:, prompt_len:], centring)

    return jax.lax.map(score, batch.masks_KxBxL)


def pair_scores(
    denoiser: Denoiser,
    params: PyTree,
    batch: Batch,
    *,
    weighting: str,
    count: str,
    centring: Centring = NO_CENTRING,
) -> Scores:
    """Sequence scores under each mask and its complement."""
    counted_BxG = counted(batch, count)
    plain_KxBxG, centred_KxBxG = pair_token_scores(denoiser, params, batch, counted_BxG, centring)

    def weigh(masked_BxG):
        return half_weights(masked_BxG, counted_BxG, weighting)

    weights_KxBxG = jax.vmap(weigh)(batch.masks_KxBxL[:, :, batch.prompt_len :])
    return Scores(
        jnp.sum(weights_KxBxG * plain_KxBxG, axis=-1),
        jnp.sum(weights_KxBxG * centred_KxBxG, axis=-1),
    )


def view_token_scores(
    denoiser: Denoiser, params: PyTree, batch: Batch, masks_KxBxL: Array
) -> Array:
    """Log-probability of every completion token under each view alone, float32 [K, B, G].

    Of tokens that are masked, and of those that are not.
    """
    prompt_len = batch.prompt_len

    def score(mask_BxL):
        (h_BxGxD,) = view_features(denoiser, params, batch, mask_BxL[None])
        tokens_BxG = batch.tokens_BxL[:, prompt_len:]
        return token_scores(denoiser, params, h_BxGxD, tokens_BxG, NO_CENTRING)[0]

    return jax.lax.map(score, masks_KxBxL)
