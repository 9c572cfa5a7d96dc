"""The keys of a run's settings: their sections, types and meanings, and what is near an unknown
one."""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import inspect
import re
import typing

from etils import epath

from gdsd_jax import extensions, objectives, row_schema, tasks
from gdsd_jax.settings import elsewhere
from gdsd_jax.settings.schema import Settings, default_of

OPTION_SECTIONS = ("options", "option", "data", "task")  # where users look for a task's own
CHOSEN = ("objective_config", "options")  # fields of Settings that are sections, of a chosen type
GENERAL = {"train", "batch", "epoch", "row"}  # words that tell no task's settings apart
NEAR = 0.6  # likeness of a section's names from which on one may be meant by the other
NEAR_ANYWHERE = 0.7  # of any names
ALL = "`python launch/main.py --config=... --print_config` lists all"


class Key(typing.NamedTuple):
    """A key of a section, as users write it."""

    name: str  # dotted
    kind: typing.Any  # its annotation
    default: typing.Any  # dataclasses.MISSING: it must be given
    meaning: str  # as the section's docstring has it; empty where it has none


def section_of(objective: str) -> str:
    """What an objective's own keys begin with: its name, or the name of its file."""
    section = epath.Path(objective).stem if extensions.is_file(objective) else objective
    if section in Settings.__dataclass_fields__:
        raise ValueError(f"objective={objective}: {section!r} names a setting; choose another")
    return section


def fixed_sections() -> dict[str, type]:
    """{section: its dataclass} of every run; "" holds the keys without a dot."""
    kinds = typing.get_type_hints(Settings).items()
    return {"": Settings} | {name: kind for name, kind in kinds if dataclasses.is_dataclass(kind)}


def own_section(objective: str) -> dict[str, type]:
    """The section of an objective's own keys; ValueError where there is no such objective."""
    return {section_of(objective): objectives.find(objective).config}


def own_options(task: str) -> dict[str, type]:
    """The section of a task's own keys, none where it has none; ValueError where there is no such
    task."""
    options = tasks.options_of(task)
    return {} if options is None else {"options": options}


def keys_of(section: str, kind: type, sections: Iterable[str]) -> list[Key]:
    """A section's keys; a field may say in its metadata that it is none."""
    prefix, hints, meanings = f"{section}." if section else "", hints_of(kind), meanings_of(kind)
    found = []
    for field in dataclasses.fields(kind):
        is_section = not section and field.name in (*sections, *CHOSEN)
        if is_section or not field.metadata.get("setting", True):
            continue
        name, meaning = prefix + field.name, meanings.get(field.name, "")
        found.append(Key(name, hints[field.name], default_of(field), meaning))
    return found


def hints_of(kind: type) -> dict[str, typing.Any]:
    """{field: its annotation}."""
    return typing.get_type_hints(kind)


def mappings_of(sections: Mapping[str, type]) -> dict[str, type]:
    """{dotted key of a mapping: the type of its values}; users choose the names in it."""
    found = {}
    for section, kind in sections.items():
        for name, hint in hints_of(kind).items():
            if typing.get_origin(hint) is dict:
                found[f"{section}.{name}" if section else name] = typing.get_args(hint)[1]
    return found


def meanings_of(kind: type) -> dict[str, str]:
    """{field: what stands about it under "Attributes:" in the dataclass's docstring}."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    block = re.match(r"(?:  .*\n?|\n(?=  ))*", lines)[0]
    told = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in told}


def first_sentence(text: str) -> str:
    """A text through its first full stop, which is left out."""
    return re.split(r"(?<!\.)\.(?: (?=[A-Z\"(])|$)", text, maxsplit=1)[0]


# ---------------------------------------------------------------- unknown keys


def unknown(values: Iterable[str], sections: Mapping[str, type], all_known: bool) -> dict[str, str]:
    """{unknown key: a line with the known ones that are near}.

    Args:
      values: the keys that are given.
      sections: where they may be.
      all_known: False where the objective or the task is not known; keys of other sections, which
        may be theirs, are passed over then.
    """
    known = [key.name for name, kind in sections.items() for key in keys_of(name, kind, sections)]
    mappings = mappings_of(sections)
    found = {}
    for key in values:
        section = key.rpartition(".")[0]
        if key in known or section in mappings or not (all_known or section in sections):
            continue
        found[key] = f"unknown config key {key!r}; {mend(key, known, sections)}"
    return found


def mend(key: str, known: list[str], sections: Mapping[str, type]) -> str:
    """What stands behind an unknown key.

    The keys that are near; else the task's own settings that its words speak of: numbers is counts
    of Countdown; else the keys of its section; else how all are listed.
    """
    fixed = fixed_sections()
    own = next((name for name in sections if name not in fixed and name != "options"), None)
    near = [*columns_meant(key), *elsewhere.meant(key, known, own)]
    near = near or list(near_keys(key, known, sections))
    if near:
        return f"near it: {', '.join(dict.fromkeys(near))}"
    section = key.rpartition(".")[0]
    if section not in {*fixed, own} - {""}:
        options = options_meant(key, sections.get("options"))
        if options:
            return f"of this task: {', '.join(options)}"
    beside = [other for other in known if section and within(other, section)]
    if beside:
        return f"there are {', '.join(beside)}"
    return f"none is like it, {ALL}"


def columns_meant(key: str) -> list[str]:
    """The renaming of a column that a key such as data.question=prompt stands for; else nothing."""
    name = key.rpartition(".")[2]
    is_column = any(name == field.name for field in row_schema.FIELDS)
    return [f"columns.{name} (=NAME of that column in the data_file)"] if is_column else []


def near_keys(key: str, known: list[str], sections: Mapping[str, type]) -> Iterable[str]:
    """Known keys that may be meant: those of the same last part, else the likest ones, but none
    that is far."""
    section, _, name = key.rpartition(".")
    same = [other for other in known if other.rpartition(".")[2] == name]
    if same:
        return [other for other in same if within(other, section)] or same
    if key in sections:
        return [other for other in known if within(other, key)]
    above = [other for other in mappings_of(sections) if key.startswith(f"{other}.")]
    if above:
        return above
    if section in sections and section:
        beside = {other.rpartition(".")[2]: other for other in known if within(other, section)}
        return [beside[one] for one in difflib.get_close_matches(name, beside, n=3, cutoff=NEAR)]
    names = dict.fromkeys([*known, *(other.rpartition(".")[2] for other in known)])
    close = [other for other in names if other.startswith(f"{name}_")]
    close = close or difflib.get_close_matches(name, names, n=3, cutoff=NEAR_ANYWHERE)
    return [other for one in close for other in known if one in (other, other.rpartition(".")[2])]


def within(key: str, section: str) -> bool:
    """Whether a key lies in a section."""
    return key.rpartition(".")[0] == section


def options_meant(key: str, options: type | None) -> list[str]:
    """The task's own settings whose name or meaning has a word of the key's name, as
    "options.NAME (meaning)"; of a key in a section of options all, where none has."""
    if options is None:
        return []
    told = meanings_of(options)
    meanings = {
        field.name: first_sentence(told.get(field.name, ""))
        for field in dataclasses.fields(options)
    }
    section, _, name = key.rpartition(".")
    wanted = words_of(name) - GENERAL
    meant = [one for one, text in meanings.items() if wanted & words_of(f"{one} {text}")]
    if not meant and section in OPTION_SECTIONS:
        meant = list(meanings)
    return [f"options.{one}" + (f" ({meanings[one]})" if meanings[one] else "") for one in meant]


def words_of(text: str) -> set[str]:
    """The words of a text or name, without the s of a plural."""
    return {word.removesuffix("s") for word in re.findall("[a-z]{2,}", text.lower())}
