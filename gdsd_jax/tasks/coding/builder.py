"""The generated problems as a tensorflow-datasets builder, which takes a second to import."""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
from pathlib import Path
import shutil
from typing import Any

import tensorflow_datasets as tfds

from gdsd_jax.tasks.coding import problems


class GeneratedCoding(tfds.core.GeneratorBasedBuilder):
    """Splits "train" and "heldout" of `problems.generate`, written as array_record files."""

    VERSION = tfds.core.Version(problems.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Generated Python function problems, split by specification.",
            features=tfds.features.FeaturesDict(
                {
                    "spec": tfds.features.Text(),
                    "question": tfds.features.Text(),
                    "solution": tfds.features.Text(),
                    "tests": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            disable_shuffling=True,  # the records keep the order in which they were generated
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(rows) for name, rows in problems.generate().items()}

    def _generate_examples(
        self, rows: list[problems.Problem]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, problem in enumerate(rows):
            example = dataclasses.asdict(problem)
            yield number, example | {"tests": list(problem.tests)}


def write(folder: Path) -> None:
    """Generates the problems and writes them below `folder`, without a word."""
    builder = GeneratedCoding(data_dir=str(folder), file_format="array_record")
    # The library announces a download and draws bars for what takes a few seconds.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_dir=str(folder / "downloads"))
    shutil.rmtree(folder / "downloads", ignore_errors=True)  # made, though nothing is downloaded


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """The records of a split in order, as plain strings; ValueError for an unknown split.

    misled: whether the supervised text is wrong there more often than right (`habitual_slips`).
    """
    builder = tfds.builder_from_directory(str(next(folder.glob("generated_coding/*"))))
    if split not in builder.info.splits:
        raise ValueError(f"unknown split {split!r}: use one of {sorted(builder.info.splits)}")
    return [
        {
            "question": row["question"].decode(),
            "tests": [test.decode() for test in row["tests"]],
            "solution": row["solution"].decode(),
            "spec": (spec := row["spec"].decode()),
            "misled": problems.habitual_slips(problems.parse(spec)) != problems.parse(spec),
        }
        for row in builder.as_data_source(split=split)
    ]
