"""The generated problems as a tensorflow-datasets builder."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.countdown import problems


class GeneratedCountdown(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`."""

    VERSION = tfds.core.Version(problems.VERSION)
    DESCRIPTION = "Numbers that reach a target by arithmetic, split by the numbers."

    def row_features(self) -> dict[str, Any]:
        return {
            "numbers": tfds.features.Sequence(np.int64),
            "target": np.int64,
            "solution": tfds.features.Text(),
        }


def write(folder: Path, chosen: problems.Range) -> None:
    """Generates the problems and writes them below `folder`."""
    splits = {
        name: [dataclasses.asdict(problem) for problem in split]
        for name, split in problems.generate(chosen).items()
    }
    array_records.write(GeneratedCountdown, splits, folder)
