"""A run's settings, parsed once: defaults, a recipe's differences, the user's overrides."""

from gdsd_jax.settings.parsing import (
    FORMAT,
    build,
    flat,
    from_json,
    parse,
    read,
    replace,
    section,
    to_json,
    write,
)
from gdsd_jax.settings.schema import Settings, SftPhase

__all__ = [
    "FORMAT",
    "Settings",
    "SftPhase",
    "build",
    "flat",
    "from_json",
    "parse",
    "read",
    "replace",
    "section",
    "to_json",
    "write",
]
