"""GDPO: ESPO's clipped ratio, its bound by Gauss quadrature over a few fixed noise levels.

arXiv 2510.08554. The bound is the integral over noise levels t of E[sum of the masked tokens'
log-probabilities] / t. Most of the spread of an estimate comes from drawing t, so t is not drawn:
the levels are the nodes of Gauss and Legendre, each with one draw of masks. They lie symmetrically,
so that a mask and its complement serve two of them, and a token is scored once a pair. At level t a
row masks t L of its L tokens, rounded up or down by chance so that their mean is t L: the weights
are those of the quadrature, and rounding adds nothing to the bound. What is left out with the
spread of counts is small: where log-probabilities fall by s nats from a clean context to a masked
one, the bound is s / 2L nats a token too high, alike before and after an update. B rows, K views
(draws times pairs of levels), L columns, G completion columns; nats.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax.mistakes import check_choices
from gdsd_jax.objectives.checks import check_clip
from gdsd_jax.objectives.clipping import sequence_loss
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import (
    counted,
    counted_length,
    hiding_behind,
    pair_token_scores,
    ranks,
    rows_counted,
)
from gdsd_jax.types import Array, Batch, Denoiser, PyTree

MOST = 16  # noise levels


@dataclasses.dataclass(frozen=True)
class GdpoConfig:
    """How sequences are clipped and scored.

    Attributes:
      levels: of noise (published: 2 or 3), at most 16; an odd number has the level 1/2, whose mask
        and complement share its weight.
      epsilon_low: the ratio exp(move of the score per token) is kept above 1 - epsilon_low.
      epsilon_high: the ratio is kept below 1 + epsilon_high.
      beta: weight of the k2 KL to the reference policy, half the squared difference of scores per
        token.
      count: positions that count, the "full" width (padding included) or the "answer" through its
        end token.
    """

    levels: int = 2
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    count: str = "full"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"))
        check_clip(self)
        if not 1 <= self.levels <= MOST:
            raise ValueError(f"levels={self.levels} must lie in 1 .. {MOST}")


def quadrature(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """(lower level of each pair, weight of each of its two halves), float64 [pairs]."""
    node, weight = np.polynomial.legendre.leggauss(levels)
    pairs = -(-levels // 2)
    share = np.ones(pairs)
    if levels % 2:
        share[-1] = 0.5
    return (1 + node[:pairs]) / 2, share * weight[:pairs] / 2


def views(config: GdpoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """One half of each pair, bool [K, B, L]: the pairs of the first draw, then of the next.

    What does not count is masked in both. Whether a count is rounded up goes evenly round the rows.
    """
    level_N, _ = quadrature(config.levels)
    counted_BxG = counted(batch, config.count)
    length_B = counted_length(batch, config.count)
    row_B = jnp.arange(len(length_B)) / len(length_B)

    def draw(rng, level):
        rng_round, rng_place = jax.random.split(rng)
        chance_B = (jax.random.uniform(rng_round) + row_B) % 1.0
        count_B = jnp.floor(level * length_B + chance_B)
        order_BxG = jax.random.uniform(rng_place, counted_BxG.shape)
        return ranks(order_BxG, counted_BxG) < count_B[:, None]

    level_K = jnp.tile(jnp.asarray(level_N, jnp.float32), draws)
    masks_KxBxG = jax.vmap(draw)(jax.random.split(rng, len(level_K)), level_K)
    masks_KxBxL = jnp.pad(masks_KxBxG, ((0, 0), (0, 0), (batch.prompt_len, 0)))
    return hiding_behind(masks_KxBxL, batch, config.count)


def scores(
    denoiser: Denoiser, config: GdpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats.

    Their mean over the views is the bound.
    """
    counted_BxG = counted(batch, config.count)
    level_N, weight_N = quadrature(config.levels)
    draws = len(batch.masks_KxBxL) // len(level_N)

    def of_views(x_N):
        return jnp.tile(jnp.asarray(len(level_N) * x_N, jnp.float32), draws)[:, None, None]

    logp_KxBxG, _ = pair_token_scores(denoiser, params, batch, counted_BxG)
    masked_KxBxG = batch.masks_KxBxL[:, :, batch.prompt_len :]
    weight_KxBxG = jnp.where(
        masked_KxBxG, of_views(weight_N / level_N), of_views(weight_N / (1 - level_N))
    )
    score_KxB = jnp.sum(jnp.where(counted_BxG[None], weight_KxBxG * logp_KxBxG, 0.0), axis=-1)
    return score_KxB, score_KxB


def loss(
    denoiser: Denoiser, config: GdpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean min(r A, clip(r) A) + beta mean (l - l_ref)^2 / 2L with r = exp((l - l_old) / L)."""
    return sequence_loss(scores(denoiser, config, params, batch)[0], batch, config)


OBJECTIVE = Objective(GdpoConfig, loss, views, scores, count=rows_counted)
