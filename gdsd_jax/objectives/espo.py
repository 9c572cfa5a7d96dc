"""ESPO: PPO on whole sequences, the ELBO in place of the likelihood.

The code of ML-GSAI/ESPO. B rows, K mask draws; nats unless said. Masks come from explicit keys, and
old scores from the same function as the loss, both without dropout. Padding is never attended to.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.objectives.checks import check_choices, check_clip
from gdsd_jax.objectives.clipping import clipped_gain
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import (
    counted_length,
    draw_masks,
    pair_scores,
    row_mean,
    rows_counted,
    score_length,
)
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class EspoConfig:
    """How sequences are clipped and scored.

    Attributes:
      epsilon_low: the ratio exp(move of the score per token) is kept above 1 - epsilon_low
        (released: 0.2, for countdown 0; 4e-4 in the demonstrations alone).
      epsilon_high: the ratio is kept below 1 + epsilon_high (released: as epsilon_low).
      beta: weight of the k2 KL to the reference policy, half the squared difference of scores per
        token.
      weighting: weights of token scores, "elbo" (released) or "uniform".
      count: positions that count, the "full" width (released: padding included) or the "answer"
        through its end token.
    """

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        check_choices(self, weighting=("elbo", "uniform"), count=("full", "answer"))
        check_clip(self)


def views(config: EspoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch; bool [K, B, L], one half of each."""
    columns, length_B = batch.tokens_BxL.shape[1], counted_length(batch, config.count)
    return draw_masks(rng, draws, batch.prompt_len, columns, length_B)


def scores(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats.

    The loss compares their means over the draws.
    """
    score = pair_scores(denoiser, params, batch, weighting=config.weighting, count=config.count)
    return score.plain_KxB, score.plain_KxB


def loss(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean min(r A, clip(r) A) + beta mean (l - l_ref)^2 / 2L with r = exp((l - l_old) / L).

    l, l_old and l_ref are means over the draws.
    """
    score_B = jnp.mean(scores(denoiser, config, params, batch)[0], axis=0)
    present_B = jax.lax.stop_gradient(score_B)
    old_B = present_B if batch.old_KxB is None else jnp.mean(batch.old_KxB, axis=0)
    ref_B = present_B if batch.ref_KxB is None else jnp.mean(batch.ref_KxB, axis=0)
    length_B = score_length(batch, config.count)

    move_B = (score_B - old_B) / length_B
    gain_B, outside_B = clipped_gain(
        move_B, batch.advantages_B, config.epsilon_low, config.epsilon_high
    )
    kl = row_mean(0.5 * jnp.square(score_B - ref_B) / length_B, batch, config)
    metrics = {
        "score": row_mean(score_B / length_B, batch, config),
        "kl": kl,
        "trust": row_mean(outside_B.astype(jnp.float32), batch, config),
        "move": row_mean(jnp.abs(move_B), batch, config),
    }
    return config.beta * kl - row_mean(gain_B, batch, config), metrics


OBJECTIVE = Objective(EspoConfig, loss, views, scores, count=rows_counted)
