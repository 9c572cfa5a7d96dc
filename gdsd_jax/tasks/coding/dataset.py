"""The generated problems and their tokenizer, built once in a folder and read from there."""

from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import shutil
from typing import Any
import uuid

from gdsd_jax import tokenizers
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

    Deterministic. The folder appears only when complete: a killed build leaves nothing that looks
    finished, and several processes may build at once.

    Raises:
      ValueError: a remote folder.
      OSError: the folder cannot be written.
    """
    if "://" in str(data_dir):
        raise ValueError(
            f"generated problems are kept in a local folder, not {data_dir}: change data_dir"
        )
    target = folder(data_dir)
    if target.is_dir():
        return
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        builder.write(partial)
        train = builder.read(partial, "train")
        texts = [record["question"] for record in train] + [completion(record) for record in train]
        model = partial / "tokenizer.model"
        tokenizers.train_sentencepiece(texts, model, VOCAB_SIZE, symbols=SYMBOLS)
        with contextlib.suppress(OSError):  # another process was first, with the same content
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not target.is_dir():
        raise OSError(f"could not move the generated problems to {target}: is the folder writable?")


def records(data_dir: str | os.PathLike, split: str) -> Sequence[dict[str, Any]]:
    """The generated records of a split, "train" or "heldout", after `build`; in memory.

    Raises:
      ValueError: they were not built, or the split is unknown.
    """
    if not folder(data_dir).is_dir():
        raise ValueError(f"no generated problems in {data_dir}: build them there first")
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    return builder.read(folder(data_dir), split)
