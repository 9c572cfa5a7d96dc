"""Answers for a supervised start: the gold program, or one with mistakes drawn by a seed."""

import random

from gdsd_jax.tasks.coding import problems
from gdsd_jax.tasks.task import Record

HABIT = 0.6  # chance that an operation which is often mistaken is mistaken
BROKEN_SHARE = 0.05  # of the noisy answers: does not parse, instead of giving something else


def completion(record: Record) -> str:
    """The gold answer, a fenced program; ValueError where the record has none."""
    if not record.get("solution"):
        raise ValueError(
            f"no solution to the question {record['question'][:60]!r}: add a solution field"
        )
    return _fenced(record["solution"])


def noisy_completion(record: Record, seed: int | str, noise: float) -> str:
    """An answer with mistakes, the same for the same record and seed.

    Some operations are mistaken for another one with probability HABIT
    (`problems.habitual_slips`), so that even the likeliest answer of a model of this text is wrong
    there. Besides, with probability `noise`, the answer holds one slip: an operation of the same
    family, a constant off by one, a step left out or two exchanged (`problems.mutants`). In
    BROKEN_SHARE of these cases a bracket is left out instead.

    Args:
      record: a generated one.
      seed: of the mistakes.
      noise: 0..1; 0 is the gold answer, of any record.

    Raises:
      ValueError: a record without "spec" and a noise above 0, or no gold answer.
    """
    if noise == 0:
        return completion(record)
    if not record.get("spec"):
        raise ValueError(
            "sft.noise needs generated records: set sft.noise=0 for solutions of your own"
        )
    rng = random.Random(f"{seed} {record['spec']}")
    steps = problems.parse(record["spec"])
    steps = tuple(
        wrong if rng.random() < HABIT else right
        for right, wrong in zip(steps, problems.habitual_slips(steps))
    )
    slips = problems.mutants(steps)  # a single operation without relatives has none
    if rng.random() >= noise or not slips:
        return _fenced(problems.program(steps))
    if rng.random() < BROKEN_SHARE:
        return _fenced(_without_a_bracket(problems.program(steps), rng))
    kind = rng.choice(sorted(slips))
    return _fenced(problems.program(rng.choice(slips[kind])))


def _fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def _without_a_bracket(program: str, rng: random.Random) -> str:
    # Not in the first line: every program starts with the same words.
    first = program.index("\n")
    places = [i for i, letter in enumerate(program) if letter in ")]" and i > first]
    if not places:
        return program + ")"
    place = rng.choice(places)
    return program[:place] + program[place + 1 :]
