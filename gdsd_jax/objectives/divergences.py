"""What may be minimised between a model and its tilted teacher, of which answers are weighed alike.

u is the log-ratio of the model to the anchor at an answer, t what the teacher's would be, both nats
on the whole sequence. With p = exp(u) and q = exp(t), neither of which is normalised, each is at
least 0 and 0 where u = t (but for `linear`, which has no such point), and all have the derivative
-t with respect to u at u = 0, up to terms of t squared: they differ where moves or targets are
large. Beyond 20 nats exp goes on as a line, which leaves all of this true.
"""

from collections.abc import Callable

import jax.numpy as jnp

from gdsd_jax.objectives.clipping import bounded_exp, extended_exp
from gdsd_jax.types import Array


def squared(u: Array, t: Array) -> Array:
    """(u - t)^2 / 2; its derivative is u - t (GDSD, arXiv 2605.29398)."""
    return 0.5 * jnp.square(u - t)


def forward(u: Array, t: Array) -> Array:
    """KL(q || p) = q (t - u) - q + p; its derivative is p - q, which good answers dominate.

    What weighs denoising by exp(advantage) minimises (wd1, arXiv 2507.08838; DMPO).
    """
    return bounded_exp(t) * (t - u) - extended_exp(t) + extended_exp(u)


def reverse(u: Array, t: Array) -> Array:
    """KL(p || q) = p (u - t) - p + q; its derivative is p (u - t), a policy gradient by ratios."""
    return bounded_exp(u) * (u - t) - extended_exp(u) + extended_exp(t)


def linear(u: Array, t: Array) -> Array:
    """-u t; its derivative is -t: REINFORCE, whatever the model has moved already."""
    return -u * t


DIVERGENCES: dict[str, Callable[[Array, Array], Array]] = {
    "squared": squared,
    "forward": forward,
    "reverse": reverse,
    "linear": linear,
}
