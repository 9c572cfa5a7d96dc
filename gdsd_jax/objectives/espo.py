"""ESPO: PPO on whole sequences, the ELBO in place of the likelihood (ML-GSAI/ESPO; specs/gdsd.md
section 6.4).

B rows, K mask draws; nats unless said. Of the defects of specs/gdsd.md section 11 those of the
objective do not touch this formula; its masks come from explicit keys (11), its old scores from the
same function as the loss (15), both without dropout, and padding is never attended to (17).
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.objectives.checks import check_choices, check_clip
from gdsd_jax.objectives.clipping import clipped_gain
from gdsd_jax.scoring import counted_length, draw_masks, pair_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class EspoConfig:
    """Attributes:
    epsilon_low, epsilon_high: the ratio exp(move of the score per token) is kept within 1 - low
      .. 1 + high (released: 4e-4 in the scripts, 0.2 in train.yaml, 0 for countdown).
    beta: weight of the k2 KL to the reference policy, half the squared difference of scores per
      token.
    weighting: of token scores, "elbo" (released) or "uniform".
    count: positions that count, "full" width (released: padding included) or the "answer" through
      its end token.
    """

    epsilon_low: float = 4e-4
    epsilon_high: float = 4e-4
    beta: float = 0.0
    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        check_choices(self, weighting=("elbo", "uniform"), count=("full", "answer"))
        check_clip(self)


def views(config: EspoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch."""
    return draw_masks(
        rng, draws, batch.prompt_len, batch.tokens_BxL.shape[1], counted_length(batch, config.count)
    )


def scores(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats; the loss compares their means over
    the draws."""
    found = pair_scores(
        denoiser, params, batch, weighting=config.weighting, count=config.count
    ).plain_KxB
    return found, found


def loss(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean min(r A, clip(r) A) + beta mean (l - l_ref)^2 / 2L with r = exp((l - l_old) / L), l
    the mean over draws."""
    score_B = jnp.mean(scores(denoiser, config, params, batch)[0], axis=0)
    present_B = jax.lax.stop_gradient(score_B)
    old_B = present_B if batch.old_KxB is None else jnp.mean(batch.old_KxB, axis=0)
    ref_B = present_B if batch.ref_KxB is None else jnp.mean(batch.ref_KxB, axis=0)
    length_B = counted_length(batch, config.count).astype(jnp.float32)

    move_B = (score_B - old_B) / length_B
    gain_B, outside_B = clipped_gain(
        move_B, batch.advantages_B, config.epsilon_low, config.epsilon_high
    )
    kl = jnp.mean(0.5 * jnp.square(score_B - ref_B) / length_B)
    metrics = {
        "score": jnp.mean(score_B / length_B),
        "kl": kl,
        "trust": jnp.mean(outside_B.astype(jnp.float32)),
        "move": jnp.mean(jnp.abs(move_B)),
    }
    return config.beta * kl - jnp.mean(gain_B), metrics
