"""Makes the folders beside it: tiny random models, and what others' code computes from them.

  pip install torch transformers peft
  python tests/golden/make.py

Each folder of a model has config.json and model.safetensors as transformers saves them, inputs.npz
and outputs.npz. The logits are computed in float64 and not shifted: row i scores token i + 1. For
`blockcausal4` and `blockcausal64` transformers is given the mask of a block-causal student.
adapters/NAME are adapters as PEFT saves them; `NAME_logits` are the adapted model's. llada holds
LLaDA's names alone, around which PEFT builds and merges its adapters; no forward runs there.
"""

import json
import pathlib
import shutil

import numpy as np
import peft
from safetensors.torch import save_file
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
SIZES = dict(
    vocab_size=40,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=3,
    intermediate_size=36,
    max_position_embeddings=512,
    bos_token_id=3,
    eos_token_id=2,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
MODELS = {  # folder -> config
    "llama": transformers.LlamaConfig(
        **SIZES, head_dim=4, tie_word_embeddings=False, rms_norm_eps=1e-5
    ),
    # of its four frequencies one is kept, one is between, two are slowed
    "llama3": transformers.LlamaConfig(
        **SIZES, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3
    ),
    "qwen2": transformers.Qwen2Config(
        **SIZES,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3": transformers.Qwen3Config(
        **SIZES,
        head_dim=8,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
}
ADAPTERS = {  # name -> what PEFT is asked for
    "all": dict(
        r=3,
        lora_alpha=6,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
    ),
    "rslora": dict(r=4, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"]),
}
ROWS, COLUMNS = 3, 14


def randomize(model, seed: int) -> None:
    """Every parameter random, also norms and biases: zeros and ones would hide one that is
    missing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=generator) / leaf.shape[-1] ** 0.5
            leaf.copy_(1 + 0.3 * values if "norm" in name else values)


def inputs_of(vocab_size: int) -> dict:
    """Rows without padding and with padding on either side."""
    rng = np.random.default_rng(0)
    found = {"full_input_ids": rng.integers(4, vocab_size, (ROWS, COLUMNS))}
    for side in ("left", "right"):
        mask = np.ones((ROWS, COLUMNS), int)
        for row in range(ROWS):
            columns = slice(0, 3 * row) if side == "left" else slice(COLUMNS - 3 * row, COLUMNS)
            mask[row, columns] = 0
        found[f"{side}pad_input_ids"] = rng.integers(4, vocab_size, (ROWS, COLUMNS))
        found[f"{side}pad_attention_mask"] = mask
        # far into the text, where slow rotations have turned too
        found[f"{side}pad_position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0) * 23
    for block in (4, 64):
        number = np.arange(COLUMNS) // block
        allowed = number[None, :] <= number[:, None]
        found[f"blockcausal{block}_input_ids"] = rng.integers(4, vocab_size, (ROWS, COLUMNS))
        found[f"blockcausal{block}_attention_mask"] = np.tile(allowed, (ROWS, 1, 1))
    return {
        name: values if values.dtype == bool else values.astype(np.int32)
        for name, values in found.items()
    }


def logits_of(model, tokens, mask=None, positions=None):
    """[B, L, V] in float64; a mask [B, L, L] says who looks at whom."""
    if mask is not None:
        mask = torch.tensor(mask).bool()
        mask = mask[:, None] if mask.ndim == 3 else mask.long()
    positions = None if positions is None else torch.tensor(positions).long()
    with torch.no_grad():
        tokens = torch.tensor(tokens).long()
        return model(tokens, attention_mask=mask, position_ids=positions).logits.numpy()


def outputs_of(model, inputs: dict) -> dict:
    """The logits of all inputs, and which columns are to be compared."""
    found = {"full_logits": logits_of(model, inputs["full_input_ids"])}
    for name in ("leftpad", "rightpad", "blockcausal4", "blockcausal64"):
        tokens, mask = inputs[f"{name}_input_ids"], inputs[f"{name}_attention_mask"]
        found[f"{name}_logits"] = logits_of(model, tokens, mask)
        found[f"{name}_compare_mask"] = np.ones_like(tokens, bool) if mask.ndim == 3 else mask > 0
        if f"{name}_position_ids" in inputs:
            positions = inputs[f"{name}_position_ids"]
            found[f"{name}_logits_posids"] = logits_of(model, tokens, mask, positions)
    return found


def adapt(model, folder: pathlib.Path, wanted: dict, seed: int):
    """The model with random adapters, which are saved."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(**wanted))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, leaf in adapted.named_parameters():
            if "lora_" in name:
                leaf.copy_(torch.randn(leaf.shape, generator=generator) / leaf.shape[-1] ** 0.5)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    entries = json.loads((folder / "adapter_config.json").read_text())
    entries["target_modules"] = sorted(entries["target_modules"])  # PEFT has a set
    (folder / "adapter_config.json").write_text(json.dumps(entries, indent=2))
    return adapted


def write_model(name: str, seed: int) -> None:
    folder, config = HERE / name, MODELS[name]
    shutil.rmtree(folder, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    randomize(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    model, inputs = model.double().eval(), inputs_of(config.vocab_size)
    outputs = outputs_of(model, inputs)
    if name == "llama":
        for number, (adapter, wanted) in enumerate(ADAPTERS.items()):
            # PEFT writes adapters in the base's precision
            adapted = adapt(model.float(), folder / "adapters" / adapter, wanted, number)
            logits = logits_of(adapted.double(), inputs["full_input_ids"])
            outputs[f"{adapter}_logits"] = logits
            model = adapted.unload()
    np.savez_compressed(folder / "inputs.npz", **inputs)
    smaller = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values
        for name, values in outputs.items()
    }
    np.savez_compressed(folder / "outputs.npz", **smaller)


class Block(torch.nn.Module):
    """A layer of LLaDA, by name."""

    def __init__(self, width: int, ff: int):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            setattr(self, name, torch.nn.Linear(width, width, bias=False))
        self.ff_proj = torch.nn.Linear(width, ff, bias=False)
        self.up_proj = torch.nn.Linear(width, ff, bias=False)
        self.ff_out = torch.nn.Linear(ff, width, bias=False)
        self.attn_norm, self.ff_norm = (torch.nn.RMSNorm(width) for _ in range(2))


def write_llada() -> None:
    """ESPO's targets: the last name, ff_out, is that of the head too, so PEFT adapts it as well."""
    width, ff, vocab = 16, 24, 32
    config = {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "vocab_size": vocab,
        "embedding_size": vocab,
        "d_model": width,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": ff,
        "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "mask_token_id": 1,
        "pad_token_id": 0,
        "eos_token_id": 0,
    }
    parts = {
        "wte": torch.nn.Embedding(vocab, width),
        "blocks": torch.nn.ModuleList(Block(width, ff) for _ in range(config["n_layers"])),
        "ln_f": torch.nn.RMSNorm(width),
        "ff_out": torch.nn.Linear(width, vocab, bias=False),
    }
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"transformer": None})})
    model["model"]["transformer"] = torch.nn.ModuleDict(parts)
    randomize(model, 7)
    folder = HERE / "llada"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    targets = ["q_proj", "k_proj", "v_proj", "up_proj", "ff_proj", "ff_out", "attn_out"]
    wanted = dict(r=2, lora_alpha=3, target_modules=targets)
    adapted = adapt(model, folder / "adapters" / "espo", wanted, 3)
    save_file(
        {name: leaf.contiguous() for name, leaf in adapted.merge_and_unload().state_dict().items()},
        folder / "merged.safetensors",
    )


if __name__ == "__main__":
    for number, name in enumerate(MODELS):
        write_model(name, number)
    write_llada()
