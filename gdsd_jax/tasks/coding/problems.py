"""A generated family of small Python problems: words in, a function `f(x)` out.

A specification is a chain of one or two operations whose types agree. Its words ask for the chain,
and its program carries it out. Its tests are chosen so that programs with one slip (`mutants`) fail
at least one of them, unless they do the same on all 1,000 inputs of `behaviour`. The same mutants,
drawn at random, are the wrong solutions of the noisy fine-tuning text.

Everything follows from fixed seeds through `random.Random` and SHA-256, so every host generates the
same.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import random
import types

import numpy as np

from gdsd_jax.tasks.coding.behaviour import (
    NONE,
    NUM_INPUTS,
    Behaviours,
    Steps,
    all_chains,
    groups,
    inputs,
    names_of,
)
from gdsd_jax.tasks.coding.operations import OPERATIONS, Step

# Of the generated problems: raise it with any change to them. The folder they are kept in has it
# in its name.
VERSION = "2.0.0"
NUM_TRAIN = 2048
NUM_HELDOUT = 448
LEAST_TESTS = 5  # of a problem; more where it takes more to expose its slips

_NOUNS: Mapping[str, str] = types.MappingProxyType(
    {"int": "a number", "str": "a string", "list": "a list"}
)
# Operations that the noisy text gets wrong more often than right, so that a model of it has
# something to unlearn.
_MISTAKEN = frozenset(
    ("subtract", "at_most", "keep_odd", "sort_down", "trim", "largest", "head", "lower")
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A specification with everything derived from it.

    Attributes:
      spec: the steps as one string, such as "keep_even times_each=3 sum".
      question: the specification in words.
      solution: the program, without a fence.
      tests: assert statements, which the program passes.
    """

    spec: str
    question: str
    solution: str
    tests: tuple[str, ...]


def parse(spec: str) -> Steps:
    """The steps of a `Problem.spec` string; ValueError where it is none."""
    steps = []
    for part in spec.split():
        name, _, constant = part.partition("=")
        if name not in OPERATIONS:
            raise ValueError(
                f"unknown operation {name!r} in specification {spec!r}: see operations.py"
            )
        values = {str(k): k for k in OPERATIONS[name].constants} or {"": None}
        if constant not in values:
            raise ValueError(
                f"{part!r} in specification {spec!r} needs one of the constants {list(values)}"
            )
        steps.append(Step(OPERATIONS[name], values[constant]))
    return tuple(steps)


def describe(steps: Steps) -> str:
    """The specification in words."""
    chain = ", then ".join(step.words for step in steps)
    return f"Write f(x) for {_NOUNS[steps[0].operation.takes]} x: {chain}."


def program(steps: Steps) -> str:
    """The Python program that carries the steps out, one line a step."""
    lines = [f"    x = {step.code}" for step in steps[:-1]]
    return "\n".join(["def f(x):", *lines, f"    return {steps[-1].code}"])


def mutants(steps: Steps) -> dict[str, list[Steps]]:
    """All chains one plausible slip away from `steps`, by kind of slip; only kinds that have any.

    "operation": another of the same family. "constant": off by one. "dropped": a step left out.
    "order": two neighbours exchanged. Types still agree, so most mutants run and give a wrong
    answer.
    """
    found = {"operation": [], "constant": [], "dropped": [], "order": []}
    for i, step in enumerate(steps):
        before, after = steps[:i], steps[i + 1 :]
        found["operation"] += [before + (other,) + after for other in _siblings(step)]
        found["constant"] += [before + (other,) + after for other in _neighbours(step)]
        if len(steps) > 1 and step.operation.takes == step.operation.gives:
            found["dropped"].append(before + after)
        exchanged = before[:-1] + (step,) + before[-1:] + after
        if before and _same_types(exchanged, steps):
            found["order"].append(exchanged)
    return {kind: chains for kind, chains in found.items() if chains}


def habitual_slips(steps: Steps) -> Steps:
    """The chain with each operation of `_MISTAKEN` replaced by the first other of its family."""
    return tuple(_siblings(step)[0] if step.operation.name in _MISTAKEN else step for step in steps)


def generate() -> dict[str, list[Problem]]:
    """The problems by split: NUM_TRAIN under "train", NUM_HELDOUT under "heldout".

    The split is by behaviour and stricter (`behaviour.groups`): what a held-out program does is
    done by no program of the training, and its chain of operations does not occur there with other
    constants either. Groups with a chain of one step are all in training, so every operation is
    known from there.
    """
    behaviours = Behaviours(inputs())
    chains = [steps for steps in all_chains() if _is_problem(steps, behaviours)]
    group_of = groups(chains, behaviours)
    known = {group_of[names_of(steps)] for steps in chains if len(steps) == 1}
    # Single steps come first, in their order, then the others in any.
    chosen = [steps for steps in chains if len(steps) == 1]
    others = [steps for steps in chains if len(steps) > 1]
    random.Random(0).shuffle(others)
    sizes = {"train": NUM_TRAIN, "heldout": NUM_HELDOUT}
    splits = {name: [] for name in sizes}
    for steps in chosen + others:
        group = group_of[names_of(steps)]
        name = "heldout" if group not in known and _stable_hash(group) % 6 == 0 else "train"
        if len(splits[name]) < sizes[name]:
            splits[name].append(_problem(steps, behaviours))
    return splits


def _siblings(step: Step) -> list[Step]:
    """The step with each other operation of its family and types, the constant kept if possible."""

    def kind(operation):
        return (operation.takes, operation.gives, operation.family)

    found = []
    for other in OPERATIONS.values():
        if kind(other) == kind(step.operation) and other != step.operation:
            first = next(iter(other.constants), None)
            found.append(Step(other, step.k if step.k in other.constants else first))
    return found


def _neighbours(step: Step) -> list[Step]:
    """The step with the constants beside its own."""
    if step.k is None:
        return []
    constants = step.operation.constants
    at = constants.index(step.k)
    return [Step(step.operation, k) for k in constants[max(at - 1, 0) : at + 2] if k != step.k]


def _same_types(steps: Steps, original: Steps) -> bool:
    """Whether types agree from step to step, from what `original` takes to what it gives."""
    takes = [step.operation.takes for step in steps] + [original[-1].operation.gives]
    gives = [original[0].operation.takes] + [step.operation.gives for step in steps]
    return takes == gives


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _is_problem(steps: Steps, behaviours: Behaviours) -> bool:
    """Whether the chain works on a quarter of the inputs, is not constant, and needs every step."""
    outputs = behaviours.of(steps)
    usable = outputs != NONE
    if usable.sum() < NUM_INPUTS // 4 or len(set(outputs[usable])) < 2:
        return False
    shorter = mutants(steps).get("dropped", ())
    return all(np.any((behaviours.of(other) != outputs)[usable]) for other in shorter)


def _problem(steps: Steps, behaviours: Behaviours) -> Problem:
    """The problem of a chain."""
    spec, solution = " ".join(map(str, steps)), program(steps)
    scope = {}
    exec(solution, scope)  # our own text: the tests state what the program itself gives
    given = behaviours.inputs_of(steps)
    chosen = [given[place] for place in _choose(steps, behaviours, _stable_hash(spec))]
    tests = tuple(f"assert f({x!r}) == {scope['f'](x)!r}" for x in chosen)
    return Problem(spec, describe(steps), solution, tests)


def _choose(steps: Steps, behaviours: Behaviours, seed: int) -> list[int]:
    """Places of at least LEAST_TESTS inputs, taken one at a time.

    Each is the one that exposes most slips not yet exposed; among equals, the one whose output was
    seen least, and then the first from a place that the seed says.
    """
    outputs = behaviours.of(steps)
    places = np.roll(np.arange(NUM_INPUTS), -(seed % NUM_INPUTS))
    places = places[outputs[places] != NONE]
    slips = [other for chains in mutants(steps).values() for other in chains]
    habit = habitual_slips(steps)
    exposed = np.stack([behaviours.of(other) != outputs for other in (*slips, habit)])[:, places]
    open_M = exposed.any(axis=1)  # the others do the same
    seen, chosen = np.zeros(len(places), int), []
    while len(chosen) < LEAST_TESTS or open_M.any():
        score = exposed[open_M].sum(axis=0) * NUM_INPUTS - seen
        score[chosen] = -NUM_INPUTS
        best = int(np.argmax(score))
        chosen.append(best)
        open_M &= ~exposed[:, best]
        seen += outputs[places] == outputs[places[best]]
    return places[chosen].tolist()
