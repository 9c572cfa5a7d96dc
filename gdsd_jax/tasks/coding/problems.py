"""A generated family of small Python problems: words in, a function `f(x)` out.

A specification is a chain of one or two operations whose types agree. Its words ask for the chain,
and its program carries it out. Its tests are chosen so that programs with one slip (`mutants`) fail
at least one of them. The same mutants, drawn at random, are the wrong solutions of the noisy
fine-tuning text.

Everything follows from fixed seeds through `random.Random` and SHA-256, so every host generates the
same.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import random
import types
from typing import Any

from gdsd_jax.tasks.coding.operations import OPERATIONS, Step

# Of the generated problems: raise it with any change to them. The folder they are kept in has it
# in its name.
VERSION = "1.1.0"
NUM_TRAIN = 2048
NUM_HELDOUT = 448
TESTS_PER_PROBLEM = 5

_CANDIDATES = 24  # inputs drawn for a problem, of which the most telling become its tests
_MAX_OUTPUT = 72  # characters; inputs with a longer output are not used, to keep asserts short
_MAX_NUMBER = 10**9
_NOUNS: Mapping[str, str] = types.MappingProxyType(
    {"int": "a number", "str": "a string", "list": "a list"}
)
# Lists have the most operations, so they start most chains.
_STARTS = ("int", "str", "str", "list", "list", "list")
_WORDS = (
    "banana Apple sun Cat area tree Echo data ocean Idea moon bee Ada gate opera coffee Zoo toast "
    "level Oslo"
).split()
# Operations that the noisy text gets wrong more often than right, so that a model of it has
# something to unlearn.
_MISTAKEN = frozenset(
    ("subtract", "at_most", "keep_odd", "sort_down", "trim", "largest", "head", "lower")
)

Steps = tuple[Step, ...]


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

    The split is by specification and stricter: a held-out chain of operations does not occur in
    training with other constants either. Chains of one step are all in training, so every operation
    is known from there.
    """
    sizes = {"train": NUM_TRAIN, "heldout": NUM_HELDOUT}
    splits = {name: [] for name in sizes}
    for steps in _chains():
        split = splits[_split(steps)]
        if len(split) < sizes[_split(steps)]:
            split += filter(None, [_problem(steps)])
        elif all(len(splits[name]) == size for name, size in sizes.items()):
            break
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


def _chains() -> Iterator[Steps]:
    """Distinct chains without end: each single step first, then random longer ones."""
    for operation in OPERATIONS.values():
        for k in operation.constants or (None,):
            yield (Step(operation, k),)
    rng = random.Random(0)
    seen = set()
    while True:
        kind, steps = rng.choice(_STARTS), ()
        for _ in range(2):
            used = [step.operation for step in steps]
            fitting = [o for o in OPERATIONS.values() if o.takes == kind and o not in used]
            operation = rng.choice(fitting)
            steps += (Step(operation, rng.choice(operation.constants or (None,))),)
            kind = operation.gives
        if steps not in seen:
            seen.add(steps)
            yield steps


def _split(steps: Steps) -> str:
    # Constants are left out of the hash: chains that differ only in them share a split.
    held_out = len(steps) > 1 and _stable_hash(" ".join(s.operation.name for s in steps)) % 6 == 0
    return "heldout" if held_out else "train"


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _problem(steps: Steps) -> Problem | None:
    """The problem of `steps`.

    None where it fails on most inputs, is constant, or has a step that changes nothing.
    """
    spec = " ".join(map(str, steps))
    inputs = _inputs(steps[0].operation.takes, random.Random(_stable_hash(spec)))
    outputs = [_outcome(steps, x) for x in inputs]
    usable = [i for i, y in enumerate(outputs) if y is not None]
    if len(usable) < _CANDIDATES // 2 or len({outputs[i] for i in usable}) < 2:
        return None
    slips = mutants(steps)
    exposing = {
        kind: [{i for i in usable if _outcome(chain, inputs[i]) != outputs[i]} for chain in chains]
        for kind, chains in slips.items()
    }
    if not all(exposing.get("dropped", ())):
        return None
    solution = program(steps)
    scope = {}
    exec(solution, scope)  # our own text: the tests state what the program itself gives
    chosen = [inputs[i] for i in _choose(usable, outputs, sum(exposing.values(), []))]
    return Problem(
        spec,
        describe(steps),
        solution,
        tuple(f"assert f({x!r}) == {scope['f'](x)!r}" for x in chosen),
    )


def _inputs(kind: str, rng: random.Random) -> list[Any]:
    """_CANDIDATES distinct inputs."""
    inputs = []
    while len(inputs) < _CANDIDATES:
        if kind == "int":
            x = rng.randrange(-12, 31)
        elif kind == "str":
            x = " ".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 2, 2, 3))))
        else:
            x = [rng.randrange(-6, 10) for _ in range(rng.randrange(3, 9))]
        if x not in inputs:
            inputs.append(x)
    return inputs


def _outcome(steps: Steps, x: Any) -> str | None:
    """What the steps make of `x`, as a literal; None where they fail or the result is unwieldy."""
    try:
        for step in steps:
            x = step(x)
            if isinstance(x, int) and abs(x) > _MAX_NUMBER:
                return None
    except (ValueError, IndexError):
        return None
    literal = repr(x)
    return literal if len(literal) <= _MAX_OUTPUT else None


def _choose(
    usable: Sequence[int], outputs: Sequence[str | None], exposing: Sequence[set[int]]
) -> list[int]:
    """TESTS_PER_PROBLEM inputs, taken one at a time.

    Each is the one that exposes most slips not yet exposed; among equals, the one whose output was
    seen least.
    """
    chosen, hidden = [], list(exposing)
    while len(chosen) < TESTS_PER_PROBLEM:
        seen = [outputs[i] for i in chosen]
        rest = [i for i in usable if i not in chosen]
        best = max(
            rest, key=lambda i: (sum(i in inputs for inputs in hidden), -seen.count(outputs[i]))
        )
        chosen.append(best)
        hidden = [inputs for inputs in hidden if best not in inputs]
    return chosen
