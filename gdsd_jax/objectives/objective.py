"""What the training loop knows of an objective."""

from collections.abc import Callable
from typing import NamedTuple


def compares_with_reference(config) -> bool:
    """Whether the config weighs a divergence from the reference policy: its `beta` is above 0."""
    return getattr(config, "beta", 0.0) > 0


def one_nat(config, advantages_B, length_B):
    """What an objective asks that does not say how far scores are to move: a nat per unit of
    advantage."""
    return advantages_B


class Objective(NamedTuple):
    """An objective: its config, its functions, and facts about them.

    K draws, B rows, L columns, G completion columns; scores in nats.

    Attributes:
      config: a frozen dataclass.
      loss: `(denoiser, config, params, batch) -> (loss, metrics)`; with a teacher, its parameters
        are a last argument. `metrics` holds at least "score", and "kl" and "trust" where there is
        something to compare with.
      views: `(config, batch, draws, rng) -> masks_KxBxL`, the masks that the loss wants.
      scores: `(denoiser, config, params, batch) -> (old, reference)`, [K, B] or [K, B, G]: what
        `Batch.old_KxB` and `Batch.ref_KxB` hold. None: the loss reads neither.
      reference: `config -> bool`, whether the loss compares with the reference policy.
      by_group: whether the loss compares the completions of a prompt, which must then all lie in
        its batch.
      rewards: whether the loss learns from rewards, so that completions must be graded.
      teacher: whether the loss distils an autoregressive teacher, the config's `teacher`.
      uncut: whether the loss wants the states that the sampler saw, also behind the end of an
        answer: tokens and steps of `Rollout.uncut`.
      reads: the fields of a batch that the loss reads besides tokens, validity and lengths, and
        that may not be None.
      asked: `(config, advantages_B, length_B) -> [B]`, nats by which the loss asks the scores of
        completions of so many tokens to move. The probe measures moves by it.
      rollouts: `(sampler, temperature, threshold) -> None`, ValueError in one line where the loss
        cannot learn from completions that are drawn so. None: it can from all.
      count: `(config, batch) -> float32`, how many tokens, or rows that have some, the loss is a
        mean over, where `Batch.mean_count` does not say. None: it is a mean over groups, or over
        all rows, of which every slice has as many.
    """

    config: type
    loss: Callable
    views: Callable
    scores: Callable | None = None
    reference: Callable = compares_with_reference
    by_group: bool = False
    rewards: bool = True
    teacher: bool = False
    uncut: bool = False
    reads: tuple[str, ...] = ("masks_KxBxL", "advantages_B")
    count: Callable | None = None
    asked: Callable = one_nat
    rollouts: Callable | None = None
