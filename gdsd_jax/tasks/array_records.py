"""Generated rows as array_record files, by tensorflow-datasets, which takes a second to import."""

from collections.abc import Iterable, Mapping
import contextlib
import io
from pathlib import Path
import shutil
from typing import Any

import tensorflow_datasets as tfds


class RowsBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder whose splits are lists of rows, in the order they were made.

    A subclass has a VERSION, a `description`, `row_features` (name -> tfds feature) and
    `rows_of_splits`.
    """

    VERSION = tfds.core.Version("0.0.0")
    description = ""

    def row_features(self) -> dict[str, Any]:
        """Name of a field -> its tfds feature."""
        raise NotImplementedError

    def rows_of_splits(self) -> Mapping[str, Iterable[dict[str, Any]]]:
        """Name of a split -> its rows."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(self.row_features()),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        splits = self.rows_of_splits()
        return {name: self._generate_examples(rows) for name, rows in splits.items()}

    def _generate_examples(self, rows: Iterable[dict[str, Any]]):
        yield from enumerate(rows)


def write(builder: RowsBuilder, folder: Path) -> None:
    """Generates the rows and writes them below `folder`, where the builder keeps its data."""
    # The library announces a download and draws bars for what takes a few seconds.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_dir=str(folder / "downloads"))
    shutil.rmtree(folder / "downloads", ignore_errors=True)  # made, though nothing is downloaded


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split in order, with plain strings, ints and lists.

    Args:
      folder: below which exactly one builder has written.
      split: such as "train".

    Raises:
      ValueError: an unknown split.
    """
    info = next(folder.rglob("dataset_info.json"))
    builder = tfds.builder_from_directory(str(info.parent))
    if split not in builder.info.splits:
        raise ValueError(f"unknown split {split!r}: use one of {sorted(builder.info.splits)}")
    rows = builder.as_data_source(split=split)
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """A value of a tfds row as Python has it."""
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if hasattr(value, "tolist") else value
