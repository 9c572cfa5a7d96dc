"""GGUF files of llama.cpp: config.json's entries, the tokenizer's files, and tensors by the names
that Hugging Face gives them.

Quantised tensors are computed back to float32 by the library `gguf`, a few rows at a time.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md says what a file holds.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from gdsd_jax import gguf_tokenizer, json_files, paths
from gdsd_jax.gguf_tokenizer import required
from gdsd_jax.mistakes import one_line, prefixed
from gdsd_jax.types import LazyArray

BLOCK_BYTES = 4 << 20  # of float32 values, computed at a time
# Architectures that can be read, which are model types too. Llama's queries and keys lie there as
# its first release had them, for rotations of neighbouring numbers.
INTERLEAVED = {"llama": True, "qwen2": False, "qwen3": False}
TENSORS = {  # the file's names -> Hugging Face's
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENTRIES = {  # of config.json -> the key, behind the architecture's name
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
FREQUENCIES = "rope_freqs.weight"  # what Llama 3's scaling divides the frequencies by
# its parameters besides the factor, which the file does not hold
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# keys behind the architecture's name that change what is computed -> the values that do not
NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (1, 0),
    "residual_scale": (1, 0),
    "embedding_scale": (1, 0),
}


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An open file.

    Attributes:
      path: where it is.
      metadata: its keys and values.
      stored: its tensors, by its own names, as `gguf.ReaderTensor`s.
    """

    path: pathlib.Path
    metadata: Mapping[str, Any]
    stored: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return self.metadata["general.architecture"]


def open_file(path) -> GgufFile:
    """The file, of which only the header is read.

    Raises:
      ValueError: the library is missing, the file is none or cut short, or it holds another
        architecture than can be read; one line.
    """
    if paths.is_remote(path):
        raise ValueError(f"{path}: a GGUF file is read from a local disk: copy it there")
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a GGUF file")
    try:
        import gguf
    except ImportError:
        raise ValueError(f"{path}: to read GGUF files, `pip install gguf`") from None
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: plain(field.contents()) for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} is not a whole GGUF file ({one_line(error)}): download it again"
        ) from None
    if reader.byte_order != "I":  # quantised values would be read as others
        raise ValueError(
            f"{path}: its numbers have the byte order of other machines (big-endian): take the "
            "little-endian file of this model"
        )
    check_kind(metadata, path)
    return GgufFile(path, metadata, {one.name: one for one in reader.tensors})


def check_kind(metadata: Mapping[str, Any], path: pathlib.Path) -> None:
    """ValueError where a file is not a whole model of an architecture that can be read."""
    name = required(metadata, "general.architecture", path, str)
    if name not in INTERLEAVED:
        raise ValueError(
            f"{path}: architecture {name!r} is not supported, known: {', '.join(INTERLEAVED)}"
        )
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(
            f"{path}: general.type={kind!r} is not supported, only 'model': give the model's file"
        )
    with prefixed(f"{path}: ", "; download it again"):
        parts = json_files.entry(metadata, "split.count", "whole number", 1)
    if parts > 1:
        raise ValueError(
            f"{path} is one of {parts} parts: join them with llama.cpp's `llama-gguf-split --merge`"
        )


def plain(value: Any) -> Any:
    """A value of the metadata; a float32 as it was written, 1e-05 and not 9.999999747e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def write_companions(file: GgufFile, folder: pathlib.Path) -> None:
    """Writes generation_config.json and the tokenizer's files into a folder.

    Raises:
      ValueError: metadata is missing or cannot be expressed; one line.
    """
    entries = entries_of(file)
    ids = {key: entries[key] for key in ("bos_token_id", "eos_token_id") if key in entries}
    files = {
        "generation_config.json": json.dumps(ids, indent=2),
        **gguf_tokenizer.files_of(file.metadata, file.path),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def entries_of(file: GgufFile) -> dict[str, Any]:
    """The entries that config.json of the same model has."""
    name, metadata = file.architecture, file.metadata
    entries = {
        entry: required(metadata, f"{name}.{key}", file.path) for entry, key in ENTRIES.items()
    }
    with prefixed(f"{file.path}: ", "; download it again"):
        width, heads = (
            json_files.entry(entries, entry, "size")
            for entry in ("hidden_size", "num_attention_heads")
        )
        head_dim = json_files.entry(
            metadata, f"{name}.attention.key_length", "size", width // heads
        )
        theta = json_files.entry(metadata, f"{name}.rope.freq_base", "number", 10_000.0)
    refuse_other_computations(file, head_dim)
    if "token_embd.weight" not in file.stored:
        raise ValueError(f"{file.path}: token_embd.weight is missing among its tensors")
    with prefixed(f"{file.path}: ", "; download it again"):
        ends = [json_files.entry(metadata, key, "id") for key in ENDS if key in metadata]
    if not ends:
        raise ValueError(f"{file.path}: {ENDS[0]} is missing in its metadata")
    entries |= {
        "model_type": name,
        "vocab_size": shape_of(file.stored["token_embd.weight"])[0],
        "num_key_value_heads": metadata.get(f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rope_theta": theta,
        "rope_scaling": scaling_of(file, head_dim, theta),
        "tie_word_embeddings": "output.weight" not in file.stored,
        "eos_token_id": list(dict.fromkeys(ends)),
    }
    further = {
        "bos_token_id": "tokenizer.ggml.bos_token_id",
        "pad_token_id": "tokenizer.ggml.padding_token_id",
        "mask_token_id": "tokenizer.ggml.mask_token_id",
        "max_position_embeddings": f"{name}.context_length",
        "num_experts": f"{name}.expert_count",
    }
    with prefixed(f"{file.path}: ", "; download it again"):
        return entries | {
            entry: json_files.entry(metadata, key, "whole number")
            for entry, key in further.items()
            if key in metadata
        }


def spelling_of(file: GgufFile) -> Callable[[int], str | None]:
    """The spelling of ids by the file's tokenizer; None where it has no such id."""
    return dict(enumerate(required(file.metadata, "tokenizer.ggml.tokens", file.path, list))).get


def refuse_other_computations(file: GgufFile, head_dim: int) -> None:
    """ValueError naming the first key whose value the forward does not compute."""
    name, metadata = file.architecture, file.metadata
    neutral = NEUTRAL | {
        "rope.dimension_count": (head_dim,),
        "attention.scale": (head_dim**-0.5, 0),
    }
    longest = metadata.get(f"{name}.context_length")
    window = metadata.get(f"{name}.attention.sliding_window")
    if json_files.is_whole(longest) and json_files.is_whole(window) and window >= longest:
        neutral["attention.sliding_window"] = (window,)  # every text fits into it
    for key, values in neutral.items():
        value = metadata.get(f"{name}.{key}", values[0])
        is_number = isinstance(value, bool | int | float)
        if not is_number or not any(math.isclose(value, one, rel_tol=1e-5) for one in values):
            raise ValueError(
                f"{file.path}: {name}.{key}={value!r:.60} is not supported, only {values[0]!r}"
            )


def scaling_of(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    """The entry "rope_scaling": what the metadata names, or Llama 3's, told from its tensor.

    As in llama.cpp a kind that is not named is linear, and no factor, 0 or 1 scales nothing.

    Raises:
      ValueError: that tensor is not what the published parameters give.
    """
    name, metadata = file.architecture, file.metadata
    kind = metadata.get(f"{name}.rope.scaling.type", "linear")
    old = metadata.get(f"{name}.rope.scale_linear", 0)
    factor = metadata.get(f"{name}.rope.scaling.factor", old)
    if kind != "none" and not (kind == "linear" and factor in (0, 1)):
        return {"rope_type": kind, "factor": factor}
    if FREQUENCIES not in file.stored:
        return None
    stored = lazy_tensor(file.stored[FREQUENCIES]).read().astype(np.float64)
    if stored.shape != (head_dim // 2,):
        raise ValueError(
            f"{file.path}: {FREQUENCIES} has shape {list(stored.shape)}, "
            f"its metadata says {[head_dim // 2]}: download it again"
        )
    factor = float(stored.max())
    wavelength = 2 * np.pi * theta ** (np.arange(len(stored)) / len(stored))
    low, high, original = LLAMA3.values()
    kept = np.clip((original / wavelength - low) / (high - low), 0, 1)
    wanted = 1 / ((1 - kept) / factor + kept)
    if np.abs(stored / wanted - 1).max() > 1e-4:
        raise ValueError(
            f"{file.path}: {FREQUENCIES} is not Llama 3's scaling with {LLAMA3}: convert the "
            "Hugging Face folder of this model instead"
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def tensors_of(file: GgufFile) -> dict[str, LazyArray]:
    """Every tensor as a float32 `LazyArray`, [out, in], by its name in Hugging Face's folders.

    A name that is not known stays as it is.

    Raises:
      ValueError: a tensor's type that the library cannot compute back; one line.
    """
    entries, found = entries_of(file), {}
    head_dim = entries["head_dim"]
    for name, stored in file.stored.items():
        if name == FREQUENCIES:
            continue
        rows = None
        stem = name.rpartition(".")[0]
        if INTERLEAVED[file.architecture] and stem.endswith((".attn_q", ".attn_k")):
            rows = half_split(shape_of(stored)[0], head_dim)
        check_type(file, stored)
        found[hugging_face_name(name)] = lazy_tensor(stored, rows)
    return found


def hugging_face_name(name: str) -> str:
    """The name there of a tensor here."""
    stem, _, kind = name.rpartition(".")
    if stem in TENSORS:
        return f"{TENSORS[stem]}.{kind}"
    block, _, rest = stem.removeprefix("blk.").partition(".")
    if stem.startswith("blk.") and rest in LAYER_TENSORS:
        return f"model.layers.{block}.{LAYER_TENSORS[rest]}.{kind}"
    return name


def half_split(rows: int, head_dim: int) -> np.ndarray:
    """int [rows], which row here is each row there.

    Here a head's numbers that rotate together lie side by side, there half a head apart.
    """
    return np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def check_type(file: GgufFile, stored) -> None:
    """ValueError where the library cannot compute a tensor's values."""
    import gguf

    try:
        first = stored.data if len(stored.shape) == 1 else stored.data[:1]
        gguf.dequantize(np.asarray(first), stored.tensor_type)
    except NotImplementedError:
        raise ValueError(
            f"{file.path}: {stored.name} is stored as {stored.tensor_type.name}, which the gguf "
            "package does not read: take a file of another quantisation"
        ) from None


def shape_of(stored) -> tuple[int, ...]:
    """The shape of a tensor's values, which the file lists from the last axis on."""
    return tuple(int(size) for size in reversed(stored.shape))


def lazy_tensor(stored, order: np.ndarray | None = None) -> LazyArray:
    """The values of a tensor; with `order`, its rows in that order."""
    import gguf

    shape = shape_of(stored)
    step = max(1, BLOCK_BYTES // (4 * int(np.prod(shape[1:]))))

    def read(index=None) -> np.ndarray:
        rows, *columns = index or (slice(None),) * len(shape)
        rows = (np.arange(shape[0]) if order is None else order)[rows]
        if not columns:  # as a whole: of some types the data are bytes, several to a number
            whole = gguf.dequantize(np.asarray(stored.data), stored.tensor_type)
            return whole.astype(np.float32, copy=False)[rows]
        sizes = [len(range(*part.indices(size))) for part, size in zip(columns, shape[1:])]
        values = np.empty((len(rows), *sizes), np.float32)
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            block = gguf.dequantize(np.asarray(stored.data[chosen]), stored.tensor_type)
            values[first : first + step] = block.reshape(len(chosen), *shape[1:])[:, *columns]
        return values

    return LazyArray(shape, np.dtype(np.float32), read)
