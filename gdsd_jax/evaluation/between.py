"""The evaluation between rounds: a run's own held-out answers, and a student beside its teacher.

The teacher stands still, so that it answers once a run.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from gdsd_jax import sharding
from gdsd_jax.evaluation.answers import (
    Request,
    Table,
    evaluate,
    greedy_and_sampled,
    summary,
)
from gdsd_jax.evaluation.distances import (
    distances,
    heldout_rounds,
    mean_known,
    teacher_answers,
    threshold_after,
)
from gdsd_jax.experiment import Experiment
from gdsd_jax.steps import Steps
from gdsd_jax.types import Batch, Prompts, PyTree, Rollout


class Taught(NamedTuple):
    """What the teacher answers to the held-out problems.

    Attributes:
      greedy: its answers at temperature 0.
      rounds: of its answers as in training, round by round: the states at which every student is
        compared.
    """

    greedy: Table
    rounds: list[Batch]


class Heldout(NamedTuple):
    """What an evaluation between rounds found.

    Attributes:
      greedy: the answers at temperature 0.
      teacher: the teacher's; None where there is none.
      numbers: of the eval line: those of `summary`, and with a teacher of `against_teacher`.
      sampled: answers at temperature 1.
      order: (tokens_BxG, step_map_BxG) of the first greedy answers, int32, as in `Rollout`.
    """

    greedy: Table
    teacher: Table | None
    numbers: dict[str, float]
    sampled: Table | None = None
    order: tuple[np.ndarray, np.ndarray] | None = None


def taught(
    experiment: Experiment, steps: Steps, trainable: PyTree, frozen: dict, rng: jax.Array
) -> Taught:
    """The teacher's answers; `trainable` is not read."""

    def teach(prompts: Prompts) -> Rollout:
        return steps.teach(trainable, frozen, prompts, rng)

    model, asked = (trainable, frozen), heldout_rounds(experiment, math.inf)
    rounds = [teacher_answers(steps, model, rng, prompts) for prompts in asked]
    return Taught(evaluate(experiment, teach, Request()), rounds)


def heldout(
    experiment: Experiment,
    steps: Steps,
    trainable: PyTree,
    frozen: dict,
    rng: jax.Array,
    number: int,
    teacher: Taught | None,
) -> Heldout:
    """The evaluation after `number` rounds."""

    first: list[jax.Array] = []  # tokens and steps of the first answers

    def sample(prompts: Prompts) -> Rollout:
        rollout = steps.sample(trainable, frozen, prompts, rng)
        if not first:
            first.extend((rollout.tokens_BxG, rollout.step_map_BxG))
        return rollout

    greedy, sampled = greedy_and_sampled(experiment, sample)
    order = sharding.fetch(experiment.mesh, tuple(first))
    numbers = summary(experiment.task.score, experiment.parts, greedy, sampled)
    found = Heldout(greedy, None, numbers, sampled, order)
    if teacher is None:
        return found
    numbers |= against_teacher(experiment, steps, trainable, frozen, rng, number, teacher)
    return found._replace(teacher=teacher.greedy)


def against_teacher(
    experiment: Experiment,
    steps: Steps,
    trainable: PyTree,
    frozen: dict,
    rng: jax.Array,
    number: int,
    teacher: Taught,
) -> dict[str, float]:
    """What an evaluation says besides where there is a teacher.

    kl, teacher_nats, kl_common: means of `distances`; left out where nothing of them counts.
    teacher_pass_at_1: problems that the teacher solves, 0..1, temperature 0; where they are judged.
    threshold_pass_at_1: the same of the student, which commits whatever is above the round's
      threshold; where there is one.
    threshold_forwards_per_token: what that takes, as `forwards_per_token` for the schedule alone.
    """

    def sample(prompts: Prompts) -> Rollout:
        return steps.sample(trainable, frozen, prompts, rng)

    threshold, model = threshold_after(experiment.settings, number), (trainable, frozen)
    found = distances(experiment, steps, model, rng, threshold, lambda one, _: teacher.rounds[one])
    numbers = {name: float(mean_known(values)) for name, values in found.items()}
    numbers = {name: value for name, value in numbers.items() if not math.isnan(value)}
    judged = teacher.greedy.judged
    if judged:
        numbers["teacher_pass_at_1"] = teacher.greedy.mean("solved")
    if math.isfinite(threshold):
        table = evaluate(experiment, sample, Request(threshold=threshold))
        if judged:
            numbers["threshold_pass_at_1"] = table.mean("solved")
        numbers["threshold_forwards_per_token"] = table.forwards_per_token
    return numbers
