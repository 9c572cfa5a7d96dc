"""Which settings of a run may change when it goes on, what another run may take from it, and the
name of a run by its settings."""

from collections.abc import Mapping
import hashlib
import re
from typing import Any

from gdsd_jax.settings.parsing import flat
from gdsd_jax.settings.schema import Settings
from gdsd_jax.settings.values import entries_of

# Keys, or whole sections, that do not change what a run computes but for the rounding of another
# layout. A run that goes on may have others; `slices` only where they are not apart.
FREE = (
    *("name", "greeting", "require_init", "data_dir", "sandbox.mode", "sinks"),
    *("rounds", "eval_every", "checkpoint_every", "keep_checkpoints", "keep_best", "not_finite"),
    *("sft.log_every", "sft.checkpoint_every"),
    *("mesh", "slices", "rollout_weights", "rollout_parts", "attention_kernel", "remat"),
    *("sampler.compact", "prompt_multiple", "probe_tokens"),
)
# What the supervised phase depends on, besides the blocks of a block-causal model.
SUPERVISED = (
    *("seed", "model", "init_from", "task", "options", "data_file", "columns"),
    *("heldout_file", "heldout_share", "heldout_seed"),
    *("prompt", "enable_thinking", "prompt_length", "too_long", "sampler.gen_length"),
    *("sft", "sft_optimizer", "lora_rank", "lora_alpha", "lora_targets", "dtype", "param_dtype"),
)
NAME_LENGTH = 60  # of a run's name, at most

Changes = dict[str, tuple[Any, Any]]  # dotted key -> (old value, new value)


def is_under(key: str, names: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the names, or lies in one of the sections."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def resolved(settings: Settings) -> dict[str, Any]:
    """{dotted key: value}, with the sampler's own choices where none was given, and without ramps
    that change nothing, which only earlier versions took."""
    sampler, idle = settings.sampler, []
    if settings.threshold is None or settings.threshold_ramp.end is None:
        idle.append("threshold_ramp")
    if settings.length_ramp.start is None or not settings.length_ramp.rounds:
        idle.append("length_ramp")
    own = {f"sampler.{name}": getattr(sampler, name) for name in sampler.given()}
    found = flat(settings) | own
    return {key: value for key, value in found.items() if not is_under(key, tuple(idle))}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """The entries in which two mappings differ; None stands for an absent one."""
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def changes_of_run(old: Settings, new: Settings) -> tuple[Changes, Changes]:
    """(what a run that goes on may change, what it may not)."""
    found = differences(resolved(old), resolved(new))
    kept = ("slices",) if new.slices_apart else ()
    allowed = {
        key: values
        for key, values in found.items()
        if is_under(key, FREE) and not is_under(key, kept)
    }
    return allowed, {key: values for key, values in found.items() if key not in allowed}


def changes_of_start(old: Settings, new: Settings) -> Changes:
    """What keeps a run from beginning with the supervised phase of another one."""
    return differences(supervised_part(old), supervised_part(new))


def supervised_part(settings: Settings) -> dict[str, Any]:
    """The settings that a supervised phase depends on."""
    found = {
        key: value
        for key, value in resolved(settings).items()
        if is_under(key, SUPERVISED) and not is_under(key, FREE)
    }
    return found | {"sampler.block_length": settings.sampler.causal_block}


def listed(changes: Changes) -> str:
    """The changes in one line."""
    return ", ".join(f"{key}={old} is now {new}" for key, (old, new) in changes.items())


def run_name(name: str, argument: str) -> str:
    """The name of a run: its recipe's, and what the user's overrides say, in any order.

    Args:
      name: of the recipe.
      argument: the user's, such as "llada,lora_rank=0,rounds=9". Keys of `FREE` are left out, so
        that the same run has the same name when it goes on with others.

    A long name is cut, and one with signs that folders should not have is changed; both end with a
    hash of the overrides.
    """
    entries = [entry for entry in entries_of(argument) if "=" in entry]
    entries = sorted(entry for entry in entries if not is_under(entry.split("=")[0], FREE))
    if not entries:
        return name
    told = "-".join([name, *(entry.replace("=", "-", 1) for entry in entries)])
    plain = re.sub(r"[^\w.\-]+", "-", told, flags=re.ASCII)
    if plain == told and len(told) <= NAME_LENGTH:
        return told
    digest = hashlib.sha256("\n".join(entries).encode()).hexdigest()[:8]
    return f"{plain[: NAME_LENGTH - 9].rstrip('-')}-{digest}"
