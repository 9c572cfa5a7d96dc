"""What the experiments share: the form of their argument, and of what `get_config` returns."""

from collections.abc import Iterable
import re

from ml_collections import ConfigDict


def parse(arg: str | None, models: Iterable[str]) -> tuple[str, dict[str, str]]:
    """(model, {key: text}) of an argument such as "llada,lora_rank=0,seed=1".

    The model is the first entry without "=", by default the first of `models`.

    Raises:
      ValueError: an unknown model, or an entry that is no `key=value`.
    """
    known = list(models)
    entries = re.split(r",(?![^()\[\]{}]*[)\]}])", arg or "")  # commas outside brackets
    entries = [entry for entry in entries if entry]
    model = entries.pop(0) if entries and "=" not in entries[0] else known[0]
    if model not in known:
        raise ValueError(f"unknown model {model!r}, this config knows: {', '.join(known)}")
    for entry in entries:
        if "=" not in entry:
            raise ValueError(f"override {entry!r} is not of the form key=value")
    return model, dict(entry.split("=", 1) for entry in entries)


def config(recipe: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """What the launch scripts parse: `recipe`, the settings that differ from the defaults of
    gdsd_jax/settings/schema.py, and `overrides`, texts "key=value".

    Raises:
      ValueError: a recipe other than "mended", or `fast`, where nobody took that choice out of the
        overrides.
    """
    name = overrides.get("gdsd.recipe", "mended")
    if name != "mended":
        raise ValueError(
            f"gdsd.recipe={name}: the releases have no values for this model on this task; take "
            "mended, or leave it out"
        )
    if "fast" in overrides:
        raise ValueError(
            f"fast={overrides['fast']}: is of the full-size recipes of reinforcement learning; "
            "leave it out"
        )
    others = {key: text for key, text in overrides.items() if key != "gdsd.recipe"}
    texts = tuple(f"{key}={text}" for key, text in others.items())
    return ConfigDict({"recipe": recipe, "overrides": texts}).lock()
