"""The generated puzzles as a tensorflow-datasets builder."""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.sudoku import problems


@dataclasses.dataclass(eq=False, kw_only=True)
class Blanks(tfds.core.BuilderConfig):
    """How many cells of a puzzle are empty, at least and at most."""

    least: int
    most: int


class GeneratedSudoku(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`."""

    VERSION = tfds.core.Version(problems.VERSION)
    description = "Sudoku of 4 by 4 with one solution, split by solved grid up to its digits' names"

    def row_features(self) -> dict[str, Any]:
        return {"puzzle": tfds.features.Text(), "solution": tfds.features.Text()}

    def rows_of_splits(self) -> Mapping[str, list[dict[str, str]]]:
        blanks = self.builder_config.least, self.builder_config.most
        return {
            name: [{"puzzle": puzzle, "solution": solution} for puzzle, solution in pairs]
            for name, pairs in problems.generate(blanks).items()
        }


def write(folder: Path, blanks: tuple[int, int]) -> None:
    """Generates the puzzles and writes them below `folder`, without a word."""
    least, most = blanks
    config = Blanks(name=f"blanks_{least}_{most}", least=least, most=most)
    builder = GeneratedSudoku(data_dir=str(folder), config=config, file_format="array_record")
    array_records.write(builder, folder)
