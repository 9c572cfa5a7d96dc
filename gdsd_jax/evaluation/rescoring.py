"""Grades completions that are there already, from a file, without a model.

Three kinds of files are read: what launch/eval.py wrote; diffu-GRPO's generation files, one object
with a list "generations"; rows of JSONL, CSV, Parquet or a JSON list with a column "completion" or
"text".
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import os
from pathlib import PurePath
from typing import Any, NamedTuple
import zlib

from gdsd_jax import extensions, json_files, rows, settings, tasks, version
from gdsd_jax.evaluation import answers, intervals, record
from gdsd_jax.evaluation.figures import Item, cluster_entry, verdict
from gdsd_jax.experiment import make_task
from gdsd_jax.settings import Settings
from gdsd_jax.tasks import Record, Task

TEXTS = ("completion", "text")  # columns of rows
OWN = "items"  # the entry by which a file of ours is known
PUBLISHED = "generations"  # the entry by which a generation file is known, and its column of texts
MEND = 'give the answer\'s text as "completion"'
WANTED = "give rows with an answer's text as \"completion\" and the problem's columns"


class Completion(NamedTuple):
    """A text to grade."""

    record: Record
    text: str
    item: Item  # what is known of it besides its grades


def rescore(chosen: Settings, path: str | os.PathLike) -> tuple[dict, list[dict], list[Item]]:
    """(manifest, prompts, items) of the completions in a file, graded by the settings' task.

    Items come in the file's order, and numbers are those that the evaluation would have given.

    Args:
      chosen: name the task, its rule and, in `columns`, other names of columns.
      path: of the file, local or gs://.

    Raises:
      ValueError: a file that cannot be read or that belongs to another task, or a task that cannot
        grade it; one line says which.
    """
    columns = dict(chosen.columns)
    texts = (columns.pop("completion"),) if "completion" in columns else TEXTS
    data = read_bytes(path)
    content = parsed(data, path)
    task = make_task(dataclasses.replace(chosen, columns=columns), False, only_grades=True)
    try:
        names = tasks.parts_of(task)
        if task.grade is None:
            raise ValueError(f"task={chosen.task} grades nothing: choose another task")
        before = None
        if is_own(content):
            check_whole(content, path)
            before = content["manifest"]
            check_task(before, chosen, path)
            prompts, found = content["prompts"], own_completions(content, path)
        else:
            prompts, found = numbered(completions(content, task, path, columns, texts), task)
        records, given = [one.record for one in found], [one.text for one in found]
        is_checked = before is None  # row by row, as they were read
        with contextlib.nullcontext() if is_checked else check_records(chosen, records, path):
            grades = tasks.graded(task, records, given, names)
    finally:
        task.close()
    items = [one.item | verdict(grades, place) for place, one in enumerate(found)]
    manifest = {
        "format": record.FORMAT,
        "settings": settings.to_json(chosen),
        "score": task.score,
        "parts": list(names),
        "rescored": {"file": str(path), "sha256": hashlib.sha256(data).hexdigest()},
        "samplers": before["samplers"] if before else [],
        "intervals": intervals.stated(any("cluster" in item for item in items)),
        "packages": record.versions(),
    }
    if before:
        manifest["answered"] = before
    return manifest, prompts, items


@contextlib.contextmanager
def check_records(
    chosen: Settings, records: Sequence[Record], path: str | os.PathLike
) -> Iterator[None]:
    """ValueError, in one line, where an evaluation's file has records that cannot be graded by.

    Faults of a user's own task stay what they are, but for a name that a record lacks.
    """
    try:
        yield
    except tasks.GradeError as error:
        cause = error.__cause__ or error
        name = cause.args[0] if isinstance(cause, KeyError) and cause.args else None
        lacks = [isinstance(name, str) and name not in one for one in records]
        if extensions.is_file(chosen.task) and not any(lacks):
            raise
        said = f"a record is none of task {chosen.task} ({type(cause).__name__}: {cause})"
        if any(lacks):
            said = f"{OWN}[{lacks.index(True)}]: its problem's record has no {name!r}"
        raise ValueError(f"{path}: {said}: evaluate again") from error


def numbered(found: Sequence[Completion], task: Task) -> tuple[list[dict], list[Completion]]:
    """(the prompts, each once; the completions, whose items count them).

    Answers to equal records belong to one problem, in the order in which they stand.
    """
    numbers: dict[str, int] = {}
    samples: dict[str, int] = {}
    problems, counted = [], []
    for one in found:
        key = repr(one.record)
        if key not in numbers:
            numbers[key] = len(problems)
            problems.append(one.record)
        samples[key] = samples.get(key, 0) + 1
        told = one.item | cluster_entry(task, one.record)
        item = {"problem": numbers[key], **told, "sample": samples[key] - 1}
        counted.append(one._replace(item=item))
    return record.prompts_of(problems, task.messages), counted


# ---------------------------------------------------------------- the file


def read_bytes(path: str | os.PathLike) -> bytes:
    """The file's bytes, unpacked as `rows.read_rows` does; ValueError in one line."""
    try:
        return rows.bytes_of(path)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a readable file ({type(error).__name__}): check the path"
        ) from None


def parsed(data: bytes, path: str | os.PathLike) -> Any:
    """What a JSON file holds; None where it is rows of JSONL, CSV or Parquet.

    Raises:
      ValueError: neither, or nothing at all; one line.
    """
    if not data.strip():
        raise ValueError(f"{path} is empty, there is nothing to grade: {WANTED}")
    if rows.unpacked_name(path).endswith((".csv", ".parquet")):
        return None
    try:
        content = json_files.parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a readable UTF-8 file: write it as UTF-8") from None
    except ValueError as error:
        if is_row(data.lstrip().split(b"\n", 1)[0]):
            return None
        raise ValueError(
            f"{path}: not JSON ({error}): give a file of launch/eval.py, an object with "
            f"{PUBLISHED}, or one JSON object a line"
        ) from None
    is_alone = isinstance(content, dict) and not {OWN, PUBLISHED} & content.keys()
    return None if is_alone else content  # one object is JSONL of one line


def is_row(line: bytes) -> bool:
    """Whether a line is JSON of its own."""
    try:
        json_files.parse(line)
    except ValueError:
        return False
    return True


def is_own(content: Any) -> bool:
    """Whether launch/eval.py wrote this."""
    return isinstance(content, dict) and OWN in content


def read_own(path: str | os.PathLike) -> dict[str, Any]:
    """What launch/eval.py has written; ValueError in one line where it is not that."""
    content = parsed(read_bytes(path), path)
    if not is_own(content):
        raise ValueError(f"{path}: not a file of launch/eval.py: evaluate or rescore first")
    check_whole(content, path)
    return content


@contextlib.contextmanager
def whole(*paths: str | os.PathLike) -> Iterator[None]:
    """Tells in one line that files of launch/eval.py lack what is looked for in them."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        files, kind = " or ".join(map(str, paths)), type(error).__name__
        raise ValueError(
            f"{files}: not a whole file of launch/eval.py ({kind}: {error}): evaluate again"
        ) from error


def check_whole(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """ValueError where an evaluation's file is not whole, or of a later version."""
    manifest = content.get("manifest")
    if isinstance(manifest, dict):
        packages = manifest.get("packages")
        writer = packages.get("gdsd_jax") if isinstance(packages, dict) else None
        version.format_of(manifest, record.FORMAT, str(path), writer=writer)
    well_formed = isinstance(manifest, dict) and isinstance(manifest.get("settings"), dict)
    well_formed = well_formed and isinstance(manifest["settings"].get("task", ""), str)
    lists = [content.get("prompts"), content.get(OWN)]
    lists += [manifest.get("samplers")] if well_formed else []
    if not well_formed or not all(isinstance(value, list) for value in lists):
        raise ValueError(f"{path}: not a whole file of launch/eval.py: evaluate again")
    count = len(content["prompts"])
    for place, item in enumerate(content[OWN]):
        number = item.get("problem") if isinstance(item, dict) else None
        if type(number) is not int or number not in range(count):
            raise ValueError(
                f"{path}: {OWN}[{place}]: not an item of one of its {count} prompts: evaluate again"
            )


def check_task(manifest: Mapping[str, Any], chosen: Settings, path: str | os.PathLike) -> None:
    """ValueError where an evaluation's file is of another task than the settings."""
    theirs = manifest["settings"].get("task", "")
    if PurePath(theirs).name != PurePath(chosen.task).name:
        raise ValueError(
            f"{path}: answers to task {theirs}, the config's is {chosen.task}: give the config of "
            "that task"
        )


def own_completions(content: Mapping[str, Any], path: str | os.PathLike) -> list[Completion]:
    """The completions of an evaluation's file."""
    prompts, found = content["prompts"], []
    if not content[OWN]:
        raise ValueError(f"{path}: no completions, nothing to grade")
    for place, item in enumerate(content[OWN]):
        where = f"{path}: {OWN}[{place}]"
        try:
            prompt, text = prompts[item["problem"]], item["completion"]
            record_of_prompt = prompt["record"]
        except (KeyError, IndexError, TypeError) as error:
            kind = type(error).__name__
            raise ValueError(f"{where}: not an item ({kind}: {error}): evaluate again") from None
        rows.check(item, where, [rows.Field("completion", "text", MEND)])
        if not isinstance(record_of_prompt, dict):
            raise ValueError(
                f"{where}: its problem has no record, which JSON could not hold: let the task make "
                "records of texts, numbers and lists"
            )
        found.append(Completion(record_of_prompt, text, item))
    return found


def completions(
    content: Any, task: Task, path, columns: Mapping[str, str], texts: Sequence[str]
) -> list[Completion]:
    """The completions of a file from elsewhere.

    Args:
      content: of a JSON file; None = rows of JSONL or CSV.
      task: reads the rows.
      path: of the file.
      columns: our name of a field -> its name in the file.
      texts: names that the column of completions may have.
    """
    if task.read is None:
        raise ValueError(
            f"{path}: this task reads no rows ({tasks.file_of(task.grade)} gives no read): give a "
            "file that launch/eval.py wrote"
        )
    if content is None:
        found = rows.read_rows(path, " with a completion and the problem's columns")
    elif isinstance(content, dict):
        found = listed(content[PUBLISHED], f"{path}: {PUBLISHED}")
        texts = (PUBLISHED, *texts)
    else:
        found = listed(content, str(path))
    return [completion(row, where, task, columns, texts) for where, row in found]


def listed(content: Any, where: str) -> list[tuple[str, Any]]:
    """(where it stands, row) of a list; ValueError where it is none, or empty."""
    if not isinstance(content, list):
        raise ValueError(f"{where} is not a list with completions: {WANTED}")
    if not content:
        raise ValueError(f"{where} is an empty list, there is nothing to grade: {WANTED}")
    return [(f"{where}[{place}]", row) for place, row in enumerate(content)]


def completion(
    row: Any, where: str, task: Task, columns: Mapping[str, str], texts: Sequence[str]
) -> Completion:
    """A row's completion; ValueError that names the row."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object: {WANTED}")
    names = [name for name in texts if name in row]
    if not names:
        raise ValueError(
            f"{where}: {texts[0]} is missing: {MEND} (columns.completion=NAME takes another of "
            f"{rows.names_in(row)})"
        )
    text = rows.check(row, where, [rows.Field(names[0], "text", MEND)])[names[0]]
    found = rows.record_of(where, row, task.read, columns)
    question = rows.renamed(row, columns).get("question")
    if not isinstance(question, str):
        question = answers.question_of(task, found)
    item = {"question": question, "completion": text}
    return Completion(found, text, item)
