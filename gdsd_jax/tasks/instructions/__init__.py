"""Task "instructions": texts under constraints that a program can check.

A record is a dict with "prompt", "topic" ("" where none is known) and "constraints", dicts with
"id" and its arguments, both as IFEval (arXiv 2311.07911) names them. Problems are generated, or the
public JSONL, whose rows have key, prompt, instruction_id_list and kwargs.
"""

import dataclasses
import functools
import hashlib
import json
import random
from typing import Any

from gdsd_jax import rows
from gdsd_jax.tasks import generated
from gdsd_jax.tasks.instructions import constraints, grading, problems, writing
from gdsd_jax.tasks.task import Record, Task, TaskSettings, read_files

FIELDS = (
    rows.Field("prompt", "non-empty text", "give what is asked in words"),
    rows.Field("instruction_id_list", "texts", "give the names of the constraints"),
    rows.Field("kwargs", "objects", "give an object of arguments for each constraint"),
    rows.Field("key", "text or number", "give a number or leave it out", default=""),
)
MOST = 8  # constraints of a generated problem


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The task's own settings, of generated problems.

    Attributes:
      constraints: fewest and most constraints of a problem, each number as likely.
      words: most that a constraint asks for; sentences and parts are up to a tenth of it.
      kinds: names of the constraints to draw from; () = all but that of a language.
    """

    constraints: tuple[int, int] = (1, 3)
    words: int = 40
    kinds: tuple[str, ...] = ()

    def __post_init__(self):
        least, most = self.constraints
        if not 1 <= least <= most <= MOST:
            raise ValueError(
                f"options.constraints={self.constraints}: give (fewest, most) in 1 .. {MOST}"
            )
        if not 5 <= self.words <= 80:
            raise ValueError(f"options.words={self.words} must lie in 5 .. 80")
        unknown = [name for name in self.kinds if name not in problems.KINDS]
        if unknown:
            known = ", ".join(problems.KINDS)
            raise ValueError(f"options.kinds: no {', '.join(unknown)}; choose of {known}")


def make(settings: TaskSettings) -> Task:
    """The task; generated problems are built under `settings.data_dir` where no file is given.

    Of a file, rows that ask for a language are left out, since nothing here tells languages apart;
    a note says how many. Only generated problems have answers for a supervised start. All prompts
    of `settings.prompt` are the same: the constraints are in the words of the question.

    Raises:
      ValueError: a file, row or column that cannot be read, or a remote data_dir; one line.
    """
    rows.check_columns(settings.columns, FIELDS)
    grade = functools.partial(grading.grade, reward=settings.reward)
    if settings.own_problems:
        options = settings.options or OPTIONS()
        train, heldout = (records(settings.data_dir, options, name) for name in problems.SPLITS)
        find = functools.partial(answer, noise=settings.noise)
        return Task(train, heldout, messages, grade, find, score="followed", read=read)
    train, heldout = read_files(settings, read, rows.required(FIELDS))
    notes = []
    train = without_languages(settings.data_file, train, notes)
    if heldout is not None:
        heldout = without_languages(settings.heldout_file, heldout, notes)
        if not heldout:
            raise ValueError(f"{settings.heldout_file}: every row asks for a language: give others")
    return Task(train, heldout, messages, grade, score="followed", read=read, notes=notes)


def records(data_dir: str, options: OPTIONS, split: str) -> list[dict[str, Any]]:
    """The generated records of a split, built where they are not there yet."""
    from gdsd_jax.tasks.instructions import builder  # slow to import, and needed only here

    chosen = problems.Range(**dataclasses.asdict(options))
    least, most = options.constraints
    name = f"instructions-{problems.VERSION}-{least}-{most}-{options.words}"
    if options.kinds:
        digest = hashlib.sha256(json.dumps(options.kinds).encode()).hexdigest()
        name += f"-{digest[:8]}"
    found = generated.records(data_dir, name, lambda new: builder.write(new, chosen), split)
    return [row | {"constraints": json.loads(row["constraints"])} for row in found]


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none."""
    found = rows.check(row, "", FIELDS)
    names, arguments = found["instruction_id_list"], found["kwargs"]
    if len(names) != len(arguments):
        raise ValueError(
            f"kwargs has {len(arguments)} entries for {len(names)} constraints: {FIELDS[2].mend}"
        )
    asked = [constraints.checked(name, given) for name, given in zip(names, arguments)]
    return {"prompt": found["prompt"], "topic": "", "constraints": asked}


def without_languages(file: str, given: list[Record], notes: list[str]) -> list[Record]:
    """The records that ask for no language; adds a note where some do."""
    kept = [
        record
        for record in given
        if all(one["id"] != constraints.LANGUAGE for one in record["constraints"])
    ]
    if len(kept) < len(given):
        notes.append(
            f"{file}: {len(given) - len(kept)} of {len(given)} rows ask for a language, which "
            "nothing here checks, and are left out"
        )
    return kept


def messages(record: Record) -> list[dict[str, str]]:
    """The prompt alone."""
    return [{"role": "user", "content": record["prompt"]}]


def answer(record: Record, seed: str | None, noise: float) -> str:
    """A text that satisfies the constraints; under a seed, with probability `noise`, one that
    leaves some of them out."""
    topic, asked = record["topic"], record["constraints"]
    if seed is not None and random.Random(f"{seed} {record['prompt']}").random() < noise:
        return writing.wrong_answer(topic, asked, seed)
    text = writing.answer(topic, asked, seed)
    return writing.answer(topic, asked, None) if text is None else text
