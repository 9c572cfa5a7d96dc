"""Held-out evaluation with the training sampler: other temperatures, the same jitted function.

N problems, S answers to each; B rows of a device batch, G completion columns.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from gdsd_jax import sharding
from gdsd_jax.evaluation.finished import Finished, once
from gdsd_jax.experience import answers_in, grades_of, mean_of, prompts_of, texts_of
from gdsd_jax.experiment import Experiment, ignore
from gdsd_jax.progress import phase, say
from gdsd_jax.sampling import SamplerConfig, stop_ids_of
from gdsd_jax.tasks import Grades, Record, Task
from gdsd_jax.tasks.repeating import is_repeating
from gdsd_jax.types import Prompts, Rollout


class Request(NamedTuple):
    """What is asked of each problem."""

    temperature: float = 0.0  # of the proposals, 0 = greedy
    samples: int = 1  # S, answers to each problem
    threshold: float = math.inf  # probability above which proposals are committed; infinity = off
    gen_length: int | None = None  # most tokens of an answer; None = the sampler's


SAMPLED = Request(temperature=1.0)  # what eval lines of metrics.jsonl ask besides


class Answers(NamedTuple):
    """Answers of one batch."""

    texts: list[str]
    grades: Grades | None  # None: the task grades nothing
    length_B: np.ndarray  # int, tokens through the stop id
    forwards_B: np.ndarray  # int, of the model


class Table(NamedTuple):
    """Answers to N problems; those to one problem stand side by side."""

    texts: list[list[str]]  # N lists of S
    grades: Grades | None  # of N x S answers, [N, S] each; None: the task grades nothing
    lengths_NxS: np.ndarray  # int, tokens through the stop id
    forwards_NxS: np.ndarray  # int, of the model
    # `distances` of the student that answers from its teacher; None: no teacher
    distances: Mapping[str, np.ndarray] | None = None
    cluster_N: np.ndarray | None = None  # int, of each problem; None: each is one by itself

    @property
    def forwards_per_token(self) -> float:
        """All forwards over all tokens."""
        return float(self.forwards_NxS.sum() / max(self.lengths_NxS.sum(), 1))

    @property
    def judged(self) -> bool:
        """Whether any answer got a verdict."""
        return self.grades is not None and bool(self.grades.judged_N.any())

    def mean(self, name: str) -> float:
        """The mean of "reward", "solved" or a part over the answers that were judged."""
        return mean_of(named(self.grades)[name], self.grades.judged_N)

    @property
    def loops_NxS(self) -> np.ndarray:
        """bool, whether an answer repeats itself; False where there is none."""
        return np.array(
            [[text is not None and is_repeating(text) for text in row] for row in self.texts]
        )

    @property
    def looping(self) -> float:
        """Share of the answers that repeat themselves, 0..1."""
        answered = sum(text is not None for row in self.texts for text in row)
        return float(self.loops_NxS.sum() / answered) if answered else math.nan

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
    experiment: Experiment,
    sample: Callable[[Prompts], Rollout],
    request: Request,
    finished: Finished | None = None,
) -> Table:
    """Answers to the first `eval_problems` held-out problems, and their grades.

    `sample` takes exactly as many rows as a round has; the last batch is filled up by repeating.
    Batches that `finished` holds are not answered again, the others are kept there.
    """
    settings = experiment.settings
    count = problems_asked(experiment)
    texts: list[list[str]] = [[] for _ in range(count)]
    batches, starts = [], range(0, count, settings.rows)
    with phase(
        f"answers at temperature {request.temperature:g}", request.samples * len(starts)
    ) as step:
        for number, start in itertools.product(range(request.samples), starts):
            row_B = np.arange(start, min(start + settings.rows, count))
            key = key_of(settings.sampler, request, number, start)

            def make(number=number, row_B=row_B) -> dict[str, Any]:
                return to_json(answer(experiment, sample, request, number, row_B))

            answers = from_json(once(finished, key, make))
            for row, text in zip(row_B, answers.texts):
                texts[row].append(text)
            batches.append(answers._replace(texts=[]))
            step()

    def side_by_side(*parts: np.ndarray) -> np.ndarray:
        whole = np.concatenate(parts)
        return np.moveaxis(whole.reshape(request.samples, count, *whole.shape[1:]), 0, 1)

    joined = jax.tree.map(side_by_side, *batches)
    return Table(texts, joined.grades, joined.length_B, joined.forwards_B)


def problems_asked(experiment: Experiment) -> int:
    """How many held-out problems an evaluation asks."""
    return min(experiment.settings.eval_problems, len(experiment.heldout))


def answer(
    experiment: Experiment,
    sample: Callable[[Prompts], Rollout],
    request: Request,
    number: int,
    row_B: np.ndarray,
) -> Answers:
    """The answers number `number` to some of the held-out problems."""
    settings, problems, mesh = experiment.settings, experiment.heldout, experiment.mesh
    prompts = prompts_of(
        mesh,
        problems[np.resize(row_B, settings.rows)],
        copies=1,
        temperature=request.temperature,
        threshold=request.threshold,
        longest=request.gen_length,
        first_sample=number,
        widths=problems.widths,
    )
    rollout = sample(prompts)
    stop_ids = stop_ids_of(settings.sampler, experiment.denoiser.config)
    fields = *answers_in(mesh, rollout, stop_ids), sharding.fetch(mesh, rollout.passes_B)
    tokens_BxG, length_B, passes_B = (field[: len(row_B)] for field in fields)
    records = [problems.records[index] for index in problems.index[row_B]]
    texts = texts_of(experiment.task, experiment.tokenizer, records, tokens_BxG)
    grades = None
    if experiment.task.grade is not None:
        skip = None
        if settings.not_finite == "skip":
            skip = say if experiment.hosts.first else ignore
        grades = grades_of(
            experiment.hosts, experiment.task, records, texts, experiment.parts, skip
        )
    return Answers(texts, grades, length_B, passes_B)


def finite(value: Any) -> Any:
    """The value; None for a mean over nothing, which JSON has no number for."""
    return None if isinstance(value, float) and math.isnan(value) else value


# ---------------------------------------------------------------- what is kept of a batch


def key_of(sampler: SamplerConfig, request: Request, number: int, start: int) -> str:
    """The name of a batch among those of evaluations that differ in nothing else."""
    asked = f"temperature={exact(request.temperature)} threshold={exact(request.threshold)}"
    longest = sampler.gen_length if request.gen_length is None else request.gen_length
    return f"gen_length={sampler.gen_length} longest={longest} {asked} sample={number} row={start}"


def exact(number: float) -> str:
    """A number in the fewest digits that tell it from all others."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def to_json(answers: Answers) -> dict[str, Any]:
    """The answers as JSON holds them, from which they come back exactly as they were."""
    kept = {
        "texts": answers.texts,
        "length": answers.length_B.tolist(),
        "forwards": answers.forwards_B.tolist(),
        "grades": None,
    }
    if answers.grades is not None:
        fields = answers.grades._asdict()
        parts = fields.pop("parts")
        kept["grades"] = {name: values.tolist() for name, values in fields.items()}
        kept["grades"]["parts"] = {name: values.tolist() for name, values in parts.items()}
    return kept


def from_json(kept: Mapping[str, Any]) -> Answers:
    """The answers that `to_json` was given."""
    grades = None
    if kept["grades"] is not None:
        found = kept["grades"]
        grades = Grades(
            reward_N=np.array(found["reward_N"], np.float32),
            solved_N=np.array(found["solved_N"], bool),
            parts={name: np.array(row, np.float32) for name, row in found["parts"].items()},
            judged_N=np.array(found["judged_N"], bool),
            points_Nx2=np.array(found["points_Nx2"], np.int64).reshape(-1, 2),
        )
    length_B, forwards_B = (np.array(kept[name], np.int32) for name in ("length", "forwards"))
    return Answers(list(kept["texts"]), grades, length_B, forwards_B)


# ---------------------------------------------------------------- what a run says of itself


def greedy_and_sampled(
    experiment: Experiment,
    sample: Callable[[Prompts], Rollout],
    sampled: Request = SAMPLED,
    finished: Finished | None = None,
) -> tuple[Table, Table]:
    """What every evaluation asks: (one greedy answer to each problem, sampled ones)."""
    greedy = evaluate(experiment, sample, Request(temperature=0.0), finished)
    return greedy, evaluate(experiment, sample, sampled, finished)


def summary(score: str, names: Sequence[str], greedy: Table, sampled: Table) -> dict[str, float]:
    """The numbers of greedy and of sampled answers, as an eval line holds them.

    `meanings.MEANINGS` says what they are. The parts stand among them by their names.

    Args:
      score: the task's.
      names: of the parts.
      greedy: answers at temperature 0.
      sampled: answers at another temperature, in training 1.
    """
    ungraded = {
        "problems": len(greedy.texts),
        "forwards_per_token": greedy.forwards_per_token,
        "looping": greedy.looping,
    }
    if not greedy.judged:
        return ungraded
    return {
        "pass_at_1": greedy.mean("solved"),
        "judged_problems": int(greedy.grades.judged_N.any(axis=1).sum()),
        "mean_reward": sampled.mean(score),
        **{name: sampled.mean(name) for name in ("reward", "solved", *names)},
        **ungraded,
    }


def line_of(numbers: Mapping[str, float], score: str, temperature: float = 1.0) -> str:
    """An evaluation's line in the terminal.

    Args:
      numbers: of `Heldout`.
      score: the task's.
      temperature: of the sampled answers.
    """
    said = []
    if "kl_common" in numbers:
        own = f" (on its own answers {numbers['kl']:.3f})" if "kl" in numbers else ""
        said.append(f"KL {numbers['kl_common']:.3f} nats a token{own}")
    if "pass_at_1" in numbers:
        solved = f"pass@1 {numbers['pass_at_1']:.1%}"
        if "teacher_pass_at_1" in numbers:
            solved += f", by the teacher {numbers['teacher_pass_at_1']:.1%}"
        said.append(f"{solved} (temperature 0)")
        reward = f"reward {numbers['reward']:.3f}"
        if score != "reward":
            reward = f"{score} {numbers['mean_reward']:.1%}, {reward}"
        said.append(f"{reward} (temperature {temperature:g})")
    else:
        said.append("not judged")
    said.append(f"{numbers['forwards_per_token']:.2f} forwards a token")
    if "threshold_forwards_per_token" in numbers:
        by_threshold = f"by the threshold {numbers['threshold_forwards_per_token']:.2f}"
        if "threshold_pass_at_1" in numbers:
            by_threshold += f" with pass@1 {numbers['threshold_pass_at_1']:.1%}"
        said.append(by_threshold)
    said.append(f"{told_count(numbers)} problems")
    return " | ".join(["held-out " + said[0], *said[1:]])


def told_count(numbers: Mapping[str, float]) -> str:
    """How many problems were asked, and where not all of them were judged, how many were."""
    judged = numbers.get("judged_problems", numbers["problems"])
    return (
        f"{judged} judged of {numbers['problems']}" if judged < numbers["problems"] else f"{judged}"
    )
