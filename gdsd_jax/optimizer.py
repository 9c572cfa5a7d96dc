"""AdamW with warm-up and clipping, and the update step that every objective shares."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import optax

from gdsd_jax.mistakes import Mistakes
from gdsd_jax.types import Array, Batch, PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Attributes:
      learning_rate: the rate after the warm-up.
      warmup_steps: optimizer steps of a linear warm-up.
      decay_steps: the step at which a cosine ends that begins at the warm-up's end; the warm-up
        then begins at a rate of 0, otherwise at a share of the rate. 0 = constant.
      final_share: share of the rate that is left when the decay ends, and from there on.
      weight_decay: decoupled weight decay, of all parameters.
      b1: decay of the first moment.
      b2: decay of the second moment.
      clip_norm: gradients are scaled down to this global norm.
      moments_dtype: type that first moments are kept in. Second ones are float32: in bfloat16 they
        would stop following at b2 = 0.999, whose share of a square is below half a last bit.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 0
    decay_steps: int = 0
    final_share: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.99
    clip_norm: float = 0.2
    moments_dtype: str = "float32"

    def __post_init__(self):
        wrong = {
            f"{key}={getattr(self, key)} must be above 0": not getattr(self, key) > 0
            for key in ("learning_rate", "clip_norm")
        }
        wrong |= {
            f"{key}={getattr(self, key)} must not be negative": getattr(self, key) < 0
            for key in ("warmup_steps", "decay_steps", "final_share", "weight_decay")
        }
        largest = max(self.warmup_steps, self.decay_steps)  # steps are counted in int32
        wrong |= {
            "warmup_steps and decay_steps must be below 2**31": largest >= 1 << 31,
            f"final_share={self.final_share} must be at most 1": self.final_share > 1,
            f"b1={self.b1}, b2={self.b2} must lie in [0, 1)": (
                not (0 <= self.b1 < 1 and 0 <= self.b2 < 1)
            ),
            f"decay_steps={self.decay_steps} must be above warmup_steps={self.warmup_steps}": (
                0 < self.decay_steps <= self.warmup_steps
            ),
            f"moments_dtype={self.moments_dtype!r}: choose float32 or bfloat16": (
                self.moments_dtype not in ("float32", "bfloat16")
            ),
        }
        if any(wrong.values()):
            raise Mistakes(line for line, is_made in wrong.items() if is_made)


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate of a step, from the number of those before it."""
    rate, warmup_steps = config.learning_rate, config.warmup_steps
    if config.decay_steps:
        return optax.warmup_cosine_decay_schedule(
            0.0, rate, warmup_steps, config.decay_steps, config.final_share * rate
        )
    return optax.linear_schedule(rate / (warmup_steps + 1), rate, warmup_steps)


def learning_rate(config: OptimizerConfig, opt_state: PyTree) -> Array:
    """The rate of the next step of `make_optimizer`'s state; steps that were skipped do not
    count."""
    count = optax.tree_utils.tree_get(
        opt_state, "count", filtering=lambda path, _: path[-1].tuple_name == "ScaleByScheduleState"
    )
    return jnp.float32(make_schedule(config)(count))


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW of gradients that are clipped by their global norm."""
    adamw = optax.adamw(
        make_schedule(config),
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mu_dtype=config.moments_dtype,
    )
    return in_float32(optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw))


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer as it is for float32 parameters and gradients, whatever theirs are."""

    def cast(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(grads, state, params):
        return optimizer.update(cast(grads), state, cast(params))

    return optax.GradientTransformation(lambda params: optimizer.init(cast(params)), update)


def init_state(trainable: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(trainable, optimizer.init(trainable), jnp.zeros((), jnp.int32))


def fold(metric: str) -> Callable:
    """How a metric adds up over slices: the largest of those named `..._max`, which are not
    negative, else the sum."""
    return jnp.maximum if metric.endswith("_max") else jnp.add


WEIGHT = "_weight"


def weighed(metrics: dict[str, Array]) -> dict[str, Array]:
    """A slice's metrics as they add up: a ratio times the weight beside it."""
    return {name: x * metrics.get(f"{name}{WEIGHT}", 1.0) for name, x in metrics.items()}


def mean_of(total: dict[str, Array], count: int) -> dict[str, Array]:
    """The metrics of all `count` slices, of what `weighed` and `fold` made of theirs."""
    found = {}
    for name, x in total.items():
        weight = total.get(f"{name}{WEIGHT}", count)
        if fold(name) is jnp.maximum:
            found[name] = x
        elif not (name.endswith(WEIGHT) and name.removesuffix(WEIGHT) in total):
            found[name] = x / jnp.where(weight > 0, weight, 1)
    return found


BROKEN = ("broken_slice", "broken_tensor")


def first_broken(finite_N: Array) -> Array:
    """The index of the first False, int32; -1: there is none."""
    return jnp.where(jnp.all(finite_N), -1, jnp.argmin(finite_N)).astype(jnp.int32)


def make_update(
    loss_fn: Callable, optimizer: optax.GradientTransformation, skip: bool = False
) -> Callable:
    """`update(state, frozen, slices) -> (state, metrics)`: one optimizer step over the mean
    gradient of all slices.

    `slices` is a `Batch` with a leading slice axis: the gradient is accumulated slice by slice, so
    that memory is that of one slice. Metrics are means over the slices, or the largest where the
    name ends in `_max`; of a ratio whose denominator stands beside it as `NAME_weight` the mean is
    weighed by that, and the weight is left out. `BROKEN` say where numbers are not finite, int32,
    -1 = nowhere: the first slice with such a loss or gradient, and the first such leaf of the
    gradient.

    Args:
      loss_fn: of `objectives.make_loss_fn`.
      optimizer: of `make_optimizer`.
      skip: a step that is not finite changes neither parameters nor moments, and counts as 1 in
        the metric "skipped", which else is 0. Without it there is no such metric.
    """

    def update(
        state: TrainState, frozen: dict, slices: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        grads, metrics = mean_gradient(loss_fn, state.trainable, frozen, slices)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        if skip:
            fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            trainable, opt_state = jax.tree.map(
                lambda new, old: jnp.where(fine, new, old),
                (trainable, opt_state),
                (state.trainable, state.opt_state),
            )
            metrics |= {"skipped": 1.0 - fine}
        return TrainState(trainable, opt_state, state.step + 1), metrics

    return update


def mean_gradient(
    loss_fn: Callable, trainable: PyTree, frozen: dict, slices: Batch
) -> tuple[PyTree, dict[str, Array]]:
    """(the mean gradient of all slices, float32, the metrics of `make_update`)."""
    gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulate(total, batch):
        (loss, metrics), grads = gradient_fn(trainable, frozen, batch)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
        # in bfloat16 the rounding of their sum would grow with the number of slices
        grads = jax.tree.map(lambda sum, x: sum + x.astype(jnp.float32), total[0], grads)
        metrics = weighed({"loss": loss, **metrics})
        metrics = {name: fold(name)(total[1][name], x) for name, x in metrics.items()}
        return (grads, metrics), finite

    first = jax.tree.map(lambda x: x[0], slices)
    (loss, metrics), grads = jax.eval_shape(gradient_fn, trainable, frozen, first)
    zeros = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), grads),
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), {"loss": loss, **metrics}),
    )
    total, finite_S = jax.lax.scan(accumulate, zeros, slices)
    count = jax.tree.leaves(slices)[0].shape[0]
    grads = jax.tree.map(lambda x: x / count, total[0])
    metrics = mean_of(total[1], count)
    finite_N = jnp.stack([jnp.isfinite(optax.tree.norm(x)) for x in jax.tree.leaves(grads)])
    metrics |= {"grad_norm": optax.tree.norm(grads)}
    return grads, metrics | dict(zip(BROKEN, map(first_broken, (finite_S, finite_N))))
