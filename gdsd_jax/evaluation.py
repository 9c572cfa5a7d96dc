"""Held-out evaluation with the training sampler: other temperatures, the same jitted function.

N problems, S answers to each; B rows of a device batch, G completion columns.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import jax
import numpy as np

from gdsd_jax import curriculum, sharding
from gdsd_jax.experience import grades_of, mean_of, prompts_of, texts_of
from gdsd_jax.experiment import Experiment
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.settings import Settings
from gdsd_jax.steps import Steps
from gdsd_jax.tasks import Grades, Record, Task
from gdsd_jax.types import Prompts, PyTree, Rollout


class Request(NamedTuple):
    """What is asked of each problem."""

    temperature: float = 0.0  # of the proposals, 0 = greedy
    samples: int = 1  # S, answers to each problem
    threshold: float = math.inf  # probability from which on proposals are committed; infinity = off
    gen_length: int | None = None  # most tokens of an answer; None = the sampler's


class Table(NamedTuple):
    """Answers to N problems; those to one problem stand side by side."""

    texts: list[list[str]]  # N lists of S
    grades: Grades | None  # of N x S answers, [N, S] each; None: the task grades nothing
    lengths_NxS: np.ndarray  # int, tokens through the stop id
    forwards_NxS: np.ndarray  # int, of the model

    @property
    def forwards_per_token(self) -> float:
        """All forwards over all tokens."""
        return float(self.forwards_NxS.sum() / max(self.lengths_NxS.sum(), 1))

    def mean(self, name: str) -> float:
        """The mean of "reward", "solved" or a part over the answers that were judged."""
        return mean_of(named(self.grades)[name], self.grades.judged_N)

    def grades_of_answer(self, row: int, number: int = 0) -> dict[str, float]:
        """{"reward", "solved", each part: its value}; nothing where there is no verdict."""
        if self.grades is None or not self.grades.judged_N[row, number]:
            return {}
        return {name: float(values[row, number]) for name, values in named(self.grades).items()}


def named(grades: Grades) -> dict[str, np.ndarray]:
    """The grades under the names of metrics.jsonl."""
    return {"reward": grades.reward_N, "solved": grades.solved_N, **grades.parts}


def question_of(task: Task, record: Record) -> str:
    """What people are shown of a problem: the last turn of a user."""
    turns = [turn for turn in task.messages(record) if turn["role"] == "user"]
    return turns[-1]["content"] if turns else ""


def evaluate(
    experiment: Experiment, sample: Callable[[Prompts], Rollout], request: Request
) -> Table:
    """Answers to the first `eval_problems` held-out problems, and their grades.

    `sample` takes exactly as many rows as a round has; the last batch is filled up by repeating.
    """
    settings, problems, mesh = experiment.settings, experiment.heldout, experiment.mesh
    count = min(settings.eval_problems, len(problems))
    texts: list[list[str]] = [[] for _ in range(count)]
    lengths, forwards, graded = [], [], []
    for number in range(request.samples):
        for start in range(0, count, settings.rows):
            row_B = np.arange(start, min(start + settings.rows, count))
            prompts = prompts_of(
                mesh,
                problems[np.resize(row_B, settings.rows)],
                copies=1,
                temperature=request.temperature,
                threshold=request.threshold,
                longest=request.gen_length,
                first_sample=number,
            )
            rollout = sample(prompts)
            fields = (rollout.tokens_BxG, rollout.length_B, rollout.passes_B)
            tokens_BxG, length_B, passes_B = (
                field[: len(row_B)] for field in sharding.fetch(mesh, fields)
            )
            records = [problems.records[index] for index in problems.index[row_B]]
            found = texts_of(experiment.task, experiment.tokenizer, records, tokens_BxG)
            for row, text in zip(row_B, found):
                texts[row].append(text)
            lengths.append(length_B)
            forwards.append(forwards_of(settings.sampler, length_B, passes_B))
            if experiment.task.grade is not None:
                graded.append(
                    grades_of(experiment.hosts, experiment.task, records, found, experiment.parts)
                )

    def side_by_side(parts: list[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(parts)
        return np.moveaxis(whole.reshape(request.samples, count, *whole.shape[1:]), 0, 1)

    grades = jax.tree.map(lambda *parts: side_by_side(parts), *graded) if graded else None
    return Table(texts, grades, side_by_side(lengths), side_by_side(forwards))


def forwards_of(sampler: SamplerConfig, length_B: np.ndarray, passes_B: np.ndarray) -> np.ndarray:
    """Forwards of the model a row, int [B]: its denoising passes, and for kind "block" one that
    saves each of its blocks."""
    if sampler.kind != "block":
        return passes_B
    return passes_B + -(-length_B // sampler.block_length)


# ---------------------------------------------------------------- what a run says of itself


def heldout(
    experiment: Experiment,
    steps: Steps,
    trainable: PyTree,
    frozen: dict,
    rng: jax.Array,
    number: int,
) -> tuple[Table, dict[str, float]]:
    """(the greedy answers, the numbers of an eval line) after `number` rounds.

    `summary` says what the numbers are; with a teacher those of `against_teacher` besides.
    """

    def sample(prompts: Prompts) -> Rollout:
        return steps.sample(trainable, frozen, prompts, rng)

    greedy = evaluate(experiment, sample, Request(temperature=0.0))
    sampled = evaluate(experiment, sample, Request(temperature=1.0))
    numbers = summary(experiment, greedy, sampled)
    if experiment.teacher is not None:
        numbers |= against_teacher(experiment, steps, trainable, frozen, rng, number)
    return greedy, numbers


def summary(experiment: Experiment, greedy: Table, sampled: Table) -> dict[str, float]:
    """The numbers of answers at temperatures 0 and 1, under the names of metrics.jsonl.

    pass_at_1: problems solved at temperature 0, 0..1. mean_reward: the task's score at temperature
    1. solved, and parts by their names: at temperature 1. forwards_per_token: at temperature 0.
    """
    speed = {"problems": len(greedy.texts), "forwards_per_token": greedy.forwards_per_token}
    if greedy.grades is None:
        return speed
    score = experiment.task.score
    parts = {name: sampled.mean(name) for name in experiment.parts if name != score}
    return {
        "pass_at_1": greedy.mean("solved"),
        "mean_reward": sampled.mean(score),
        "solved": sampled.mean("solved"),
        **parts,
        **speed,
    }


def against_teacher(
    experiment: Experiment,
    steps: Steps,
    trainable: PyTree,
    frozen: dict,
    rng: jax.Array,
    number: int,
) -> dict[str, float]:
    """What a distilled student's evaluation says besides.

    kl: forward KL at the states of rollouts like those of training, nats a masked token.
    teacher_pass_at_1: problems that the teacher solves, 0..1, temperature 0.
    threshold_pass_at_1: the same of the student, which commits whatever reaches the round's
      threshold; where there is one.
    threshold_forwards_per_token: what that takes, as `forwards_per_token` for the schedule alone.
    """

    def sample(prompts: Prompts) -> Rollout:
        return steps.sample(trainable, frozen, prompts, rng)

    def teach(prompts: Prompts) -> Rollout:
        return steps.teach(trainable, frozen, prompts, rng)

    settings = experiment.settings
    threshold = threshold_after(settings, number)
    prompts = heldout_round(experiment, threshold)
    slices = steps.slices(sample(prompts), prompts)
    distance = steps.distance(trainable, frozen, slices, rng)
    numbers = {"kl": float(jax.device_get(distance))}
    if experiment.task.grade is not None:
        numbers["teacher_pass_at_1"] = evaluate(experiment, teach, Request()).mean("solved")
    if math.isfinite(threshold):
        found = evaluate(experiment, sample, Request(threshold=threshold))
        if found.grades is not None:
            numbers["threshold_pass_at_1"] = found.mean("solved")
        numbers["threshold_forwards_per_token"] = found.forwards_per_token
    return numbers


def heldout_round(experiment: Experiment, threshold: float) -> Prompts:
    """A round's number of held-out prompts, asked as in training."""
    settings, problems = experiment.settings, experiment.heldout
    rows = problems[np.arange(settings.prompts_per_round) % len(problems)]
    return prompts_of(
        experiment.mesh,
        rows,
        settings.group_size,
        temperature=settings.temperature,
        threshold=threshold,
    )


def threshold_after(settings: Settings, number: int) -> float:
    """The confidence threshold of the round that follows `number` rounds, or of the last one."""
    last = max(settings.rounds - 1, 0)
    return curriculum.threshold(min(number, last), settings.threshold, settings.threshold_ramp)


def line_of(numbers: Mapping[str, float], score: str) -> str:
    """An evaluation's line in the terminal; `score` is the task's."""
    said = []
    if "kl" in numbers:
        said.append(f"KL {numbers['kl']:.3f} nats a token")
    if "pass_at_1" in numbers:
        solved = f"pass@1 {numbers['pass_at_1']:.1%}"
        if "teacher_pass_at_1" in numbers:
            solved += f", by the teacher {numbers['teacher_pass_at_1']:.1%}"
        said.append(f"{solved} (temperature 0)")
        form = ".3f" if score == "reward" else ".1%"
        said.append(f"{score} {numbers['mean_reward']:{form}} (temperature 1)")
    said.append(f"{numbers['forwards_per_token']:.2f} forwards a token")
    if "threshold_forwards_per_token" in numbers:
        by_threshold = f"by the threshold {numbers['threshold_forwards_per_token']:.2f}"
        if "threshold_pass_at_1" in numbers:
            by_threshold += f" with pass@1 {numbers['threshold_pass_at_1']:.1%}"
        said.append(by_threshold)
    return " | ".join(["held-out " + said[0], *said[1:], f"{numbers['problems']} problems"])
