"""Settings from a config file's recipe and the user's overrides, and from a run's config.json."""

from collections.abc import Iterator, Mapping
import dataclasses
import difflib
import inspect
import json
import re
import typing
from typing import Any

from etils import epath
import ml_collections

from gdsd_jax import (
    extensions,
    json_files,
    metrics,
    objectives,
    paths,
    row_schema,
    tasks,
    version,
)
from gdsd_jax.curriculum import ThresholdRamp
from gdsd_jax.settings.schema import Settings
from gdsd_jax.settings.values import Text, entries_of, typed

FORMAT = 2  # of config.json
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
# config.json of earlier versions: keys that have another name now, keys that are gone, and what a
# file meant without saying so
RENAMED: dict[str, str] = {}
DROPPED = ("opd.fill",)
UNSAID = {"heldout_share": 0.0}


def parse(config: ml_collections.ConfigDict) -> Settings:
    """The settings of what a config file's `get_config` returned.

    The defaults, then `config.recipe`, values in sections as in `Settings`, then
    `config.overrides`, texts "key=value" with dotted keys.

    Raises:
      ValueError: unknown keys, all of them with near ones; a value of another type than its field;
        values that cannot work. One line.
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
    chosen = build(dict(leaves(config.recipe.to_dict())) | texts)
    check_ramp(chosen)
    return chosen


def check_ramp(settings: Settings) -> None:
    """ValueError where a ramp of the threshold would change nothing, since there is none. Runs of
    earlier versions may have such settings."""
    ramp, unset = vars(settings.threshold_ramp), vars(ThresholdRamp())
    given = [f"threshold_ramp.{name}={ramp[name]}" for name in ramp if ramp[name] != unset[name]]
    if settings.threshold is None and given:
        raise ValueError(
            f"{given[0]} changes no threshold, for there is none: add threshold=0.9, say, from "
            "which the ramp goes, or leave it out"
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
    try:
        changes = {key: typed(key, value, kinds[key]) for key, value in changes.items()}
        return kind(**{**defaults, **changes})
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def build(values: Mapping[str, Any]) -> Settings:
    """The settings of {dotted key: value or Text}; raises as `parse`."""
    objective, task = (
        extensions.absolute(typed(key, values.get(key, getattr(Settings, key)), str))
        for key in ("objective", "task")
    )
    own = section_of(objective)
    sections = sections_of(own, objective, task)
    refuse_unknown(values, sections)
    fields: dict[str, dict] = {section: {} for section in sections}
    entries = mappings_of(sections)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section in entries:  # an entry of a mapping, such as max_lengths.math
            parent, _, field = section.rpartition(".")
            fields[parent].setdefault(field, {})[name] = typed(key, value, entries[section])
        else:
            kind = typing.get_type_hints(sections[section])[name]
            fields[section][name] = whole_paths(key, typed(key, value, kind))
    for section, kind in sections.items():
        if section:
            field = "objective_config" if section == own else section
            fields[""][field] = made(kind, fields[section], f"{section}.")
    return made(Settings, fields[""], "")


def section_of(objective: str) -> str:
    """What an objective's own keys begin with: its name, or the name of its file."""
    section = epath.Path(objective).stem if extensions.is_file(objective) else objective
    if section in Settings.__dataclass_fields__:
        raise ValueError(f"objective={objective}: {section!r} names a setting; choose another")
    return section


def sections_of(own: str, objective: str, task: str) -> dict[str, type]:
    """{section: its dataclass}; "" holds the keys without a dot, `own` those of the objective."""
    kinds = {"": Settings}
    for name, kind in typing.get_type_hints(Settings).items():
        if dataclasses.is_dataclass(kind):
            kinds[name] = kind
    kinds[own] = objectives.find(objective).config
    options = tasks.options_of(task)
    return kinds if options is None else kinds | {"options": options}


def names_of(section: str, kind: type, sections: Mapping[str, type]) -> list[str]:
    """Dotted keys of a section's settings; a field may say in its metadata that it is none."""
    prefix = f"{section}." if section else ""
    names = [
        field.name for field in dataclasses.fields(kind) if field.metadata.get("setting", True)
    ]
    return [f"{prefix}{name}" for name in names if section or name not in (*sections, *CHOSEN)]


def mappings_of(sections: Mapping[str, type]) -> dict[str, type]:
    """{dotted key of a mapping: the type of its values}; users choose the names in it."""
    found = {}
    for section, kind in sections.items():
        for name, hint in typing.get_type_hints(kind).items():
            if typing.get_origin(hint) is dict:
                found[f"{section}.{name}" if section else name] = typing.get_args(hint)[1]
    return found


OPTION_SECTIONS = ("options", "option", "data", "task")  # where users look for a task's own
CHOSEN = ("objective_config", "options")  # fields of Settings that are sections, of a chosen type


def refuse_unknown(values: Mapping[str, Any], sections: Mapping[str, type]) -> None:
    """ValueError naming every unknown key, each with the known ones that are near.

    The task's own settings are told by what they mean too: numbers is counts of Countdown.
    """
    known = [
        name for section, kind in sections.items() for name in names_of(section, kind, sections)
    ]
    mappings = mappings_of(sections)
    said = []
    for key in values:
        if key in known or key.rpartition(".")[0] in mappings:
            continue
        near = columns_meant(key)
        meant = [] if near else options_meant(key, sections.get("options"))
        near += [other for other in known if is_short_for(key, other)]
        near += difflib.get_close_matches(key, known, n=3, cutoff=0.4)
        near = ", ".join(dict.fromkeys(near))
        line = f"unknown config key {key!r}" + (f"; near it: {near}" if near else "")
        said.append(line + (f"; of this task: {', '.join(meant)}" if meant else ""))
    if said:
        raise ValueError(" | ".join(said))


def columns_meant(key: str) -> list[str]:
    """The renaming of a column that a key such as data.question=prompt stands for; else nothing."""
    name = key.rpartition(".")[2]
    is_column = any(name == field.name for field in row_schema.FIELDS)
    return [f"columns.{name} (=NAME of that column in the data_file)"] if is_column else []


def options_meant(key: str, options: type | None) -> list[str]:
    """The task's own settings whose name or meaning has a word of the key's name, as
    "options.NAME (meaning)"; of a key in a section of options all, where none has."""
    if options is None:
        return []
    meanings = meanings_of(options)
    section, _, name = key.rpartition(".")
    wanted = words_of(name)
    meant = [one for one, text in meanings.items() if wanted & words_of(f"{one} {text}")]
    if not meant and section in OPTION_SECTIONS:
        meant = list(meanings)
    return [f"options.{one}" + (f" ({meanings[one]})" if meanings[one] else "") for one in meant]


def meanings_of(kind: type) -> dict[str, str]:
    """{field: its line under "Attributes:" in the dataclass's docstring, or ""}."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    told = dict(re.findall(r"^  (\w+): (.*)$", lines, re.MULTILINE))
    return {field.name: told.get(field.name, "").rstrip(".") for field in dataclasses.fields(kind)}


def words_of(text: str) -> set[str]:
    """The words of a text or name, without the s of a plural."""
    return {word.removesuffix("s") for word in re.findall("[a-z]{2,}", text.lower())}


def is_short_for(key: str, other: str) -> bool:
    """Whether a key lacks a section, or has only the first letters of words: optimizer.lr or
    learning_rate of optimizer.learning_rate."""
    section, _, name = key.rpartition(".")
    other_section, _, other_name = other.rpartition(".")
    letters = "".join(word[:1] for word in other_name.split("_"))
    return section in ("", other_section) and name in (other_name, letters)


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
        names_field = str(error).partition("=")[0] in kind.__dataclass_fields__
        raise ValueError(f"{prefix}{error}" if names_field else str(error)) from None


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
    own = section_of(settings.objective)
    found = {
        own if name == "objective_config" else name: value for name, value in vars(settings).items()
    }
    for section, value in found.items():
        if dataclasses.is_dataclass(value):
            names = names_of("", type(value), {})
            found[section] = {name: getattr(value, name) for name in names}
    found["sampler"] = settings.sampler.given()
    if settings.options is None:
        del found["options"]
    return found


def leaves_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of what a config.json says, and nothing that it does not say."""
    return dict(leaves(entries))


def from_json(entries: Mapping[str, Any]) -> Settings:
    """The settings that `to_json` was given; raises as `parse`."""
    return build(dict(leaves(entries)))


def flat(settings: Settings) -> dict[str, Any]:
    """{dotted key: value} of every setting, as the user writes the keys."""
    return dict(leaves(to_json(settings)))


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
    for name in (version.FORMAT, version.VERSION, metrics.FORMAT_KEY, "score", "command"):
        entries.pop(name, None)
    values = dict(leaves(entries))
    if number == 1:
        values = from_format_1(values)
    if of_model:
        values = without_files(values)
    try:
        return build(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def without_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries without those that belong to a task, objective or sink from a file."""
    left_out = {"sinks"}
    for key in ("task", "objective"):
        if extensions.is_file(str(values.get(key, ""))):
            left_out.add(key)
    sections = set()
    if "task" in left_out:
        sections.add("options")
    if "objective" in left_out:
        left_out.add("answers")  # "teacher" is for some objectives alone
        sections.add(section_of(values["objective"]))
    return {
        key: value
        for key, value in values.items()
        if key not in left_out and key.partition(".")[0] not in sections
    }


def from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in today's names; it held the settings of every objective."""
    others = set(objectives.OBJECTIVES) - {values.get("objective"), "sft"}
    kept = {}
    for key, value in values.items():
        if key not in DROPPED and key.partition(".")[0] not in others:
            kept[RENAMED.get(key, key)] = value
    return UNSAID | kept
