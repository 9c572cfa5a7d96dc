"""What generated programs do: their outputs on the same 1,000 inputs, and who does the same.

Programs with equal outputs on all inputs of their type count as one behaviour.
"""

from collections.abc import Iterable, Mapping
import random
from typing import Any

import numpy as np

from gdsd_jax.tasks.coding.operations import OPERATIONS, Step

Steps = tuple[Step, ...]

NUM_INPUTS = 1000
NONE = -1  # in place of an output: the program fails, or what it gives is unwieldy

# Outputs beyond are unwieldy, so that asserts stay short.
_MOST_LETTERS, _MOST_ITEMS = 70, 16
_LARGEST_SPREAD = 1000  # numbers above it are not made to lists
_WORDS = (
    "banana Apple sun Cat area tree Echo data ocean Idea moon bee Ada gate opera coffee Zoo toast "
    "level Oslo"
).split()


def inputs(seed: int = 0) -> dict[str, list[Any]]:
    """NUM_INPUTS distinct inputs of each type: the integers around 0, texts and lists drawn."""
    rng = random.Random(seed)
    texts, lists = {}, {}
    while len(texts) < NUM_INPUTS:
        text = " ".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 2, 2, 3))))
        texts[text] = text
    while len(lists) < NUM_INPUTS:
        items = [rng.randrange(-6, 10) for _ in range(rng.randrange(3, 9))]
        lists[tuple(items)] = items
    numbers = list(range(-NUM_INPUTS // 2, NUM_INPUTS // 2))
    rng.shuffle(numbers)
    return {"int": numbers, "str": list(texts.values()), "list": list(lists.values())}


class Behaviours:
    """The outputs of chains of steps on the same inputs, each computed once.

    Args:
      inputs: type -> its inputs.
    """

    def __init__(self, inputs: Mapping[str, list[Any]]):
        self.inputs = inputs
        self._numbers = {}  # output -> its number
        self._values = {}  # chain that others begin with -> its results, None where it fails
        self._outputs = {}

    def of(self, steps: Steps) -> np.ndarray:
        """int32 [NUM_INPUTS]: equal numbers are equal outputs, also of other chains."""
        if steps not in self._outputs:
            numbers = [self._number(value) for value in self._results(steps)]
            self._outputs[steps] = np.array(numbers, np.int32)
        return self._outputs[steps]

    def inputs_of(self, steps: Steps) -> list[Any]:
        """What the chain was run on."""
        return self.inputs[steps[0].operation.takes]

    def _number(self, value: Any) -> int:
        if isinstance(value, list):
            if len(value) > _MOST_ITEMS:
                return NONE
            value = tuple(value)
        elif value is None or (isinstance(value, str) and len(value) > _MOST_LETTERS):
            return NONE
        return self._numbers.setdefault(value, len(self._numbers))

    def _results(self, steps: Steps) -> list[Any]:
        if not steps:
            raise ValueError("a chain needs a step")
        values = self.inputs_of(steps)
        if len(steps) > 1:
            begin = steps[:-1]
            if begin not in self._values:
                self._values[begin] = self._results(begin)
            values = self._values[begin]
        return [_after(steps[-1], value) for value in values]


def _after(step: Step, value: Any) -> Any:
    """What a step makes of a value; None where it fails, or did so before."""
    if value is None:
        return None
    kind = (step.operation.takes, step.operation.gives)
    if kind == ("int", "list") and value > _LARGEST_SPREAD:
        return None
    try:
        return step(value)
    except (ValueError, IndexError):
        return None


def all_chains() -> list[Steps]:
    """Every chain of one step, then every chain of two different operations."""
    steps = [Step(operation, k) for operation in OPERATIONS.values() for k in _constants(operation)]
    pairs = [
        (first, second)
        for first in steps
        for second in steps
        if first.operation.gives == second.operation.takes
        and first.operation.name != second.operation.name
    ]
    return [(step,) for step in steps] + pairs


def _constants(operation: Any) -> tuple:
    return operation.constants or (None,)


def names_of(steps: Steps) -> str:
    """The operations of a chain, without their constants."""
    return " ".join(step.operation.name for step in steps)


def groups(chains: Iterable[Steps], behaviours: Behaviours) -> dict[str, str]:
    """`names_of` each chain -> the name of its group.

    Chains of the same operations, and chains that do the same, are of one group, and so is what is
    linked by others. A group has the name that comes first in the alphabet.
    """
    leader = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    seen = {}
    for steps in chains:
        names = names_of(steps)
        behaviour = (steps[0].operation.takes, behaviours.of(steps).tobytes())
        alike = seen.setdefault(behaviour, names)
        first, second = sorted((find(names), find(alike)))
        leader[second] = first
    return {name: find(name) for name in list(leader)}
