"""Masked-diffusion supervised fine-tuning: the negative ELBO of given completions, per token
(specs/gdsd.md section 3.2)."""

import dataclasses

import jax.numpy as jnp

from gdsd_jax.objectives.checks import check_choices
from gdsd_jax.scoring import counted_length, draw_masks, pair_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Attributes:
    weighting: of token log-probabilities, "elbo" or "uniform" (lower variance, another mix of
      mask ratios).
    count: positions that count, "full" width (the model learns to pad) or the "answer" through
      its end token.
    """

    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        check_choices(self, weighting=("elbo", "uniform"), count=("full", "answer"))


def views(config: SftConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch."""
    return draw_masks(
        rng, draws, batch.prompt_len, batch.tokens_BxL.shape[1], counted_length(batch, config.count)
    )


def loss(
    denoiser: Denoiser, config: SftConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Nats per counted token."""
    score = pair_scores(denoiser, params, batch, weighting=config.weighting, count=config.count)
    nats = -jnp.mean(score.plain_KxB / counted_length(batch, config.count)[None])
    return nats, {"score": -nats}
