"""Masked-diffusion supervised fine-tuning: the negative ELBO of completions, per token."""

import dataclasses

from gdsd_jax.mistakes import check_choices
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import draw_pairs, pair_scores, row_mean, rows_counted, score_length
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """What of a completion a denoiser learns.

    Attributes:
      weighting: weights of token log-probabilities, "elbo" or "uniform" (lower variance, another
        mix of mask ratios).
      count: positions that count, the "full" width (the model learns to pad) or the "answer"
        through its end token.
    """

    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        check_choices(self, weighting=("elbo", "uniform"), count=("full", "answer"))


def views(config: SftConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch; bool [K, B, L], one half of each."""
    return draw_pairs(rng, draws, batch, config.count)


def loss(
    denoiser: Denoiser, config: SftConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Nats per counted token."""
    score = pair_scores(denoiser, params, batch, weighting=config.weighting, count=config.count)
    length_1xB = score_length(batch, config.count)[None]
    nats = -row_mean(score.plain_KxB / length_1xB, batch, config)
    return nats, {"score": -nats}


OBJECTIVE = Objective(
    SftConfig, loss, views, rewards=False, reads=("masks_KxBxL",), count=rows_counted
)
