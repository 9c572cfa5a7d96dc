"""The generated problems as a tensorflow-datasets builder."""

import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.instructions import problems


class GeneratedInstructions(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`; the constraints of a row as JSON."""

    VERSION = tfds.core.Version(problems.VERSION)
    DESCRIPTION = "Short texts under constraints, split by topic and constraints."

    def row_features(self) -> dict[str, Any]:
        return {name: tfds.features.Text() for name in ("prompt", "topic", "constraints")}


def write(folder: Path, chosen: problems.Range) -> None:
    """Generates the problems and writes them below `folder`."""
    splits = {
        name: [record | {"constraints": json.dumps(record["constraints"])} for record in records]
        for name, records in problems.generate(chosen).items()
    }
    array_records.write(GeneratedInstructions, splits, folder)
