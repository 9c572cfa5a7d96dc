"""Generated rows as array_record files, by tensorflow-datasets, which takes a second to import."""

from collections.abc import Mapping, Sequence
import contextlib
import io
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class RowsBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder whose splits are lists of rows, in the order they were made.

    A subclass has a VERSION, a DESCRIPTION and `row_features`.
    """

    VERSION = tfds.core.Version("0.0.0")
    DESCRIPTION = ""

    def __init__(self, *, splits: Mapping[str, Sequence[dict[str, Any]]], folder: Path):
        """`splits`: name -> rows; `folder`: where they are written."""
        self._rows_of_splits = splits
        super().__init__(data_dir=str(folder), file_format="array_record")

    def row_features(self) -> dict[str, Any]:
        """Name of a field -> its tfds feature."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(self.row_features()),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(rows) for name, rows in self._rows_of_splits.items()}

    def _generate_examples(self, rows: Sequence[dict[str, Any]]):
        yield from enumerate(rows)


def write(
    kind: type[RowsBuilder], splits: Mapping[str, Sequence[dict[str, Any]]], folder: Path
) -> None:
    """Writes the rows below `folder`, without a word.

    Raises:
      ValueError: a split without rows.
    """
    empty = [name for name, rows in splits.items() if not rows]
    if empty:
        raise ValueError(f"options: no problem can be generated for {empty[0]}: let them be wider")
    builder = kind(splits=splits, folder=folder)
    # The library announces a download and draws bars for what takes a second.
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
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
