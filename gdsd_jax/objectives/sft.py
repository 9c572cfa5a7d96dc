"""Masked-diffusion supervised fine-tuning: the negative ELBO of given completions, per token (specs/gdsd.md section 3.2)."""
import dataclasses

import jax.numpy as jnp

from gdsd_jax.scoring import counted, pair_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Attributes:
      weighting: of token log-probabilities, "elbo" or "uniform" (lower variance, another mix of mask ratios).
      count: positions that count, "full" width (the model learns to pad) or the "answer" through its end token.
    """

    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        for key, allowed in (("weighting", ("elbo", "uniform")), ("count", ("full", "answer"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r}: choose one of {allowed}")


def loss(denoiser: Denoiser, config: SftConfig, params: PyTree, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Nats per counted token."""
    score = pair_scores(denoiser, params, batch, weighting=config.weighting, count=config.count)
    length_1xB = jnp.sum(counted(batch, config.count), axis=1)[None].astype(jnp.float32)
    nats = -jnp.mean(score.plain_KxB / length_1xB)
    return nats, {"score": -nats}
