"""The evaluation of record: every answer of a checkpoint, all that is said of them, and a manifest
from which it can be run again, in one JSON file without a clock in it."""

from collections.abc import Callable, Mapping, Sequence
import hashlib
from importlib import metadata
import json
import math
import platform
from typing import Any, NamedTuple

import jax
import numpy as np

from gdsd_jax import data, settings, version, weights
from gdsd_jax.checkpoint import checksums_of, latest_iteration
from gdsd_jax.evaluation import answers, intervals
from gdsd_jax.evaluation.answers import Request
from gdsd_jax.evaluation.distances import distances, teacher_answers, threshold_after
from gdsd_jax.evaluation.figures import Item, cluster_entry, evaluations_of, items_of
from gdsd_jax.evaluation.finished import Finished, difference
from gdsd_jax.experiment import Experiment
from gdsd_jax.loop import keys_of, seed_key_of
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.settings import Settings
from gdsd_jax.steps import make_sampler, make_steps
from gdsd_jax.tasks import Record
from gdsd_jax.types import Prompts, PyTree, Rollout

FORMAT = 1
# distributions whose versions the manifest states
PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "flax",
    "orbax-checkpoint",
    "sentencepiece",
    "tokenizers",
    "math-verify",
)


class Plan(NamedTuple):
    """What is asked of a checkpoint.

    Attributes:
      samplers: one for each generation length.
      sampled: the answers besides the greedy ones.
      thresholds: probabilities above which proposals are committed, in further greedy answers.
    """

    samplers: tuple[SamplerConfig, ...]
    sampled: Request = answers.SAMPLED
    thresholds: tuple[float, ...] = ()

    def requests(self) -> list[Request]:
        """Everything that is asked at each length, in this order."""
        by_threshold = [Request(threshold=threshold) for threshold in self.thresholds]
        return [Request(temperature=0.0), self.sampled, *by_threshold]

    def batches(self, problems: int, rows: int, rounds: int = 0) -> int:
        """How many batches of `rows` answers that takes, and `rounds` beside a teacher."""
        asked = sum(request.samples for request in self.requests())
        return len(self.samplers) * (asked * math.ceil(problems / rows) + rounds)


def plan_of(
    chosen: Settings,
    lengths: Sequence[int] = (),
    samples: int | None = None,
    thresholds: Sequence[float] = (),
) -> Plan:
    """The plan for some generation lengths, with half as many steps as tokens each.

    Args:
      chosen: of the experiment.
      lengths: in tokens; () = the settings' own sampler.
      samples: answers to each problem at the settings' temperature; None = one at temperature 1, as
        in the evaluations of a run.
      thresholds: as in `Plan`.

    Raises:
      ValueError: a length that the sampler cannot write, or samples that would all be the same; one
        line.
    """
    samplers = tuple(sampler_of(chosen.sampler, length) for length in lengths)
    sampled = answers.SAMPLED
    if samples is not None:
        if not chosen.temperature:
            raise ValueError(
                f"--samples={samples}: at temperature=0.0 all are the same; give one above 0, such "
                "as temperature=1.0"
            )
        sampled = Request(temperature=chosen.temperature, samples=samples)
    return Plan(samplers or (chosen.sampler,), sampled, tuple(thresholds))


def sampler_of(sampler: SamplerConfig, length: int) -> SamplerConfig:
    """The sampler at another generation length, its blocks as they were."""
    if length < 2 or length % 2:
        raise ValueError(f"--lengths={length}: give even numbers, steps are half of them")
    try:
        changes = {"gen_length": length, "steps": length // 2}
        return SamplerConfig(**(sampler.given() | changes))
    except ValueError as error:
        raise ValueError(f"--lengths={length}: sampler.{error}") from None


def at_length(experiment: Experiment, sampler: SamplerConfig) -> Experiment:
    """The experiment with another sampler, by which its objective need not be able to train."""
    chosen = settings.unchecked(vars(experiment.settings) | {"sampler": sampler})
    heldout = data.with_length(experiment.heldout, sampler.gen_length, chosen.max_lengths)
    return experiment._replace(settings=chosen, heldout=heldout)


def answer_all(
    experiment: Experiment,
    model: tuple[PyTree, dict],
    plan: Plan,
    finished: Finished | None = None,
    is_taught: bool = False,
) -> list[Item]:
    """Every answer that the plan asks for, with the noise of the run's own evaluations.

    Args:
      model: (trainable, frozen), with a teacher where `is_taught`: then the distance to it is
        measured besides.
      finished: batches that are done.
    """
    chosen, mesh = experiment.settings, experiment.mesh
    rng = keys_of(experiment, seed_key_of(experiment), 0)["evaluation"]
    problems = [
        {"question": answers.question_of(experiment.task, one)}
        | cluster_entry(experiment.task, one)
        for one in records_of(experiment)
    ]
    items = []
    for sampler in plan.samplers:
        here = at_length(experiment, sampler)
        options = chosen.rollout_weights, chosen.rollout_quant, chosen.rollout_parts
        call = make_sampler(experiment.denoiser, sampler, mesh, *options)

        def sample(prompts: Prompts, call=call) -> Rollout:
            return call(*model, prompts, rng)

        greedy, sampled = answers.greedy_and_sampled(here, sample, plan.sampled, finished)
        if is_taught:
            greedy = greedy._replace(distances=distances_of(here, model, rng, finished))
        tables = [greedy, sampled]
        for request in plan.requests()[2:]:
            tables.append(answers.evaluate(here, sample, request, finished))
        for request, table in zip(plan.requests(), tables):
            asked = {
                "gen_length": sampler.gen_length,
                "temperature": request.temperature,
                "threshold": request.threshold if math.isfinite(request.threshold) else None,
            }
            items += items_of(problems, table, **asked)
    return items


def distances_of(
    experiment: Experiment, model: tuple[PyTree, dict], rng: jax.Array, finished: Finished | None
) -> dict[str, np.ndarray]:
    """`distances` of a student, at the threshold of its last round."""
    chosen = experiment.settings
    steps = make_steps(experiment.denoiser, chosen, experiment.mesh, experiment.teacher)
    threshold = threshold_after(chosen, chosen.rounds)

    def taught(_, prompts: Prompts):
        return teacher_answers(steps, model, rng, prompts)

    return distances(experiment, steps, model, rng, threshold, taught, finished)


def records_of(experiment: Experiment) -> list[Record]:
    """The records of the problems that are asked."""
    heldout = experiment.heldout
    count = answers.problems_asked(experiment)
    return [heldout.records[index] for index in heldout.index[:count]]


# ---------------------------------------------------------------- the manifest


def manifest_of(
    experiment: Experiment, plan: Plan, checkpoint: str, teacher: PyTree | None = None
) -> dict[str, Any]:
    """All that the answers follow from, as JSON holds it, and of a student its teacher's
    parameters. All processes must call it together."""
    return {
        "format": FORMAT,
        "settings": settings.to_json(experiment.settings),
        "score": experiment.task.score,
        "parts": list(experiment.parts),
        "checkpoint": str(checkpoint),
        "iteration": latest_iteration(checkpoint),
        "weights_sha256": weights.hash_of(checkpoint),
        **({} if teacher is None else {"teacher": mark_of(teacher)}),
        "problems_sha256": problems_hash(experiment),
        "samplers": [sampler.given() for sampler in plan.samplers],
        "seed": experiment.settings.seed,
        "sampled": {"temperature": plan.sampled.temperature, "samples": plan.sampled.samples},
        "thresholds": list(plan.thresholds),
        "intervals": intervals.stated(any(map(experiment.task.cluster, records_of(experiment)))),
        "packages": versions(),
        "device": jax.devices()[0].device_kind,
    }


def mark_of(params: PyTree) -> str:
    """By which parameters are known, as devices hold them, whatever they were read from."""
    sums = {name: sums.tolist() for name, sums in checksums_of(params).items()}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def from_manifest(manifest: Mapping[str, Any]) -> tuple[Settings, Plan]:
    """What the evaluation of a manifest was asked.

    Raises:
      ValueError: settings or samplers that this version does not take; one line.
    """
    sampled = Request(**manifest["sampled"])
    samplers = tuple(SamplerConfig(**fields) for fields in manifest["samplers"])
    plan = Plan(samplers, sampled, tuple(manifest["thresholds"]))
    return settings.from_json(manifest["settings"]), plan


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What may change the numbers of an evaluation that is run again: another version or device.

    Raises:
      ValueError: the weights or the problems are others, or something else that was asked.
    """
    surroundings = ("packages", "device")
    parts = [
        {key: value for key, value in one.items() if key not in surroundings}
        for one in (before, json.loads(json.dumps(now)))
    ]
    fault = difference(*parts)
    if fault is not None:
        raise ValueError(f"--again: {fault}: give what was evaluated then, or evaluate anew")
    for key in surroundings:
        said = difference(before.get(key), now[key], key)
        if said is not None:
            return f"{said}: numbers may differ"
    return None


def problems_hash(experiment: Experiment) -> str:
    """SHA-256 of the problems that are asked: their prompts' tokens and their records."""
    digest = hashlib.sha256()
    count = answers.problems_asked(experiment)
    for array in (experiment.heldout.tokens, experiment.heldout.valid, experiment.heldout.index):
        digest.update(np.ascontiguousarray(array[:count]).tobytes())
    for record in records_of(experiment):
        digest.update(f"{plain(record)}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that numbers or texts depend on."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "gdsd_jax": version.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


# ---------------------------------------------------------------- the file


def plain(record: Record) -> dict[str, Any] | None:
    """A record as JSON holds it; None for one of a user's own task that JSON cannot hold."""
    try:
        return json.loads(json.dumps(dict(record), allow_nan=False))
    except (TypeError, ValueError):
        return None


def prompts_of(
    records: Sequence[Record], messages: Callable[[Record], list[dict[str, str]]]
) -> list[dict[str, Any]]:
    """Each problem's turns, as they are asked, and its record, from which answers are graded."""
    return [{"messages": messages(record), "record": plain(record)} for record in records]


def contents(
    source: Mapping[str, Any],
    manifest: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Any]],
    items: Sequence[Item],
) -> dict[str, Any]:
    """What the file holds.

    The numbers at its top, `metrics` and `intervals`, are those of the first generation length;
    `evaluations` has those of all.

    Args:
      source: what was given to the command, such as the config.
      manifest: with the samplers of each length, the task's score and the names of its parts.
      prompts: of the problems that the items count.
      items: every answer.
    """
    found = evaluations_of(items, manifest["samplers"], manifest["score"], manifest["parts"])
    first = found[0]
    inside = ("correct", "total", "accuracy", "unjudged", "pass_at_k")
    numbers = {name: value for name, value in first["metrics"].items() if name not in inside}
    if "thresholds" in first:
        numbers["thresholds"] = first["thresholds"]
    return {
        **source,
        **numbers,
        "metrics": first["metrics"],
        "intervals": first["intervals"],
        "evaluations": found,
        "manifest": dict(manifest),
        "prompts": list(prompts),
        "items": list(items),
    }
