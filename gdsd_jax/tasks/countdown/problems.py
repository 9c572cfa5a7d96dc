"""Countdown: numbers and a target that they reach with + - * / and brackets, each used once.

Problems are split by their numbers, in whatever order: all targets of the same numbers are in one
split. Everything follows from fixed seeds through `random.Random` and SHA-256.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import random

from gdsd_jax.tasks.countdown import expressions
from gdsd_jax.tasks.countdown.expressions import Tree

# Of the generated problems: raise it with any change to them. The folder they are kept in has it in
# its name.
VERSION = "1.1.0"
SPLITS = ("train", "heldout")
NUM_TRAIN = 4096
NUM_HELDOUT = 512
HELDOUT_SHARE = 8  # one of so many sets of numbers is held out

_PATIENCE = 2000  # problems drawn again, after which there are taken to be no more
_MOST_DRAWS = 1_000_000  # of numbers, which may hardly ever reach a target: half a minute


@dataclasses.dataclass(frozen=True)
class Range:
    """Which problems are generated.

    Attributes:
      counts: how many numbers a problem has, each count as likely.
      largest: the largest number of a problem; the smallest is 1.
      largest_target: the largest target; the smallest is 1.
      signs: of the expressions that make targets.
    """

    counts: tuple[int, ...] = (3, 4)
    largest: int = 99
    largest_target: int = 100
    signs: str = expressions.SIGNS


@dataclasses.dataclass(frozen=True)
class Problem:
    """Numbers, their target, and an expression that reaches it."""

    numbers: tuple[int, ...]
    target: int
    solution: str


def split_of(numbers: Sequence[int]) -> str:
    """ "heldout" or "train", whatever the order of the numbers."""
    name = ",".join(map(str, sorted(numbers)))
    digest = hashlib.sha256(name.encode()).digest()
    return "heldout" if digest[0] % HELDOUT_SHARE == 0 else "train"


def generate(chosen: Range) -> dict[str, list[Problem]]:
    """The problems by split: NUM_TRAIN under "train", NUM_HELDOUT under "heldout".

    Fewer where those of a count have run out, or are hardly ever drawn: no two have the same
    numbers and target.
    """
    sizes = {"train": NUM_TRAIN, "heldout": NUM_HELDOUT}
    splits = {name: [] for name in SPLITS}
    rng = random.Random(f"countdown {chosen}")
    made = {name: dict.fromkeys(chosen.counts, 0) for name in SPLITS}
    seen, idle = set(), 0
    for _ in range(_MOST_DRAWS):
        if idle == _PATIENCE or all(len(splits[name]) == size for name, size in sizes.items()):
            break
        numbers = [rng.randint(1, chosen.largest) for _ in range(rng.choice(chosen.counts))]
        split = split_of(numbers)
        problem = _problem(numbers, chosen, rng)
        ahead = made[split][len(numbers)] > min(made[split].values())
        if problem is None or ahead or len(splits[split]) == sizes[split]:
            continue
        key = (tuple(sorted(numbers)), problem.target)
        idle += 1
        if key not in seen:
            seen.add(key)
            splits[split].append(problem)
            made[split][len(numbers)] += 1
            idle = 0
    return splits


def _problem(numbers: list[int], chosen: Range, rng: random.Random) -> Problem | None:
    """A problem of these numbers, by a random expression; None where its value is no target."""
    tree = random_tree(rng.sample(numbers, len(numbers)), rng, chosen.signs)
    value = expressions.value_of_tree(tree)
    if value is None or value.denominator != 1 or not 1 <= value <= chosen.largest_target:
        return None
    return Problem(tuple(numbers), int(value), expressions.text_of(tree))


def random_tree(numbers: Sequence[int], rng: random.Random, signs: str = expressions.SIGNS) -> Tree:
    """A tree of the numbers in this order, its brackets and signs drawn at random."""
    if len(numbers) == 1:
        return numbers[0]
    cut = rng.randint(1, len(numbers) - 1)
    left, right = (random_tree(part, rng, signs) for part in (numbers[:cut], numbers[cut:]))
    return (rng.choice(signs), left, right)
