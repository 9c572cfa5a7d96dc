"""The generated problems as a tensorflow-datasets builder."""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.countdown import problems


@dataclasses.dataclass(eq=False, kw_only=True)
class Chosen(tfds.core.BuilderConfig):
    """Which problems are generated."""

    range: problems.Range


class GeneratedCountdown(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`."""

    VERSION = tfds.core.Version(problems.VERSION)
    description = "Numbers that reach a target by arithmetic, split by the numbers."

    def row_features(self) -> dict[str, Any]:
        return {
            "numbers": tfds.features.Sequence(np.int64),
            "target": np.int64,
            "solution": tfds.features.Text(),
        }

    def rows_of_splits(self) -> Mapping[str, list[dict[str, Any]]]:
        return {
            name: [dataclasses.asdict(problem) for problem in split]
            for name, split in problems.generate(self.builder_config.range).items()
        }


def write(folder: Path, chosen: problems.Range) -> None:
    """Generates the problems and writes them below `folder`, without a word."""
    config = Chosen(name="chosen", range=chosen)
    builder = GeneratedCountdown(data_dir=str(folder), config=config, file_format="array_record")
    array_records.write(builder, folder)
