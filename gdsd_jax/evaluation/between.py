"""The evaluation between rounds: a run's own held-out answers, and a student beside its teacher.

The teacher stands still, so that it answers once a run.
"""

from collections.abc import Sequence
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
from gdsd_jax.evaluation.distances import apart, heldout_rounds, mean_known, threshold_after
from gdsd_jax.experiment import Experiment
from gdsd_jax.steps import Distance, Steps
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

    rounds = [steps.slices(teach(one), one) for one in heldout_rounds(experiment, math.inf)]
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

    kl: forward KL at the states of rollouts like those of training, nats a masked token; left out
      where no token of theirs counts.
    teacher_nats: what those rollouts are to the teacher, nats a token.
    kl_common: forward KL at states of the teacher's own answers, which are the same at every
      evaluation and for every student of that teacher, nats a masked token.
    teacher_pass_at_1: problems that the teacher solves, 0..1, temperature 0; where they are judged.
    threshold_pass_at_1: the same of the student, which commits whatever reaches the round's
      threshold; where there is one.
    threshold_forwards_per_token: what that takes, as `forwards_per_token` for the schedule alone.
    """

    def sample(prompts: Prompts) -> Rollout:
        return steps.sample(trainable, frozen, prompts, rng)

    def distance(rounds: Sequence[Batch]) -> Distance:
        found = apart(experiment, steps, (trainable, frozen), rng, rounds)
        return Distance(*(float(mean_known(values_N)) for values_N in found))

    threshold = threshold_after(experiment.settings, number)
    rounds = heldout_rounds(experiment, threshold)
    numbers = distance([steps.slices(sample(one), one) for one in rounds])._asdict()
    numbers["kl_common"] = distance(teacher.rounds).kl
    numbers = {name: value for name, value in numbers.items() if not math.isnan(value)}
    judged = teacher.greedy.judged
    if judged:
        numbers["teacher_pass_at_1"] = teacher.greedy.mean("solved")
    if math.isfinite(threshold):
        found = evaluate(experiment, sample, Request(threshold=threshold))
        if judged:
            numbers["threshold_pass_at_1"] = found.mean("solved")
        numbers["threshold_forwards_per_token"] = found.forwards_per_token
    return numbers
