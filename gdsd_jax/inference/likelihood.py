"""How likely texts are to a denoiser: a Monte-Carlo bound, and whether greedy decoding gives them.

A denoiser has no chain rule from left to right. What it can say is the evidence lower bound of
masked diffusion (arXiv 2502.09992): a mask hides m of a continuation's N tokens, m evenly drawn,
and the bound is the mean of N / m times the summed log-probabilities of the hidden tokens, given
the context and the tokens that are left. The draws are those of the objectives, each scored
together with its complement, and m is spread evenly over the draws of a text.

B rows (texts), P context columns, G continuation columns, L = P + G, K mask draws.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import scoring, sharding, tokenizers
from gdsd_jax.inference import generation
from gdsd_jax.inference.generation import Model
from gdsd_jax.keys import row_keys
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.steps import make_sampler
from gdsd_jax.tokenizers import Tokenizer
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


class Pair(NamedTuple):
    """A continuation to score after its context."""

    context: list[int]  # ids, at least one
    continuation: list[int]  # ids
    index: int = 0  # of the masks' noise; continuations of one question may share theirs


class Likelihood(NamedTuple):
    """What a denoiser says of a continuation."""

    bound: float  # nats, the mean over the draws
    error: float  # nats, its standard error, as if the draws were independent
    greedy: bool  # whether greedy decoding gives the continuation; False where nobody asked


# ---------------------------------------------------------------- from texts to ids


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str, longest: int
) -> tuple[list[int], list[int]]:
    """Ids of the context, cut at its front so that both fit `longest`, and of the continuation.

    Both are encoded in one piece, as they would stand in a text: pieces may take the space before
    a word, so spaces at the context's end go over to the continuation.

    Raises:
      ValueError: the continuation alone does not fit; one line.
    """
    stripped = context.rstrip(" ")
    if stripped:
        context, continuation = stripped, context[len(stripped) :] + continuation
    before = tokenizer.encode_spelled(context)
    both = tokenizer.encode_spelled(context + continuation)
    after = both[len(before) :]
    if after:
        before = both[: len(before)]
    else:  # the two have become one piece, or the continuation is empty
        after = tokenizer.encode_spelled(continuation)
    before = before or [generation.prefix_id(tokenizer)]
    if len(after) >= longest:
        raise ValueError(
            f"a continuation of {len(after)} tokens leaves no room for its context within "
            f"max_length={longest}: raise it"
        )
    return before[len(after) - longest :], after


def windows(ids: Sequence[int], prefix: int, longest: int) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) pairs that cover a text, every id in one continuation.

    A text that fits is one continuation after the prefix. A longer one goes by parts of half of
    `longest`, each after as much of the text before it as fits.
    """
    ids = list(ids)
    if not ids:
        return []
    if len(ids) < longest:
        return [([prefix], ids)]
    size = longest // 2
    found = []
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        before = [prefix, *ids[:start]]
        found.append((before[len(part) - longest :], part))
    return found


# ---------------------------------------------------------------- on the device


def make_bound(
    denoiser: Denoiser, mesh: jax.sharding.Mesh, block: int | None, draws: int
) -> Callable[[PyTree, Batch, Array], Array]:
    """`bound(params, batch, rng_B) -> bounds_KxB`, jitted; each draw's expectation is the bound.

    Args:
      block: of a block-causal denoiser: the bound is then the sum of its blocks' bounds.
      draws: masks, each scored with its complement.
    """
    scorer = sharding.by_vocabulary(mesh, denoiser)

    def bound(params: PyTree, batch: Batch, rng_B: Array) -> Array:
        masks_KxBxL = masks_of_rows(
            rng_B, draws, batch.prompt_len, batch.tokens_BxL.shape[1], batch.completion_len_B
        )
        batch = batch.replace(masks_KxBxL=masks_KxBxL, block=block)
        scores = scoring.pair_scores(scorer, params, batch, weighting="elbo", count="answer")
        return scores.plain_KxB

    return jax.jit(bound)


def masks_of_rows(
    rng_B: Array, draws: int, prompt_len: int, columns: int, length_B: Array
) -> Array:
    """Masks of each row by its own key, bool [K, B, L].

    `scoring.draw_masks` spreads the counts evenly over the rows of a group; here a row's draws are
    the group. So a row's masks depend on its key, its length and G alone.
    """

    def of_row(rng, length):
        lengths_K = jnp.full((draws,), length)
        return scoring.draw_masks(rng, 1, prompt_len, columns, lengths_K)[0]

    return jnp.moveaxis(jax.vmap(of_row)(rng_B, length_B), 0, 1)


def padded_pairs(pairs: Sequence[Pair], prompt_len: int, gen: int, pad_id: int) -> Batch:
    """Contexts padded on the left, continuations on the right; no padding is attended to."""
    tokens_BxP, valid_BxP = tokenizers.pad_left(
        [pair.context for pair in pairs], prompt_len, pad_id
    )
    tokens_BxG = np.full((len(pairs), gen), pad_id, np.int32)
    length_B = np.array([len(pair.continuation) for pair in pairs], np.int32)
    for row, pair in enumerate(pairs):
        tokens_BxG[row, : len(pair.continuation)] = pair.continuation
    valid_BxG = np.arange(gen)[None, :] < length_B[:, None]
    return Batch(
        tokens_BxL=np.concatenate([tokens_BxP, tokens_BxG], axis=1),
        valid_BxL=np.concatenate([valid_BxP, valid_BxG], axis=1),
        completion_len_B=length_B,
        masks_KxBxL=None,
        prompt_len=prompt_len,
    )


def greedy_sampler(sampler: SamplerConfig, gen: int) -> SamplerConfig:
    """The sampler for `gen` columns, one token a pass, without an approximate cache or a
    temperature in its order; a random order stays one. Of kind dream the last pass of a block takes
    two tokens.

    Where the sampler takes the whole completion for one block, so does this one, but for
    block-causal denoisers, whose blocks belong to the model.
    """
    whole = sampler.blocks == 1 and sampler.causal_block is None
    return dataclasses.replace(
        sampler,
        gen_length=gen,
        block_length=gen if whole else sampler.block_length,
        steps=gen,
        alg_temp=0.0,
        cache="none" if sampler.approximate else sampler.cache,
    )


def continuation_width(sampler: SamplerConfig, length: int) -> int:
    """Columns for a continuation, in whole blocks of the sampler."""
    whole = sampler.blocks == 1 and sampler.causal_block is None
    return generation.width_of(
        length,
        generation.MULTIPLE if whole else math.lcm(generation.MULTIPLE, sampler.block_length),
    )


# ---------------------------------------------------------------- the two answers


def bounds(
    model: Model, pairs: Sequence[Pair], draws: int, seed: int, batch: int
) -> list[tuple[float, float]]:
    """(the bound, its standard error) of each pair, nats, in order.

    They depend on the pair, its index and the seed, not on the batch.
    """
    bound = make_bound(model.denoiser, model.mesh, model.sampler.causal_block, draws)
    keys_fn = jax.jit(row_keys)
    seed_key = jax.device_put(jax.random.key(seed), sharding.replicated(model.mesh))
    shapes = [
        (
            generation.width_of(len(pair.context)),
            continuation_width(model.sampler, len(pair.continuation)),
        )
        for pair in pairs
    ]
    found = [(0.0, 0.0)] * len(pairs)
    for places in generation.batches_of(shapes, batch, "bounds"):
        rows = [pairs[place] for place in generation.filled(places, batch)]
        padded = padded_pairs(rows, *shapes[places[0]], model.tokenizer.pad_id)
        index_B = np.array([pair.index for pair in rows], np.int32)
        padded, index_B = sharding.global_rows(model.mesh, (padded, index_B))
        bounds_KxB = bound(model.params, padded, keys_fn(seed_key, index_B, 0 * index_B))
        bounds_KxB = np.float64(sharding.fetch(model.mesh, bounds_KxB))
        mean_B = bounds_KxB.mean(axis=0)
        error_B = bounds_KxB.std(axis=0, ddof=min(1, draws - 1)) / math.sqrt(draws)
        for place, mean, error in zip(places, mean_B.tolist(), error_B.tolist()):
            found[place] = mean, error
    return found


def are_greedy(model: Model, pairs: Sequence[Pair], batch: int) -> list[bool]:
    """Whether the sampler, at temperature 0 and one token a pass, gives each continuation.

    It is told the continuation's length, as a bound is.
    """
    widths = [continuation_width(model.sampler, len(pair.continuation)) for pair in pairs]
    samplers = {
        width: make_sampler(model.denoiser, greedy_sampler(model.sampler, width), model.mesh)
        for width in set(widths)
    }
    key = jax.device_put(jax.random.key(0), sharding.replicated(model.mesh))
    shapes = [(generation.width_of(len(pair.context)), width) for pair, width in zip(pairs, widths)]
    found = [False] * len(pairs)
    for places in generation.batches_of(shapes, batch, "greedy"):
        rows = [pairs[place] for place in generation.filled(places, batch)]
        lengths = [len(pair.continuation) for pair in rows]
        width, continuation = shapes[places[0]]
        prompts = generation.prompts_of(
            model,
            [pair.context for pair in rows],
            lengths,
            index=[pair.index for pair in rows],
            width=width,
            temperature=0.0,
        )
        sample = samplers[continuation]
        rollout = sharding.fetch(model.mesh, sample(model.params, {}, prompts, key))
        for number, place in enumerate(places):
            tokens = rollout.uncut.tokens_BxG[number, : lengths[number]].tolist()
            found[place] = tokens == list(pairs[place].continuation)
    return found


def likelihoods(
    model: Model, pairs: Sequence[Pair], *, draws: int, seed: int, batch: int, greedy: bool
) -> list[Likelihood]:
    """Of each pair, in order; an empty continuation is certain.

    Args:
      draws: masks of a continuation, each scored with its complement: 2 forwards.
      batch: pairs at once, a multiple of the mesh's row shards.
      greedy: whether to decode too; up to as many forwards as a continuation has tokens.

    Raises:
      ValueError: an autoregressive model, whose likelihoods are no bounds of masked views.
    """
    if model.denoiser.config.autoregressive:
        raise ValueError(
            "this model is autoregressive: log-likelihoods here are bounds of masked denoisers; "
            "take tasks that generate, or another model class of the harness"
        )
    found = [Likelihood(0.0, 0.0, True)] * len(pairs)
    places = [place for place, pair in enumerate(pairs) if pair.continuation]
    scored = [pairs[place] for place in places]
    given = are_greedy(model, scored, batch) if greedy else [False] * len(scored)
    for place, (bound, error), same in zip(
        places, bounds(model, scored, draws, seed, batch), given
    ):
        found[place] = Likelihood(bound, error, same)
    return found
