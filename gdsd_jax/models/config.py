"""What distinguishes one denoiser from another, as data."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gdsd_jax import json_files
from gdsd_jax.mistakes import check_choices

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
MOST_LAYERS = 10_000  # far more than any model has; each has names of its own
LARGEST_BASE = 1e30  # of rotations, whose frequencies are float32


KINDS = (  # of the fields, as entries of JSON
    dict.fromkeys(("family", "attention", "dtype", "remat"), "text")
    | dict.fromkeys(("vocab_size", "d_model", "layers", "heads", "kv_heads", "head_dim"), "size")
    | dict.fromkeys(("d_ff", "tokenizer_size", "block_length"), "size")
    | {"mask_id": "id", "pad_id": "id"}
    | {"stop_ids": "id list", "lora_rank": "whole number", "lora_targets": "texts"}
    | dict.fromkeys(("rope_theta", "norm_eps", "lora_alpha"), "number")
    | {"rope_scaling": "numbers"}
    | dict.fromkeys(("qkv_bias", "qk_norm", "tied", "freeze_pad", "shift"), "flag")
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and conventions of a denoiser.

    Attributes:
      family: the model_type of Hugging Face's config.json. It names tensors and ids, nothing else
        follows from it.
      vocab_size: rows of the embedding, tokens.
      d_model: width of the states between layers.
      layers: how many there are.
      heads: query heads of a layer.
      kv_heads: key and value heads of a layer, a divisor of `heads`.
      head_dim: width of a head; heads x head_dim need not be d_model.
      d_ff: width of the feed-forward part.
      mask_id: the mask token; None: there is none, the model is autoregressive.
      pad_id: the padding token.
      stop_ids: tokens that end a completion.
      tokenizer_size: tokens that the tokenizer knows, the first ones. Samplers commit no other.
        None: every row may be committed.
      rope_theta: base of the rotary frequencies.
      rope_scaling: of Llama 3's scaled frequencies, (factor, low_freq_factor, high_freq_factor,
        original_max_position_embeddings); None: they are not scaled.
      norm_eps: added to the mean square in each norm.
      qkv_bias: whether q, k and v have biases.
      qk_norm: whether queries and keys pass a norm of their own.
      tied: whether the head is the embedding.
      freeze_pad: no gradient to the padding token's embedding, as in Dream's released training.
      shift: the raw state of column i - 1 scores token i (Dream, autoregressive models).
      attention: "full" or "causal".
      block_length: tokens of a block that the weights of a block-causal model have learnt with.
        None: not known, and those of its type are taken.
      dtype: of activations; parameters have their own.
      remat: what a backward pass computes again: "none", "dots" (all but matrix products) or
        "full" (all but the layers' inputs).
      lora_rank: rank of the adapters; 0 = no adapters.
      lora_alpha: adapters are scaled by alpha / rank.
      lora_targets: the projections that have adapters.
    """

    family: str
    vocab_size: int
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    mask_id: int | None
    pad_id: int
    stop_ids: tuple[int, ...]
    tokenizer_size: int | None = None
    rope_theta: float = 500_000.0
    rope_scaling: tuple[float, float, float, float] | None = None
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    freeze_pad: bool = False
    shift: bool = False
    attention: str = "full"
    block_length: int | None = None
    dtype: str = "float32"
    remat: str = "none"
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_targets: tuple[str, ...] = PROJECTIONS

    @property
    def autoregressive(self) -> bool:
        """Whether the model writes one token after another; such a model needs no mask."""
        return self.attention == "causal"

    def __post_init__(self):
        for key in ("vocab_size", "d_model", "layers", "heads", "kv_heads", "head_dim", "d_ff"):
            if not 1 <= getattr(self, key) < json_files.LARGEST:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1, below 2**31")
        if self.block_length is not None and not 1 <= self.block_length < json_files.LARGEST:
            raise ValueError(f"block_length={self.block_length} must be at least 1, below 2**31")
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers={self.layers} must be at most {MOST_LAYERS}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even, its halves are rotated")
        if not (0 < self.rope_theta < LARGEST_BASE and 0 <= self.norm_eps <= 1):
            raise ValueError(
                f"rope_theta={self.rope_theta} and norm_eps={self.norm_eps}: give a base above 0, "
                f"below {LARGEST_BASE:g}, and a number from 0 to 1"
            )
        if self.rope_scaling is not None and not _is_scaling(*self.rope_scaling):
            raise ValueError(
                f"rope_scaling={self.rope_scaling}: give a factor from 1 on, a low_freq_factor "
                "above 0 and below high_freq_factor, and a length above 0"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ValueError(
                f"mask_id={self.mask_id} lies outside the vocabulary of {self.vocab_size}"
            )
        check_choices(self, attention=("full", "causal"), remat=("none", "dots", "full"))
        unknown = set(self.lora_targets) - set(PROJECTIONS)
        if unknown:
            raise ValueError(
                f"lora_targets: unknown {sorted(unknown)}, choose from {', '.join(PROJECTIONS)}"
            )


def _is_scaling(*values: float) -> bool:
    """Whether these scale frequencies as Llama 3 does."""
    if len(values) != 4 or not all(0 < value < LARGEST_BASE for value in values):
        return False
    factor, low, high, _ = values
    return factor >= 1 and low < high


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The entries of a config, for JSON.

    A length of blocks that is not known is left out: earlier versions refuse entries that they do
    not know.
    """
    entries = dataclasses.asdict(config)
    if config.block_length is None:
        del entries["block_length"]
    return entries


def config_from_json(entries: Mapping[str, Any]) -> ModelConfig:
    """The config that `config_to_json` made these entries of, after their way through JSON.

    Raises:
      ValueError: an entry that is missing, unknown or of another type, or a config that cannot be;
        one line.
    """
    fields = {}
    for field in dataclasses.fields(ModelConfig):
        default = None if field.name == "mask_id" else field.default
        if default is dataclasses.MISSING:
            default = json_files.REQUIRED
        value = json_files.entry(entries, field.name, KINDS[field.name], default)
        fields[field.name] = tuple(value) if isinstance(value, list) else value
    unknown = sorted(set(entries) - set(fields))
    if unknown:
        raise ValueError(f"entry {unknown[0]!r} is unknown; a later version may know it")
    return ModelConfig(**fields)


def ids_of(
    entries: Mapping[str, Any],
    *,
    mask: int | None = None,
    pad: int | None = None,
    ends: tuple[int, ...] = (),
) -> tuple[int | None, int, tuple[int, ...]]:
    """(mask_id, pad_id, stop_ids) from config.json.

    The released models' ids `mask` and `pad` stand in for absent entries. `ends` (of text, of a
    turn) stop an answer too. Each counts only where the vocabulary has it. Without a padding token
    the first that stops pads.
    """
    size = json_files.entry(entries, "vocab_size", "size")

    def released(token):
        return token if token is not None and token < size else None

    end = json_files.entry(entries, "eos_token_id", "ids")
    given_ends = end if isinstance(end, list) else [end]
    stop_ids = dict.fromkeys([*given_ends, *filter(released, ends)])
    mask_id = json_files.entry(entries, "mask_token_id", "id", None)
    pad_id = json_files.entry(entries, "pad_token_id", "id", None)
    if mask_id is None:
        mask_id = released(mask)
    if pad_id is None:
        pad_id = released(pad)
    if pad_id is None:
        pad_id = next(iter(stop_ids))
    return mask_id, pad_id, tuple(stop_ids)


def ends_entry(config: ModelConfig) -> int | list[int]:
    """The entry "eos_token_id": all ids that stop, a list where they are several."""
    return config.stop_ids[0] if len(config.stop_ids) == 1 else list(config.stop_ids)
