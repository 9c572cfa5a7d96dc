"""Settings from a config file's recipe and the user's overrides, and from a run's config.json."""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import typing
from typing import Any

from etils import epath
import ml_collections

from gdsd_jax import (
    extensions,
    json_files,
    metrics,
    mistakes,
    objectives,
    paths,
    version,
)
from gdsd_jax.curriculum import ThresholdRamp
from gdsd_jax.mistakes import Gathered
from gdsd_jax.settings import checks, keys, schema
from gdsd_jax.settings.schema import Settings
from gdsd_jax.settings.values import Text, entries_of, typed

FORMAT = 2  # of config.json
# entries of config.json that are no settings
NO_SETTINGS = (version.FORMAT, version.VERSION, metrics.FORMAT_KEY, "score", "command")
PLACES = ("init_from", "start_from", "data_file", "heldout_file")  # files and folders
# names, or .py files
CHOICES = (
    "task",
    "objective",
    "sft.objective",
    "model",
    "sampler.remasking",
    "sampler.alg",
    "sinks",
)
# config.json of format 1: keys that are gone, and what a file meant without saying so
DROPPED = ("opd.fill",)
UNSAID = {"heldout_share": 0.0}


def parse(config: ml_collections.ConfigDict) -> Settings:
    """The settings of what a config file's `get_config` returned.

    The defaults, then `config.recipe`, values in sections as in `Settings`, then
    `config.overrides`, texts "key=value" with dotted keys.

    Raises:
      mistakes.Mistakes: a line for each unknown key, with near ones; each value of another type
        than its field; each value that cannot work.
      ValueError: no such config.
    """
    wanted = (
        "a config file's get_config returns ConfigDict(recipe=..., overrides=...), see "
        "configs/common.py"
    )
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"{wanted}, not a {type(config).__name__}")
    if not {"recipe", "overrides"} <= set(config):
        raise ValueError(wanted)
    if not isinstance(config.recipe, ml_collections.ConfigDict):
        raise ValueError(f"recipe is a {type(config.recipe).__name__}: {wanted}")
    listed = config.overrides if isinstance(config.overrides, list | tuple) else [None]
    if not all(isinstance(text, str) and "=" in text for text in listed):
        raise ValueError(f"overrides is no list of texts key=value: {wanted}")
    overrides = dict(text.split("=", 1) for text in listed)
    texts = {key: Text(value) for key, value in overrides.items()}
    chosen = build(leaves_of(config.recipe.to_dict()) | texts)
    wrong = Gathered()
    # not among the checks of `Settings`: runs of earlier versions may have such settings
    for check in (check_threshold_ramp, check_length_ramp, check_supervised, check_softmax):
        with wrong.check():
            check(chosen)
    wrong.end()
    return chosen


def check_threshold_ramp(settings: Settings) -> None:
    """ValueError where a ramp of the threshold would change nothing."""
    ramp, unset = vars(settings.threshold_ramp), vars(ThresholdRamp())
    given = [f"threshold_ramp.{name}={ramp[name]}" for name in ramp if ramp[name] != unset[name]]
    if settings.threshold is None and given:
        raise ValueError(
            f"{given[0]} changes no threshold, for there is none: add threshold=0.9, say, from "
            "which the ramp goes, or leave it out"
        )
    if settings.threshold_ramp.end is None and given:
        raise ValueError(
            f"{given[0]} changes no threshold, for the ramp ends nowhere: add "
            "threshold_ramp.end=0.7, say, or leave it out"
        )


def check_length_ramp(settings: Settings) -> None:
    """ValueError where a ramp of the lengths would change nothing."""
    ramp = settings.length_ramp
    if ramp.start is None and ramp.rounds:
        raise ValueError(
            f"length_ramp.rounds={ramp.rounds} changes no length, for the ramp begins nowhere: add "
            "length_ramp.start=8, say, or set length_ramp.rounds=0"
        )
    if ramp.start is not None and not ramp.rounds:
        raise ValueError(
            f"length_ramp.start={ramp.start} changes no length, for the ramp takes no rounds: add "
            "length_ramp.rounds=20, say, or set length_ramp.start=none"
        )


def check_supervised(settings: Settings) -> None:
    """ValueError where the supervised phase's objective is not that of the model that learns in it;
    a user's own may be any."""
    taught = objectives.find(settings.objective).teacher
    wrong, right, who = (
        ("sft", "ar", "an autoregressive teacher") if taught else ("ar", "sft", "a denoiser")
    )
    if settings.sft.steps and settings.sft.objective == wrong:
        raise ValueError(
            f"sft.objective={wrong}: with objective={settings.objective} {who} learns in the "
            f"supervised phase: set sft.objective={right}"
        )


def check_softmax(settings: Settings) -> None:
    """ValueError where the rows of a slice are weighed together, whose number then matters, though
    slices are not apart."""
    over = getattr(settings.objective_config, "softmax_over", "group")
    if over == "batch" and settings.slices > 1 and not settings.slices_apart:
        raise ValueError(
            f"{settings.objective}.softmax_over=batch weighs the rows of a slice, so that slices="
            f"{settings.slices} would change the gradient: set slices=1, or slices_apart=true"
        )


def replace(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with some dotted keys changed; raises as `parse`."""
    return build(flat(settings) | dict(changes))


def section(flag: str, text: str, kind: type, defaults: Mapping[str, Any]) -> Any:
    """The dataclass `kind` with the fields `defaults`, and the entries of `key=value,key=value` in
    their place.

    Raises:
      ValueError: an unknown key, a value of another type than its field, or values that cannot
        work; one line begins with `flag`.
    """
    kinds, changes = typing.get_type_hints(kind), {}
    for entry in entries_of(text):
        key, equals, value = entry.partition("=")
        if not equals or key not in kinds:
            raise ValueError(f"{flag}: {entry!r} is no key=value with a key of {', '.join(kinds)}")
        changes[key] = Text(value)
    with mistakes.prefixed(f"{flag}: "):
        changes = {key: typed(key, value, kinds[key]) for key, value in changes.items()}
        return kind(**{**defaults, **changes})


def build(values: Mapping[str, Any]) -> Settings:
    """The settings of {dotted key: value or Text}; raises as `parse`."""
    wrong, sections = Gathered(), keys.fixed_sections()
    own: dict[str, type] = {}
    with wrong.check():
        own = keys.own_section(choice(values, "objective"))
    broken = set() if own else {"objective", "objective_config"}  # fields that are not right
    with wrong.check():
        sections |= keys.own_options(choice(values, "task"))
    sections |= own
    unknown = keys.unknown(values, sections, all_known=not wrong.lines)
    wrong.lines += unknown.values()
    known = {key: value for key, value in values.items() if key not in unknown}
    fields, unread = read_fields(known, sections, wrong)
    broken |= {"objective_config" if name in own else name for name in unread}
    for section, kind in sections.items():
        field = "objective_config" if section in own else section
        if section and field not in broken:  # of a part that is not whole nothing is said
            faults = len(wrong.lines)
            with wrong.check():
                fields[""][field] = made(kind, fields[section], f"{section}.")
            if len(wrong.lines) > faults:
                broken.add(field)
    if wrong.lines:
        with wrong.check():
            checks.check_all(schema.unchecked(fields[""]), broken)
    wrong.end()
    return made(Settings, fields[""], "")


def choice(values: Mapping[str, Any], key: str) -> str:
    """The objective or the task, a file by its absolute path."""
    return extensions.absolute(typed(key, values.get(key, getattr(Settings, key)), str))


def read_fields(
    values: Mapping[str, Any], sections: Mapping[str, type], wrong: Gathered
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """({section: {field: its value}}, the sections, and of settings without one the fields, with a
    value that cannot be read); keys of other sections are left out."""
    fields: dict[str, dict] = {section: {} for section in sections}
    hints = {section: keys.hints_of(kind) for section, kind in sections.items()}
    mappings, unread = keys.mappings_of(sections), set()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        faults = len(wrong.lines)
        with wrong.check():
            if section in mappings:  # an entry of a mapping, such as max_lengths.math
                entry = typed(key, value, mappings[section])
                section, _, field = section.rpartition(".")
                fields[section].setdefault(field, {})[name] = entry
            elif section in sections:
                fields[section][name] = whole_paths(key, typed(key, value, hints[section][name]))
        if len(wrong.lines) > faults:
            unread.add(section or name)
    return fields, unread


def whole_paths(key: str, value: Any) -> Any:
    """Files by absolute path, so that a run's config.json means the same from any folder."""
    if value is None:
        return None
    if key in PLACES:
        if not value:
            raise ValueError(f"{key}= is empty: give a path, or {key}=none")
        try:
            return str(paths.absolute(value))
        except ValueError as error:
            raise ValueError(f"{key}={error}") from None
    if key not in CHOICES:
        return value
    if isinstance(value, tuple):
        return tuple(map(extensions.absolute, value))
    return extensions.absolute(value)


def made(kind: type, fields: Mapping[str, Any], prefix: str):
    """The dataclass; what it refuses is named by the whole key."""
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in fields
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} has no default: set it")
    try:
        return kind(**fields)
    except ValueError as error:
        lines = mistakes.lines_of(error)
        own = kind.__dataclass_fields__
        raise mistakes.Mistakes(
            prefix + line if line.partition("=")[0] in own else line for line in lines
        ) from None


# ---------------------------------------------------------------- config.json


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested mappings."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_json(settings: Settings) -> dict[str, Any]:
    """The settings as nested dicts, the objective's own under its name."""
    own = keys.section_of(settings.objective)
    found = {
        own if name == "objective_config" else name: value for name, value in vars(settings).items()
    }
    for section, value in found.items():
        if dataclasses.is_dataclass(value):
            names = [key.name for key in keys.keys_of("", type(value), ())]
            found[section] = {name: getattr(value, name) for name in names}
    found["sampler"] = settings.sampler.given()
    if settings.options is None:
        del found["options"]
    return found


def leaves_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of nested mappings, such as a config.json; nothing that they do not
    say."""
    return dict(leaves(entries))


def from_json(entries: Mapping[str, Any]) -> Settings:
    """The settings that `to_json` was given; raises as `parse`."""
    return build(leaves_of(entries))


def flat(settings: Settings) -> dict[str, Any]:
    """{dotted key: value} of every setting, as the user writes the keys."""
    return leaves_of(to_json(settings))


def write(workdir, settings: Settings, score: str, command: str | None = None) -> None:
    """Writes WORKDIR/config.json, with what readers of the metrics want.

    Args:
      workdir: of the run.
      settings: of the run.
      score: the task's.
      command: that started the run; None = unknown.
    """
    entries = version.stamp(FORMAT) | {metrics.FORMAT_KEY: metrics.FORMAT}
    entries |= {**to_json(settings), "score": score}
    if command is not None:
        entries["command"] = command
    paths.write_whole(epath.Path(workdir) / "config.json", json.dumps(entries, indent=2).encode())


def read(workdir, of_model: bool = False) -> Settings:
    """The settings of a run, from its workdir's config.json, also one of an earlier version.

    Args:
      workdir: of the run.
      of_model: only what tells how to use its model: task, objective and sinks are left out, so
        that files of the user's own, which define them, need not be there.

    Raises:
      ValueError: no such file, or one that is not a run's settings; one line names it.
    """
    path = epath.Path(workdir) / "config.json"
    entries = json_files.read_object(path, "give the workdir of a run")
    if not json_files.is_whole(entries.get("format", 1)):
        raise ValueError(f"{path}: not the settings of a run; give the workdir of one")
    number = version.format_of(entries, FORMAT, str(path))
    version.format_of(entries, metrics.FORMAT, str(path), metrics.FORMAT_KEY)
    for name in NO_SETTINGS:
        entries.pop(name, None)
    values = leaves_of(entries)
    if number == 1:
        values = from_format_1(values)
    if of_model:
        values = without_files(values)
    with mistakes.prefixed(f"{path}: "):
        return build(values)


def without_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries without those that belong to a task, objective or sink from a file."""
    left_out = {"sinks"}
    for key in ("task", "objective", "sft.objective"):
        if extensions.is_file(str(values.get(key, ""))):
            left_out.add(key)
    sections = set()
    if "task" in left_out:
        sections.add("options")
    if "objective" in left_out:
        left_out.add("answers")  # "teacher" is for some objectives alone
        sections.add(keys.section_of(values["objective"]))
    return {
        key: value
        for key, value in values.items()
        if key not in left_out and key.partition(".")[0] not in sections
    }


def from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in today's names; it held the settings of every objective."""
    others = set(objectives.OBJECTIVES) - {values.get("objective"), "sft"}
    gone = {key for key in values if key in DROPPED or key.partition(".")[0] in others}
    return UNSAID | {key: value for key, value in values.items() if key not in gone}
