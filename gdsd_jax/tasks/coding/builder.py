"""The generated problems as a tensorflow-datasets builder."""

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gdsd_jax.tasks import array_records
from gdsd_jax.tasks.coding import problems


class GeneratedCoding(array_records.RowsBuilder):
    """Splits "train" and "heldout" of `problems.generate`."""

    VERSION = tfds.core.Version(problems.VERSION)
    DESCRIPTION = "Generated Python function problems, split by specification."

    def row_features(self) -> dict[str, Any]:
        text = tfds.features.Text
        return {name: text() for name in ("spec", "question", "solution")} | {
            "tests": tfds.features.Sequence(text())
        }


def write(folder: Path) -> None:
    """Generates the problems and writes them below `folder`."""
    splits = {
        name: [dataclasses.asdict(row) | {"tests": list(row.tests)} for row in rows]
        for name, rows in problems.generate().items()
    }
    array_records.write(GeneratedCoding, splits, folder)


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """The records of a split in order; ValueError for an unknown split.

    misled: whether the supervised text is wrong there more often than right (`habitual_slips`).
    """
    names = ("question", "tests", "solution", "spec")  # evaluations hash records in this order
    return [
        {name: row[name] for name in names} | {"misled": is_misled(row["spec"])}
        for row in array_records.read(folder, split)
    ]


def is_misled(spec: str) -> bool:
    """Whether the writer's habits change a specification."""
    wanted = problems.parse(spec)
    return problems.habitual_slips(wanted) != wanted
