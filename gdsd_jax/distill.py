"""What an evaluation of a distilled student says besides: its distance to the teacher, the
teacher's score, its speed."""

from collections.abc import Mapping
import math

import jax
import numpy as np

from gdsd_jax.run import Run, ask, evaluate_heldout
from gdsd_jax.steps import Steps
from gdsd_jax.types import PyTree


def evaluate(
    run: Run, steps: Steps, trainable: PyTree, frozen: dict, rng: jax.Array, threshold: float
) -> dict[str, float]:
    """Numbers on held-out problems; the "threshold_..." ones where the config has a threshold.

    `threshold` is that of the present round, infinity where there is none.

    kl: forward KL at the states of rollouts like those of training, nats a masked token.
    teacher_pass_at_1: problems that the teacher solves, 0..1, temperature 0.
    threshold_pass_at_1: the same of the student, committing whatever reaches the threshold.
    threshold_forwards_per_token: what that takes, as `forwards_per_token` for the schedule alone.
    """

    def teach(asked):
        return steps.teach(trainable, frozen, asked, rng)

    numbers = {
        "kl": heldout_distance(run, steps, trainable, frozen, rng, threshold),
        "teacher_pass_at_1": evaluate_heldout(run, teach, 0.0).metrics["solved"],
    }
    if math.isfinite(threshold):

        def sample(asked):
            return steps.sample(trainable, frozen, asked, rng)

        found = evaluate_heldout(run, sample, 0.0, threshold)
        numbers["threshold_pass_at_1"] = found.metrics["solved"]
        numbers["threshold_forwards_per_token"] = found.forwards_per_token
    return numbers


def heldout_distance(
    run: Run, steps: Steps, trainable: PyTree, frozen: dict, rng: jax.Array, threshold: float
) -> float:
    """The distance on one round's number of held-out prompts, answered as in training."""
    config = run.config
    rows = run.heldout[np.arange(config.prompts_per_round) % len(run.heldout)]
    copies, temperature = config.group_size, config.temperature
    asked, _ = ask(run, run.heldout, rows, copies, temperature, threshold=threshold)
    slices = steps.slices(steps.sample(trainable, frozen, asked, rng), asked)
    return float(jax.device_get(steps.distance(trainable, frozen, slices, rng)))


def line(numbers: Mapping[str, float]) -> str:
    """An evaluation's line in the terminal: `numbers` are its own and the student's scores."""
    parts = [
        f"held-out KL {numbers['kl']:.3f} nats a token",
        f"solved {numbers['pass_at_1']:.1%}, by the teacher {numbers['teacher_pass_at_1']:.1%} "
        "(temperature 0)",
        f"{numbers['forwards_per_token']:.2f} forwards a token",
    ]
    if "threshold_pass_at_1" in numbers:
        parts.append(
            f"by the threshold {numbers['threshold_pass_at_1']:.1%} with "
            f"{numbers['threshold_forwards_per_token']:.2f}"
        )
    return " | ".join([*parts, f"{numbers['problems']} problems"])
