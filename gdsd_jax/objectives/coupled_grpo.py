"""Coupled GRPO (DiffuCoder): token-level GRPO over the fully masked view and a complementary pair.

arXiv 2506.20639. B rows, K pairs, L columns, G completion columns; nats unless said. The released
code masks each token with probability t and weighs by 1/t and 1/(1 - t). Here exactly round(t G)
tokens are masked, and t is that share itself: no weight has to estimate it. Views come from
explicit keys, and old scores from the same function as the loss, without dropout.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.mistakes import check_choices
from gdsd_jax.objectives.checks import check_clip
from gdsd_jax.objectives.clipping import token_loss, tokens
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted, half_weights, pair_token_scores, ranks, view_token_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class CoupledGrpoConfig:
    """How tokens are clipped and masked. Defaults are the released values.

    Attributes:
      epsilon_low: token ratios are kept above 1 - epsilon_low.
      epsilon_high: token ratios are kept below 1 + epsilon_high.
      beta: weight of the k3 KL to the reference policy, per token.
      ratio_low: the least share of the completion that is masked.
      ratio_high: the largest share that is masked; it is uniform between them, one for all rows.
      count: tokens in the mean, the "answer" through its end token or the "full" width.
    """

    epsilon_low: float = 0.5
    epsilon_high: float = 0.5
    beta: float = 0.01
    ratio_low: float = 0.2
    ratio_high: float = 0.8
    count: str = "answer"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"))
        check_clip(self)
        if not 0 < self.ratio_low <= self.ratio_high < 1:
            raise ValueError(
                f"ratio_low={self.ratio_low}, ratio_high={self.ratio_high}: "
                "give 0 < low <= high < 1"
            )


def views(config: CoupledGrpoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """One mask of each pair, bool [K, B, L].

    Its complement and the fully masked view are scored with it.
    """
    rng_ratio, rng_place = jax.random.split(rng)
    rows, gen = batch.tokens_BxL.shape[0], batch.tokens_BxL.shape[1] - batch.prompt_len
    ratio_K = jax.random.uniform(
        rng_ratio, (draws,), minval=config.ratio_low, maxval=config.ratio_high
    )
    count_Kx1x1 = jnp.round(ratio_K * gen).astype(jnp.int32)[:, None, None]
    rank_KxBxG = ranks(
        jax.random.uniform(rng_place, (draws, rows, gen)), jnp.ones((1, 1, gen), bool)
    )
    return jnp.pad(rank_KxBxG < count_Kx1x1, ((0, 0), (0, 0), (batch.prompt_len, 0)))


def scores(
    denoiser: Denoiser, config: CoupledGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) token scores at these parameters, [K, B, G] nats.

    A token's score is the mean of two log-probabilities: that of the fully masked view, and that
    of its pair over the share of tokens that are masked with it.
    """
    everything_BxG = counted(batch, "full")
    completion_1xBxL = jnp.pad(everything_BxG, ((0, 0), (batch.prompt_len, 0)))[None]
    full_1xBxG = view_token_scores(denoiser, params, batch, completion_1xBxL)
    pair_KxBxG, _ = pair_token_scores(denoiser, params, batch, everything_BxG)

    def weigh(masked_BxG):
        return half_weights(masked_BxG, everything_BxG, "share")

    weights_KxBxG = jax.vmap(weigh)(batch.masks_KxBxL[:, :, batch.prompt_len :])
    score_KxBxG = 0.5 * full_1xBxG + weights_KxBxG * pair_KxBxG
    return score_KxBxG, score_KxBxG


def loss(
    denoiser: Denoiser, config: CoupledGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean over tokens of min(r A, clip(r) A) - beta k3, with r = exp(score - old score)."""
    logp_KxBxG, _ = scores(denoiser, config, params, batch)
    return token_loss(logp_KxBxG, batch, config, counted(batch, config.count)[None])


OBJECTIVE = Objective(CoupledGrpoConfig, loss, views, scores, count=tokens)
