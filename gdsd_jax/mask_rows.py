"""A mask token for a model that has none: an own token of its tokenizer, a free row of its
embedding, or a new one.

V rows of the vocabulary, D width.
"""

from collections.abc import Callable
import dataclasses
import json

from etils import epath
import numpy as np

from gdsd_jax import hf_tokenizer, json_files, tokenizers
from gdsd_jax.types import LazyArray, PyTree

MASK = "<|mask|>"
MULTIPLE = 128  # of an enlarged vocabulary, so that meshes divide it
BLOCK = 1024  # rows that are read at a time


def with_mask(folder: epath.Path, config, token: str | None = None):
    """The config with the mask's id, and with more rows where the mask needs one.

    Args:
      folder: with the tokenizer.
      config: a `ModelConfig`.
      token: of the tokenizer, which becomes the mask. None: `MASK`, by default the first id that
        the tokenizer leaves free.

    Raises:
      ValueError: no tokenizer, one that cannot be added to, or a `token` that cannot be the mask.
    """
    known = tokenizers.load(folder, pad_id=config.pad_id, mask_id=-1, stop_ids=config.stop_ids)
    if not isinstance(known, tokenizers.HuggingFace):
        raise ValueError(
            f"{folder}: a mask cannot be added to tokenizer.model: copy tokenizer.json there"
        )
    mask_id = known.id_of(token or MASK)
    if token is not None:
        if mask_id is None or known.encode(token) != [mask_id]:
            raise ValueError(
                f"--mask_token={token}: no single token of the tokenizer; name one of its special "
                "tokens, or leave it out"
            )
        if mask_id in (*config.stop_ids, config.pad_id, known.bos_id):
            raise ValueError(
                f"--mask_token={token}: it begins, ends or pads texts; name another token"
            )
    if mask_id is None:
        mask_id = known.vocab_size
    rows = config.vocab_size
    if mask_id >= rows:
        rows = tokenizers.bucket(mask_id + 1, MULTIPLE)
    return dataclasses.replace(config, mask_id=mask_id, vocab_size=rows)


def enlarge(params: PyTree, vocab_size: int) -> PyTree:
    """`LazyArray`s of a model with so many rows in the embedding, and in a head of its own.

    A new row is the mean of those that were there, in float32. So its score is their mean score,
    and the softmax gives it at most their mean probability.
    """
    leaves = {"embed": ("embedding", 0), "lm_head": ("kernel", 1)}
    grown = {
        name: params[name] | {leaf: longer(params[name][leaf], vocab_size, axis)}
        for name, (leaf, axis) in leaves.items()
        if name in params
    }
    return params | grown


def longer(leaf: LazyArray, size: int, axis: int) -> LazyArray:
    """The matrix with `size` rows (axis 0) or columns (axis 1), new ones the mean of the old."""
    old = leaf.shape[axis]
    if size == old:
        return leaf
    shape = tuple(size if i == axis else length for i, length in enumerate(leaf.shape))

    def along(rows: slice, others: slice) -> tuple[slice, slice]:
        return (rows, others) if axis == 0 else (others, rows)

    def read(index=None) -> np.ndarray:
        index = index or (slice(None), slice(None))
        rows = range(*index[axis].indices(size))
        others = index[1 - axis]
        kept = leaf.read(along(slice(rows.start, min(rows.stop, old)), others))
        added = max(0, rows.stop - max(rows.start, old))
        if not added:
            return kept
        mean = mean_along(leaf, others, along, axis).astype(leaf.dtype)
        new = np.repeat(np.expand_dims(mean, axis), added, axis=axis)
        return np.concatenate([kept, new], axis=axis)

    return LazyArray(shape, leaf.dtype, read)


def mean_along(leaf: LazyArray, others: slice, along: Callable, axis: int) -> np.ndarray:
    """float32, the mean over an axis at the places `others` of the other."""
    total, size = 0.0, leaf.shape[axis]
    for first in range(0, size, BLOCK):
        block = leaf.read(along(slice(first, min(first + BLOCK, size)), others))
        total = total + block.astype(np.float64).sum(axis=axis)
    return (total / size).astype(np.float32)


def add_to_tokenizer(folder: epath.Path, mask_id: int, token: str | None = None) -> None:
    """Makes `mask_id` the mask token in every tokenizer file of a folder that lists added tokens.

    With `token` it is one of them already, and only its role is written.
    """
    name = token or MASK
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entry = {"content": name, **flags, "special": True}
    # All added ones are listed: some files may know them that others do not, and the mask's id
    # counts them. They stand in the order of ids, by which the library counts.
    tokenizer = hf_tokenizer.read_tokenizer(folder, hf_tokenizer.read_settings(folder))
    added = json.loads(tokenizer.to_str())["added_tokens"]
    added = {one.pop("id"): one for one in added} | {mask_id: entry}
    added = {i: added[i] for i in sorted(added)}

    def rewrite(file: str, change) -> None:
        if (folder / file).exists():
            found = json_files.read_object(folder / file)
            change(found)
            text = json.dumps(found, indent=2, ensure_ascii=False)
            (folder / file).write_text(text, encoding="utf-8")

    def to_tokenizer(found: dict) -> None:
        found["added_tokens"] = [{"id": i, **one} for i, one in added.items()]

    def to_config(found: dict) -> None:
        found["mask_token"] = name
        if found.get("added_tokens_decoder") is not None:
            found["added_tokens_decoder"] |= {str(i): one for i, one in added.items()}

    def to_ids(found: dict) -> None:
        found.update({one["content"]: i for i, one in added.items()})

    if not (folder / "tokenizer.json").exists() and not (folder / "added_tokens.json").exists():
        (folder / "added_tokens.json").write_text("{}")
    rewrite("tokenizer.json", to_tokenizer)
    rewrite("added_tokens.json", to_ids)
    rewrite("tokenizer_config.json", to_config)
    rewrite("special_tokens_map.json", lambda found: found.update({"mask_token": name}))
