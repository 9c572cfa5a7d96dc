"""The generated puzzles as a tensorflow-datasets builder."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.sudoku import problems


class GeneratedSudoku(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`."""

    VERSION = tfds.core.Version(problems.VERSION)
    DESCRIPTION = "4 by 4 Sudoku with one solution, split by solved grid up to its digits' names."

    def row_features(self) -> dict[str, Any]:
        return {"puzzle": tfds.features.Text(), "solution": tfds.features.Text()}


def write(folder: Path, blanks: tuple[int, int]) -> None:
    """Generates the puzzles and writes them below `folder`."""
    splits = {
        name: [{"puzzle": puzzle, "solution": solution} for puzzle, solution in pairs]
        for name, pairs in problems.generate(blanks).items()
    }
    array_records.write(GeneratedSudoku, splits, folder)
