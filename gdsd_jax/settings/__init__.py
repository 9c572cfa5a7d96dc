"""A run's settings, parsed once: defaults, a recipe's differences, the user's overrides."""

from gdsd_jax.settings.changes import Changes, changes_of_run, changes_of_start, listed, run_name
from gdsd_jax.settings.explaining import explained
from gdsd_jax.settings.parsing import (
    FORMAT,
    NO_SETTINGS,
    build,
    flat,
    from_json,
    leaves_of,
    parse,
    read,
    replace,
    section,
    to_json,
    write,
)
from gdsd_jax.settings.schema import Settings, SftPhase, unchecked
from gdsd_jax.settings.values import Text, entries_of

__all__ = [
    "FORMAT",
    "NO_SETTINGS",
    "Changes",
    "Settings",
    "SftPhase",
    "Text",
    "build",
    "changes_of_run",
    "changes_of_start",
    "entries_of",
    "explained",
    "flat",
    "from_json",
    "leaves_of",
    "listed",
    "parse",
    "read",
    "replace",
    "run_name",
    "section",
    "to_json",
    "unchecked",
    "write",
]
