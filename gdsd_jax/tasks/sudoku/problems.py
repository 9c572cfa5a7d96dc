"""Sudoku of 4 by 4: all solved grids, and puzzles that have exactly one solution.

A grid or puzzle is a text of 16 digits, row by row, 0 for an empty cell. Grids that differ only in
which digit is called which are one class: 288 grids, 12 classes of 24. Puzzles are split by the
class of their solution, so that no held-out grid is a training grid with its digits renamed.

Everything follows from fixed seeds through `random.Random`.
"""

from collections.abc import Iterator
import functools
import itertools
import random

import numpy as np

# Of the generated puzzles: raise it with any change to them. The folder they are kept in has it in
# its name.
VERSION = "1.0.0"
SPLITS = ("train", "heldout")
NUM_TRAIN = 4096
NUM_HELDOUT = 512
# One of the 4 classes whose 24 grids have 12 Latin squares of 2 by 2 inside, two of the 8 that
# have 4: both kinds are held out, and both are trained on.
HELDOUT_CLASSES = ("1234341221434321", "1234342121434312", "1234432131422413")
MOST_BLANKS = 10  # with more, almost no choice of cells leaves one solution

_CELLS = 16
_TRIES = 50  # choices of cells for each puzzle that is wanted


def _groups() -> list[tuple[int, ...]]:
    """The cells of each row, column and box."""
    rows = [tuple(range(4 * r, 4 * r + 4)) for r in range(4)]
    columns = [tuple(range(c, _CELLS, 4)) for c in range(4)]
    corners = (0, 2, 8, 10)
    boxes = [(corner, corner + 1, corner + 4, corner + 5) for corner in corners]
    return rows + columns + boxes


GROUPS = tuple(_groups())


def is_solved(grid: str) -> bool:
    """Whether every row, column and box of a text of 16 characters holds 1, 2, 3 and 4."""
    return all({grid[cell] for cell in group} == set("1234") for group in GROUPS)


@functools.cache
def grids() -> tuple[str, ...]:
    """All 288 solved grids, sorted."""
    lines = ["".join(line) for line in itertools.permutations("1234")]
    halves = [
        top + below
        for top, below in itertools.product(lines, repeat=2)
        if set(top[:2]) == set(below[2:])  # else the digits of a box would not be all four
    ]
    return tuple(filter(is_solved, map("".join, itertools.product(halves, repeat=2))))


@functools.cache
def _grids_288x16() -> np.ndarray:
    return digits_of("".join(grids())).reshape(-1, _CELLS)


def digits_of(text: str) -> np.ndarray:
    """A text of ASCII digits as uint8."""
    return np.frombuffer(text.encode(), np.uint8) - ord("0")


@functools.lru_cache(maxsize=8192)
def completions(puzzle: str) -> np.ndarray:
    """The solved grids that agree with a puzzle where it is not empty, uint8 [S, 16]."""
    given_16 = digits_of(puzzle)
    fits_288 = ((_grids_288x16() == given_16) | (given_16 == 0)).all(axis=1)
    return _grids_288x16()[fits_288]


def class_of(grid: str) -> str:
    """The grid with its digits renamed so that the first row is 1234: the name of its class."""
    return grid.translate(str.maketrans(grid[:4], "1234"))


def split_of(grid: str) -> str:
    """ "heldout" or "train", by the class of a solved grid."""
    return "heldout" if class_of(grid) in HELDOUT_CLASSES else "train"


def generate(blanks: tuple[int, int]) -> dict[str, list[tuple[str, str]]]:
    """(puzzle, solution) pairs by split: NUM_TRAIN under "train", NUM_HELDOUT under "heldout".

    Fewer where there are not as many: the puzzles of a split differ.

    Args:
      blanks: fewest and most empty cells; each number between is drawn as often, but with more
        cells empty fewer puzzles have one solution.
    """
    sizes = {"train": NUM_TRAIN, "heldout": NUM_HELDOUT}
    splits = {}
    for name, size in sizes.items():
        puzzles = _puzzles(name, blanks, tries=_TRIES * size)
        splits[name] = list(itertools.islice(puzzles, size))
    return splits


def _puzzles(split: str, blanks: tuple[int, int], tries: int) -> Iterator[tuple[str, str]]:
    """Distinct puzzles of one solution, with that solution."""
    rng = random.Random(f"{split} {blanks}")
    solutions = [grid for grid in grids() if split_of(grid) == split]
    seen = set()
    for _ in range(tries):
        solution = rng.choice(solutions)
        empty = rng.sample(range(_CELLS), rng.randint(*blanks))
        puzzle = "".join("0" if cell in empty else solution[cell] for cell in range(_CELLS))
        if puzzle not in seen and len(completions(puzzle)) == 1:
            seen.add(puzzle)
            yield puzzle, solution
