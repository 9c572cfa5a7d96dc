"""The generated problems and their tokenizer, built once in a folder and read from there."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

from gdsd_jax import tokenizers
from gdsd_jax.tasks import generated
from gdsd_jax.tasks.coding import problems
from gdsd_jax.tasks.coding.answers import completion

VOCAB_SIZE = 768
# What every prompt and program is made of: a line of code is its operation and one piece more.
SYMBOLS = (
    "Write f(x) for ",
    " x: ",
    ", then ",
    ".",
    "```python\ndef f(x):",
    "\n    x = ",
    "\n    return ",
    "\n```",
)


def folder(data_dir: str | os.PathLike) -> Path:
    """Where `build` keeps problems and tokenizer.model; the name changes with their version."""
    return Path(data_dir) / f"coding-{problems.VERSION}-{VOCAB_SIZE}"


def build(data_dir: str | os.PathLike) -> None:
    """Writes the generated problems and their tokenizer, unless they are there.

    Deterministic; as `generated.build`.

    Raises:
      ValueError: a remote folder.
      OSError: the folder cannot be written.
    """
    generated.build(data_dir, folder(data_dir).name, _write)


def _write(folder: Path) -> None:
    """Fills an empty folder with the problems and their tokenizer."""
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    builder.write(folder)
    train = builder.read(folder, "train")
    texts = [record["question"] for record in train] + [completion(record) for record in train]
    model = folder / "tokenizer.model"
    tokenizers.train_sentencepiece(texts, model, VOCAB_SIZE, symbols=SYMBOLS)


def records(data_dir: str | os.PathLike, split: str) -> Sequence[dict[str, Any]]:
    """The generated records of a split, "train" or "heldout", after `build`; in memory.

    Raises:
      ValueError: they were not built, or the split is unknown.
    """
    if not folder(data_dir).is_dir():
        raise ValueError(f"no generated problems in {data_dir}: build them there first")
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    return builder.read(folder(data_dir), split)
