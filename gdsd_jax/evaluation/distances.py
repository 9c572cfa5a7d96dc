"""A distilled student beside its teacher, held-out problem by problem.

N problems.
"""

from collections.abc import Callable
import functools

import jax
import numpy as np

from gdsd_jax import curriculum, sharding
from gdsd_jax.evaluation.answers import finite, problems_asked
from gdsd_jax.evaluation.finished import Finished, once
from gdsd_jax.experience import prompts_of
from gdsd_jax.experiment import Experiment
from gdsd_jax.progress import phase
from gdsd_jax.settings import Settings
from gdsd_jax.steps import Distance, Steps
from gdsd_jax.types import Batch, Prompts, PyTree


def heldout_rounds(experiment: Experiment, threshold: float) -> list[Prompts]:
    """The held-out prompts by rounds, asked as in training; the last one is filled up from the
    first."""
    settings, problems = experiment.settings, experiment.heldout
    count = settings.prompts_per_round
    return [
        prompts_of(
            experiment.mesh,
            problems[np.arange(start, start + count) % len(problems)],
            settings.group_size,
            temperature=settings.temperature,
            threshold=threshold,
            widths=problems.widths,
        )
        for start in range(0, problems_asked(experiment), count)
    ]


def threshold_after(settings: Settings, number: int) -> float:
    """The confidence threshold of the round that follows `number` rounds, or of the last one."""
    last = max(settings.rounds - 1, 0)
    return curriculum.threshold(min(number, last), settings.threshold, settings.threshold_ramp)


def apart(
    experiment: Experiment, steps: Steps, model: tuple[PyTree, dict], rng: jax.Array, batch: Batch
) -> Distance:
    """`Steps.distance` of a round's problems, float32 each: the mean of a problem's answers, NaN
    where none of them counts.

    Args:
      model: (trainable, frozen) of the student.
      batch: answers to one of `heldout_rounds`.
    """
    rows = sharding.fetch(experiment.mesh, steps.distance(*model, batch, rng))
    copies = experiment.settings.group_size
    return jax.tree.map(lambda row: mean_known(row.reshape(-1, copies)), rows)


def mean_known(values_xN: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known_xN = ~np.isnan(values_xN)
    sums_x = np.sum(values_xN, axis=-1, where=known_xN)
    counts_x = np.sum(known_xN, axis=-1)
    return np.divide(sums_x, counts_x, out=np.full_like(sums_x, np.nan), where=counts_x > 0)


def distances(
    experiment: Experiment,
    steps: Steps,
    model: tuple[PyTree, dict],
    rng: jax.Array,
    threshold: float,
    taught: Callable[[int, Prompts], Batch],
    finished: Finished | None = None,
) -> dict[str, np.ndarray]:
    """How far the student is from its teacher at each problem, float [N] by name, NaN where nothing
    counts.

    kl: forward KL at the states of rollouts like those of training, nats a masked token.
    teacher_nats: what those rollouts are to the teacher, nats a token.
    kl_common: forward KL at states of the teacher's own answers, which are the same at every
      evaluation and for every student of that teacher, nats a masked token.

    Args:
      model: (trainable, frozen) of the student, with its teacher.
      threshold: of the student's rollouts.
      taught: the teacher's answers to a round, of its number and prompts.
      finished: rounds that it holds are not asked again, the others are kept there.
    """
    length = experiment.settings.sampler.gen_length
    rounds, found = heldout_rounds(experiment, threshold), []

    def of_answers(batch: Batch) -> Distance:
        return apart(experiment, steps, model, rng, batch)

    def of_round(number: int, prompts: Prompts) -> dict[str, list[float | None]]:
        own = of_answers(steps.slices(steps.sample(*model, prompts, rng), prompts))
        told = own._asdict() | {"kl_common": of_answers(taught(number, prompts)).kl}
        return {name: [finite(value) for value in values.tolist()] for name, values in told.items()}

    with phase("answers of student and teacher", len(rounds)) as step:
        for number, prompts in enumerate(rounds):
            make = functools.partial(of_round, number, prompts)
            found.append(once(finished, f"gen_length={length} distance={number}", make))
            step()
    count = problems_asked(experiment)
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return {name: values.astype(float)[:count] for name, values in joined.items()}


def teacher_answers(
    steps: Steps, model: tuple[PyTree, dict], rng: jax.Array, prompts: Prompts
) -> Batch:
    """The teacher's answers to a round."""
    return steps.slices(steps.teach(*model, prompts, rng), prompts)
