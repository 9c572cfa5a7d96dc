"""A distilled student beside its teacher, held-out problem by problem.

N problems.
"""

from collections.abc import Sequence

import jax
import numpy as np

from gdsd_jax import curriculum, sharding
from gdsd_jax.evaluation.answers import finite, problems_asked
from gdsd_jax.evaluation.finished import Finished
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
    experiment: Experiment,
    steps: Steps,
    model: tuple[PyTree, dict],
    rng: jax.Array,
    rounds: Sequence[Batch],
) -> Distance:
    """`Steps.distance` of the held-out problems, float32 [N] each.

    The mean of a problem's answers, NaN where none of them counts.

    Args:
      model: (trainable, frozen) of the student.
      rounds: answers to `heldout_rounds`, or to the first of them; what fills the last one up is
        left out.
    """
    settings = experiment.settings
    found = [sharding.fetch(experiment.mesh, steps.distance(*model, one, rng)) for one in rounds]
    rows = jax.tree.map(lambda *parts: np.concatenate([part.reshape(-1) for part in parts]), *found)
    problems = jax.tree.map(lambda row: row.reshape(-1, settings.group_size), rows)
    return jax.tree.map(lambda row: mean_known(row[: problems_asked(experiment)]), problems)


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
    finished: Finished | None = None,
) -> dict[str, np.ndarray]:
    """How far the student is from its teacher at each problem, float [N] by name.

    The names are those of `between.against_teacher`, the threshold is the last round's. Rounds that
    `finished` holds are not asked again, the others are kept there.

    Args:
      model: (trainable, frozen) of the student, with its teacher.
    """
    settings = experiment.settings
    last = threshold_after(settings, settings.rounds)
    rounds, found = heldout_rounds(experiment, last), []
    with phase("answers of student and teacher", len(rounds)) as step:
        for number, prompts in enumerate(rounds):
            key = f"gen_length={settings.sampler.gen_length} distance={number}"
            one = None if finished is None else finished.get(key)
            if one is None:
                one = of_round(experiment, steps, model, prompts, rng)
                if finished is not None:
                    finished.keep(key, one)
            found.append(one)
            step()
    count = problems_asked(experiment)
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return {name: values.astype(float)[:count] for name, values in joined.items()}


def of_round(
    experiment: Experiment,
    steps: Steps,
    model: tuple[PyTree, dict],
    prompts: Prompts,
    rng: jax.Array,
) -> dict[str, list[float | None]]:
    """`distances` of the problems of one round, those that fill it up among them; None for NaN."""

    def of_answers(call) -> Distance:
        rollout = call(*model, prompts, rng)
        return apart(experiment, steps, model, rng, [steps.slices(rollout, prompts)])

    own, common = of_answers(steps.sample), of_answers(steps.teach)
    found = {"kl_common": common.kl, "kl": own.kl, "teacher_nats": own.teacher_nats}
    return {name: [finite(value) for value in values.tolist()] for name, values in found.items()}
