"""Rejection-sampling fine-tuning: answers that solve their problem are learnt, the others are not.

The same denoising cross-entropy over complementary masks as GDSD's score, at the same states, so
that a comparison with it is one of what is done with rewards (RAFT, arXiv 2304.06767; of reasoning
models, arXiv 2308.01825). B rows, K mask draws; nats unless said.
"""

import dataclasses

import jax.numpy as jnp

from gdsd_jax.mistakes import check_choices, check_least
from gdsd_jax.objectives import gdsd
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted_length, pair_scores, row_mean, score_length
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class RftConfig:
    """How solutions are scored; as in GDSD.

    Attributes:
      weighting: of token scores, "elbo" or "uniform".
      count: positions that count, the "full" width or the "answer" through its end token.
      masks: "uniform", "block_random" or "block_confidence".
      mask_block: tokens of a block of the last two.
    """

    weighting: str = "elbo"
    count: str = "full"
    masks: str = "uniform"
    mask_block: int = 32

    def __post_init__(self):
        check_choices(
            self,
            weighting=("elbo", "uniform"),
            count=("full", "answer"),
            masks=("uniform", "block_random", "block_confidence"),
        )
        check_least(self, mask_block=1)


def loss(
    denoiser: Denoiser, config: RftConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean over the solved answers of score / L; 0 where none is."""
    score_KxB = pair_scores(
        denoiser, params, batch, weighting=config.weighting, count=config.count
    ).plain_KxB
    score_KxB = score_KxB / score_length(batch, config.count)[None]
    solved = solved_counted(config, batch) if batch.mean_count is None else batch.mean_count
    taken_B = learnt(config, batch)
    total = jnp.sum(jnp.where(taken_B, jnp.mean(score_KxB, axis=0), 0.0))
    zero = jnp.float32(0.0)
    rows = batch.replace(mean_count=None)
    metrics = {
        "score": row_mean(score_KxB, rows, config),
        "kl": zero,  # nothing is compared with
        "trust": zero,
        "effective": jnp.mean(taken_B.astype(jnp.float32)),  # share of answers that are learnt
    }
    return -total / solved, metrics


def learnt(config: RftConfig, batch: Batch) -> Array:
    """bool [B], the answers that are learnt: solutions of some token."""
    return batch.solved_B & (counted_length(batch, config.count) > 0)


def solved_counted(config: RftConfig, batch: Batch) -> Array:
    """How many answers are learnt, float32, at least 1."""
    return jnp.maximum(jnp.sum(learnt(config, batch)), 1).astype(jnp.float32)


OBJECTIVE = Objective(
    RftConfig, loss, gdsd.views, reads=("masks_KxBxL", "solved_B"), count=solved_counted
)
