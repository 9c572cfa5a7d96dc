"""Next-token prediction on given completions: how an embedded teacher is made."""

import dataclasses

import jax.numpy as jnp

from gdsd_jax.mistakes import check_choices
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import (
    NO_CENTRING,
    counted,
    row_mean,
    rows_counted,
    score_length,
    token_scores,
)
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class ArConfig:
    """What of a completion an autoregressive model learns.

    Attributes:
      count: positions that count, the "answer" through its end token or the "full" width.
    """

    count: str = "answer"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"))


def views(config: ArConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Nothing is masked, bool [K, B, L]."""
    return jnp.zeros((draws, *batch.tokens_BxL.shape), bool)


def loss(
    denoiser: Denoiser, config: ArConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Nats per counted token, mean over rows."""
    nats = row_mean(nats_of_rows(denoiser, config, params, batch), batch, config)
    return nats, {"score": -nats}


def nats_of_rows(denoiser: Denoiser, config: ArConfig, params: PyTree, batch: Batch) -> Array:
    """Nats per counted token of each row, float32 [B].

    The states of an autoregressive model are shifted, so that column i scores token i.
    """
    h_BxLxD = denoiser.features(params, batch.tokens_BxL, valid_BxL=batch.valid_BxL)
    h_BxGxD = h_BxLxD[:, batch.prompt_len :]
    tokens_BxG = batch.tokens_BxL[:, batch.prompt_len :]
    logp_BxG, _ = token_scores(denoiser, params, h_BxGxD, tokens_BxG, NO_CENTRING)
    total_B = jnp.sum(jnp.where(counted(batch, config.count), logp_BxG, 0.0), axis=1)
    return -total_B / score_length(batch, config.count)


OBJECTIVE = Objective(ArConfig, loss, views, rewards=False, reads=(), count=rows_counted)
