"""The reference policy, moved towards the trained one every few optimizer steps.

TR-DPO's soft update (arXiv 2404.09656), which TRL calls sync_ref_model.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class ReferenceSync:
    """When the reference moves, and how far. TRL's own mix is 0.6.

    Attributes:
      every: optimizer steps of the rounds from one move to the next; 0 = it never moves.
      mix: share of the trained weights in the moved reference, in (0, 1].

    Raises:
      ValueError: a negative number of steps, or a share that is none.
    """

    every: int = 0
    mix: float = 0.6

    def __post_init__(self):
        if self.every < 0:
            raise ValueError(f"every={self.every} must not be negative")
        if not 0 < self.mix <= 1:
            raise ValueError(f"mix={self.mix} must lie in (0, 1]")

    def is_due(self, step: int) -> bool:
        """Whether the reference moves after optimizer step `step`, counted from 1."""
        return self.every > 0 and step % self.every == 0


def moved(trainable: PyTree, reference: PyTree, mix: float) -> PyTree:
    """mix trainable + (1 - mix) reference, leaf by leaf: computed in float32, kept in the
    reference's dtype."""

    def move(weight, anchor):
        mean = mix * weight.astype(jnp.float32) + (1 - mix) * anchor.astype(jnp.float32)
        return mean.astype(anchor.dtype)

    return jax.tree.map(move, trainable, reference)
