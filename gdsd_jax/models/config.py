"""What distinguishes one denoiser from another, as data."""

import dataclasses

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and conventions of a denoiser (specs/models.md sections 0 to 3).

    `shift` says that the raw state of column i - 1 scores token i (Dream, autoregressive models).
    """

    # the model_type of Hugging Face's config.json; names tensors and ids, nothing else follows from
    # it
    family: str
    vocab_size: int
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    mask_id: int | None  # None: the model has no mask token (an autoregressive teacher)
    pad_id: int
    stop_ids: tuple[int, ...]
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    # no gradient to the padding token's embedding, as released training code has it
    freeze_pad: bool = False
    shift: bool = False
    attention: str = "full"  # "full" or "causal"
    dtype: str = "float32"  # of activations; parameters keep their own
    remat: str = "none"  # "none", "dots" (keep matrix products) or "full" (keep layer inputs)
    lora_rank: int = 0  # 0 = no adapters
    lora_alpha: float = 0.0  # adapters are scaled by alpha / rank
    lora_targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ValueError(
                f"mask_id={self.mask_id} lies outside the vocabulary of {self.vocab_size}"
            )
        for key, allowed in (
            ("attention", ("full", "causal")),
            ("remat", ("none", "dots", "full")),
        ):
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"{key}={getattr(self, key)!r}: choose one of {', '.join(allowed)}"
                )
        unknown = set(self.lora_targets) - set(PROJECTIONS)
        if unknown:
            raise ValueError(
                f"lora_targets: unknown {sorted(unknown)}, choose from {', '.join(PROJECTIONS)}"
            )


def config_from_json(entries: dict) -> ModelConfig:
    """The config that `dataclasses.asdict` made these entries of, after their way through JSON."""
    return ModelConfig(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in entries.items()
        }
    )


def ids_of(
    entries: dict, *, mask: int, pad: int, ends: tuple[int, ...]
) -> tuple[int | None, int, tuple[int, ...]]:
    """(mask_id, pad_id, stop_ids) from config.json.

    The released models' ids `mask` and `pad` stand in for absent entries, and `ends` (of text, of a
    turn) stop an answer too, each only where the vocabulary has it.
    """

    def released(token):
        return token if token < entries["vocab_size"] else None

    end = entries["eos_token_id"]
    stop_ids = dict.fromkeys([*(end if isinstance(end, list) else [end]), *filter(released, ends)])
    mask_id, pad_id = (entries.get(f"{name}_token_id") for name in ("mask", "pad"))
    mask_id = released(mask) if mask_id is None else mask_id
    pad_id = released(pad) if pad_id is None else pad_id
    return mask_id, next(iter(stop_ids)) if pad_id is None else pad_id, tuple(stop_ids)
