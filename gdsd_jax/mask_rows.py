"""A mask token for a model that has none: a special token of its tokenizer, a free row of its
embedding, or a new one.

V rows of the vocabulary, D width.
"""

from collections.abc import Callable
import dataclasses
import itertools
import json

from etils import epath
import numpy as np

from gdsd_jax import chat_templates, hf_tokenizer, json_files, tokenizers
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
    taken = (*config.stop_ids, config.pad_id, known.bos_id)
    mask_id = known.id_of(token or MASK)
    if token is not None:
        check_token(folder, known, token)
    if mask_id is None:
        mask_id = next(i for i in itertools.count(known.vocab_size) if i not in taken)
    if mask_id in taken:
        raise ValueError(
            f"--mask_token={token or MASK}: it begins, ends or pads texts; name another token"
        )
    rows = config.vocab_size
    if mask_id >= rows:
        rows = tokenizers.bucket(mask_id + 1, MULTIPLE)
    return dataclasses.replace(config, mask_id=mask_id, vocab_size=rows)


def check_token(folder: epath.Path, known: tokenizers.HuggingFace, token: str) -> None:
    """ValueError where a text may hold a token of the tokenizer as something else than the mask."""
    mend = "name one of its special tokens, or leave it out"
    i = known.id_of(token)
    if i is None or known.encode(token) != [i]:
        raise ValueError(f"--mask_token={token}: no single token of the tokenizer; {mend}")
    if not known.is_special(i):
        raise ValueError(f"--mask_token={token}: texts use it, it is not special; {mend}")
    settings = hf_tokenizer.read_settings(folder)
    template = chat_templates.source_in(folder, settings) or ""
    roles = hf_tokenizer.special_tokens(settings).items()
    names = [name for name, text in roles if text == token and name != "mask_token"]
    if any(text in template for text in (token, *names)):
        raise ValueError(f"--mask_token={token}: the chat template writes it; name another token")


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


def added_with(folder: epath.Path, mask_id: int, entry: dict) -> dict[int, dict]:
    """{id: entry} of all added tokens of a folder's tokenizer and the mask, which is `entry`.

    All, since some files may know tokens that others do not, and the mask's id counts them; in the
    order of ids, by which the library counts.

    Raises:
      ValueError: the library gives the mask another id; one line.
    """
    tokenizer = hf_tokenizer.read_tokenizer(folder, hf_tokenizer.read_settings(folder))
    added = json.loads(tokenizer.to_str())["added_tokens"]
    added = {one.pop("id"): one for one in added} | {mask_id: entry}
    first = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    for i in range(first, mask_id):  # what only config.json knows; the library leaves no gap
        added.setdefault(i, entry | {"content": f"<|unused_{i}|>"})
    added = {i: added[i] for i in sorted(added)}
    tokenizer.add_special_tokens([one["content"] for i, one in added.items() if i >= first])
    if tokenizer.token_to_id(entry["content"]) != mask_id:
        raise ValueError(
            f"{entry['content']} cannot be added to the tokenizer at id {mask_id}: its ids have "
            "gaps; name one of its special tokens by --mask_token"
        )
    return added


def add_to_tokenizer(folder: epath.Path, mask_id: int, token: str | None = None) -> None:
    """Makes `mask_id` the mask token in every tokenizer file of a folder that lists added tokens.

    With `token` it is one of them already, and only its role is written. Raises as `added_with`.
    """
    name = token or MASK
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entry = {"content": name, **flags, "special": True}
    added = added_with(folder, mask_id, entry)

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
