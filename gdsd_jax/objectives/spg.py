"""SPG: policy gradient between bounds of the likelihood.

A lower bound for good completions, an upper one for bad ones. The code of facebookresearch/SPG. B
rows, K views, L columns, G completion columns; nats unless said. As released, the scored tokens are
all masked ones of the answer, also those outside of the chosen block. Unlike in the released code,
views come from explicit keys, the upper bound is summed as logarithms, so that a token whose
probability underflows is not left out, and empty views count as 0 instead of dividing by zero.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax.mistakes import check_choices, check_least, check_share
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted, draw_columns, draw_full_masks, ranks, view_token_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class SpgConfig:
    """Which bounds are taken, and which views. Defaults are the released values.

    Attributes:
      estimate: score of completions without positive advantage: "elbo", "eubo", "mix" of the two
        or "zero".
      mix: share of the upper bound in "mix".
      beta_eubo: exponent of the upper bound (released: 1.5, sudoku 1).
      forward: what a view masks: "all"; "random" positions; or everything from a random block on
        ("block_all"), or random positions of that block and everything behind ("block_random").
      block_length: tokens of a block; must divide the completion.
      min_share: the least share of the answer ("random") or block ("block_random") that is masked.
      max_share: the largest share that is masked.
      mask_prompt: probability with which what lies before the masked part is masked too.
    """

    estimate: str = "mix"
    mix: float = 0.5
    beta_eubo: float = 1.5
    forward: str = "block_random"
    block_length: int = 32
    min_share: float = 0.0
    max_share: float = 1.0
    mask_prompt: float = 0.15

    def __post_init__(self):
        check_choices(
            self,
            estimate=("mix", "elbo", "eubo", "zero"),
            forward=("all", "random", "block_all", "block_random"),
        )
        if not self.beta_eubo > 0:
            raise ValueError(f"beta_eubo={self.beta_eubo} must be positive")
        if not 0 <= self.min_share <= self.max_share <= 1:
            shares = f"min_share={self.min_share}, max_share={self.max_share}"
            raise ValueError(f"{shares}: give 0 <= min <= max <= 1")
        check_share(self, "mask_prompt")
        check_share(self, "mix")
        check_least(self, block_length=1)


def views(config: SpgConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """bool [K, B, L]; what follows the end token is masked too.

    Raises:
      ValueError: blocks that do not divide the completion, or fewer of them than draws.
    """
    rows, gen = batch.tokens_BxL.shape[0], batch.tokens_BxL.shape[1] - batch.prompt_len
    if config.forward == "all":
        return draw_full_masks(rng, draws, batch, config.mask_prompt)
    rng_block, rng_count, rng_place, rng_before = jax.random.split(rng, 4)
    column_1x1xL = jnp.arange(-batch.prompt_len, gen)[None, None]
    answer_1xBxL = (column_1x1xL >= 0) & (column_1x1xL < batch.completion_len_B[None, :, None])
    # "random": the completion is one block
    start_KxBx1, size = jnp.zeros((draws, rows, 1), jnp.int32), gen
    if config.forward != "random":
        size = config.block_length
        start_KxBx1 = draw_blocks(config, batch, draws, rng_block)[..., None] * size
    chosen_KxBxL = (
        answer_1xBxL & (column_1x1xL >= start_KxBx1) & (column_1x1xL < start_KxBx1 + size)
    )
    if config.forward != "block_all":
        count_KxB = draw_counts(config, jnp.sum(chosen_KxBxL, axis=-1), gen, rng_count)
        chosen_KxBxL = (
            ranks(draw_columns(rng_place, draws, batch), chosen_KxBxL) < count_KxB[..., None]
        )
    behind_KxBxL = (column_1x1xL >= 0) & ((column_1x1xL >= start_KxBx1 + size) | ~answer_1xBxL)
    coin_KxBxL = draw_columns(rng_before, draws, batch) < config.mask_prompt
    return chosen_KxBxL | behind_KxBxL | ((column_1x1xL < start_KxBx1) & coin_KxBxL)


def draw_blocks(config: SpgConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """int32 [K, B], the block of each view.

    For each row the first K of a random order of all blocks, modulo those that its answer touches.
    """
    gen = batch.tokens_BxL.shape[1] - batch.prompt_len
    blocks = gen // config.block_length
    if gen % config.block_length or draws > blocks:
        raise ValueError(
            f"spg.block_length={config.block_length} must divide the {gen} completion tokens into "
            f"at least as many blocks as mask_draws={draws}"
        )
    touched_B = (jnp.maximum(batch.completion_len_B, 1) - 1) // config.block_length + 1
    order_BxN = jnp.argsort(jax.random.uniform(rng, (batch.tokens_BxL.shape[0], blocks)), axis=1)
    return (order_BxN[:, :draws] % touched_B[:, None]).T


def draw_counts(config: SpgConfig, size_KxB: Array, largest: int, rng: Array) -> Array:
    """int32 [K, B], uniform in max(floor(min_share n), 1) .. floor(max_share n) of n positions."""

    def share_of(share):
        return jnp.asarray(np.floor(share * np.arange(largest + 1)), jnp.int32)[size_KxB]

    low_KxB = jnp.maximum(share_of(config.min_share), 1)
    high_KxB = jnp.maximum(share_of(config.max_share), low_KxB)
    above_KxB = jnp.floor(jax.random.uniform(rng, size_KxB.shape) * (high_KxB - low_KxB + 1))
    return jnp.minimum(low_KxB + above_KxB.astype(jnp.int32), high_KxB)


def bounds(
    config: SpgConfig, logp_KxBxG: Array, scored_KxBxG: Array, length_B: Array
) -> tuple[Array, Array]:
    """(lower, upper) estimate of the log-likelihood per token, [B] nats.

    The ELBO, and the EUBO with exponent `beta_eubo`.
    """
    size_KxB = jnp.sum(scored_KxBxG, axis=-1).astype(jnp.float32)
    total_KxB = jnp.sum(logp_KxBxG * scored_KxBxG, axis=-1)
    elbo_B = jnp.mean(total_KxB / jnp.maximum(size_KxB, 1.0), axis=0)
    share_KxB = jnp.maximum(size_KxB, 1.0) / jnp.maximum(length_B, 1.0)[None]
    power_KxBxG = config.beta_eubo * logp_KxBxG - jnp.log(share_KxB)[..., None]
    covered_BxG = jnp.any(scored_KxBxG, axis=0)
    # -1e30, not -inf: a token that no view covers must not turn the gradient into NaN
    summed_BxG = jax.nn.logsumexp(jnp.where(scored_KxBxG, power_KxBxG, -1e30), axis=0)
    summed_BxG = summed_BxG - jnp.log(float(len(logp_KxBxG)))
    total_B = jnp.sum(jnp.where(covered_BxG, summed_BxG, 0.0), axis=-1)
    return elbo_B, total_B / jnp.maximum(jnp.sum(covered_BxG, axis=-1), 1) / config.beta_eubo


def tokens(config: SpgConfig, batch: Batch) -> Array:
    """Answer tokens of the rows, float32, at least 1."""
    return jnp.maximum(jnp.sum(batch.completion_len_B), 1).astype(jnp.float32)


def loss(
    denoiser: Denoiser, config: SpgConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- sum A l n / sum n over rows of n answer tokens.

    l is the lower bound where A > 0, else what `estimate` says.
    """
    logp_KxBxG = view_token_scores(denoiser, params, batch, batch.masks_KxBxL)
    scored_KxBxG = batch.masks_KxBxL[:, :, batch.prompt_len :] & counted(batch, "answer")[None]
    length_B = batch.completion_len_B.astype(jnp.float32)
    elbo_B, eubo_B = bounds(config, logp_KxBxG, scored_KxBxG, length_B)
    upper_B = {
        "mix": config.mix * eubo_B + (1 - config.mix) * elbo_B,
        "elbo": elbo_B,
        "eubo": eubo_B,
        "zero": jnp.zeros_like(elbo_B),
    }[config.estimate]
    score_B = jnp.where(batch.advantages_B > 0, elbo_B, upper_B)
    zero = jnp.float32(0.0)
    metrics = {
        "score": jnp.mean(elbo_B),
        "eubo": jnp.mean(eubo_B),
        "kl": zero,  # nothing is compared with
        "trust": zero,
    }
    count = tokens(config, batch) if batch.mean_count is None else batch.mean_count
    return -jnp.sum(batch.advantages_B * score_B * length_B) / count, metrics


OBJECTIVE = Objective(SpgConfig, loss, views, count=tokens)
