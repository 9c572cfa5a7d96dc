"""Small Hugging Face folders in the released layouts, written without `gdsd_jax.hf`."""

import json

import numpy as np
from safetensors.numpy import save_file

from gdsd_jax import models
from tests.reference import SCALING, tiny

LLADA = tiny(d_model=24, rope_theta=10_000.0)  # LLaDA and Dream derive head_dim from the width
DREAM = tiny(
    family="Dream",
    d_model=24,
    qkv_bias=True,
    shift=True,
    freeze_pad=True,
    rope_theta=1e6,
    norm_eps=1e-6,
)
QWEN3 = tiny(
    family="qwen3",
    qk_norm=True,
    tied=True,
    shift=True,
    attention="causal",
    rope_theta=1e6,
    norm_eps=1e-6,
)
LLAMA = tiny(
    family="llama",
    tied=True,
    shift=True,
    attention="causal",
    mask_id=None,
    rope_scaling=SCALING,
)
QWEN2 = tiny(
    family="qwen2",
    qkv_bias=True,
    shift=True,
    attention="causal",
    rope_theta=1e6,
    norm_eps=1e-6,
)
SDAR = tiny(family="sdar", qk_norm=True, rope_theta=1e6, norm_eps=1e-6)


def random_tensors(config, dtype=np.float32, seed=0) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint, no two alike, so that a swap of any two shows."""
    names, tensors = models.FAMILIES[config.family].TENSORS, {}
    for group, leaves in models.param_shapes(config).items():
        for path, leaf in walk(leaves, group):
            layered = group == "layers"
            for i in range(config.layers if layered else 1):
                shape = leaf.shape[1:] if layered else leaf.shape
                shape = shape[::-1] if path.endswith("kernel") else shape
                values = (
                    np.random.default_rng([seed, len(tensors)]).standard_normal(shape)
                    / shape[-1] ** 0.5
                )
                tensors[names[path].format(i=i)] = np.ascontiguousarray(values.astype(dtype))
    return tensors


def walk(tree, path):
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, value in tree.items():
        yield from walk(value, f"{path}.{name}")


def write(folder, config=LLADA, tensors=None, *, shards=1, entries=None, dtype=np.float32):
    """The folder's tensors; with shards the layers are interleaved over the files, last file first
    in the index."""
    tensors = random_tensors(config, dtype) if tensors is None else tensors
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(
        json.dumps(models.config_to_hf(config) if entries is None else entries)
    )
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return tensors
    places = {}
    for number in range(shards, 0, -1):
        names = list(tensors)[number - 1 :: shards]
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return tensors


def read(folder) -> dict[str, np.ndarray]:
    """Every tensor of a folder's files."""
    from safetensors.numpy import load_file

    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def write_tokenizer(folder, config=LLADA) -> None:
    """tokenizer.json of letters, as many as fit the model, and a chat template."""
    special = ["<|mask|>", "<|pad|>"]
    letters = [chr(ord("a") + i) for i in range(config.vocab_size - 2 - len(special))]
    vocab = {token: i for i, token in enumerate([*special, *letters])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for i, token in enumerate(special)
        ],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated"}
        | {"invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
    }
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": template, "add_bos_token": True})
    )
