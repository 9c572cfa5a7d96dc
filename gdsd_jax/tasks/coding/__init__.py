"""The coding task: write a Python program that passes the tests.

A record is a dict with "question" (str), "tests" (list of assert statements), "form" ("short" or
"full", see `messages`) and, where known, "solution" (the program) and "spec" (see
problems.py). Records are generated and embedded (`build`, `records`) or the user's own
(`read_jsonl`); everything else is the same for both.
"""

import ast
from collections.abc import Mapping, Sequence
import contextlib
import os
from pathlib import Path
import random
import shutil
from typing import Any
import uuid
import warnings

import numpy as np

from gdsd_jax import tokenizers
from gdsd_jax.rows import read_rows
from gdsd_jax.tasks.coding import problems

Record = Mapping[str, Any]

RUNS_PROGRAMS = True  # that need a sandbox
VOCAB_SIZE = 768
# What every prompt and program is made of, so that a line of code is its operation and one piece
# more.
SYMBOLS = (
    "Write f(x) for ",
    " x: ",
    ", then ",
    ".",
    "```python\ndef f(x):",
    "\n    x = ",
    "\n    return ",
    "\n```",
)
HABIT = 0.6  # chance that an operation which is often mistaken is mistaken
BROKEN_SHARE = 0.05  # of the noisy solutions: does not parse, instead of giving something else

_INSTRUCTION = (
    "You are a careful Python programmer. Think as long as you need, then finish with one complete "
    "program in a single ```python code block. Put nothing after that block, and no other code "
    "block before it."
)


def folder(data_dir: str | os.PathLike) -> Path:
    """Where `build` keeps the problems and tokenizer.model; the name changes with their version."""
    return Path(data_dir) / f"coding-{problems.VERSION}-{VOCAB_SIZE}"


def build(data_dir: str | os.PathLike) -> None:
    """Writes the generated problems (array_record) and their tokenizer under a local folder, unless
    they are there.

    Deterministic; the folder appears only when complete, so that a killed build leaves nothing half
    done and several processes may build at once. Raises ValueError for a remote folder.
    """
    if "://" in str(data_dir):
        raise ValueError(
            f"generated problems are kept in a local folder, not {data_dir}: change data_dir"
        )
    target = folder(data_dir)
    if target.is_dir():
        return
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        builder.write(partial)
        train = _read(partial, "train")
        texts = [record["question"] for record in train] + [completion(record) for record in train]
        tokenizers.train_sentencepiece(
            texts, partial / "tokenizer.model", VOCAB_SIZE, symbols=SYMBOLS
        )
        with contextlib.suppress(OSError):  # another process was first, with the same content
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not target.is_dir():
        raise OSError(f"could not move the generated problems to {target}: is the folder writable?")


def records(data_dir: str | os.PathLike, split: str) -> Sequence[Record]:
    """The generated records of a split, "train" or "heldout", after `build`; in memory.

    Raises ValueError where they were not built or the split is unknown.
    """
    if not folder(data_dir).is_dir():
        raise ValueError(f"no generated problems in {data_dir}: call coding.build there first")
    return _read(folder(data_dir), split)


def read_jsonl(path: str | os.PathLike, *, form: str = "full") -> Sequence[Record]:
    """Records of a user's file: one JSON object a line with `question`, `test_cases` and perhaps
    `solution`.

    `path` is local or gs://. Raises ValueError naming `path:line` and the mend for the first bad
    row.
    """
    rows = read_rows(path, " with question and test_cases")
    return [_parse_row(row, where) | {"form": form} for where, row in rows]


def messages(record: Record) -> list[dict[str, str]]:
    """The prompt, in training and in evaluation alike.

    Form "short" is the bare question. Form "full" says in a system turn how to answer, and shows
    the first test below the question, unless the question has a code block and so shows an example
    already.
    """
    question = record["question"]
    if record["form"] == "short":
        return [{"role": "user", "content": question}]
    if "```" not in question:
        question += f"\n\nThe program must pass tests like this one:\n{record['tests'][0]}"
    return [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": question}]


def completion(record: Record) -> str:
    """The gold answer, a fenced program; ValueError where the record has none."""
    if not record.get("solution"):
        raise ValueError(
            f"no solution to the question {record['question'][:60]!r}: add a solution field"
        )
    return _fenced(record["solution"])


def noisy_completion(record: Record, seed: int | str, noise: float) -> str:
    """An answer with mistakes, the same for the same record and `seed`; `noise` 0 is the gold
    answer.

    Some operations are mistaken for another one with probability HABIT
    (`problems.habitual_slips`), so that even the likeliest answer of a model of this text is
    wrong there. Besides, with probability `noise`, the answer holds one
    slip: an operation of the same family, a constant off by one, a step left out or two exchanged
    (`problems.mutants`), or, in BROKEN_SHARE of the cases, a bracket left out. Records
    without "spec" have no
    such slips: ValueError unless `noise` is 0.
    """
    if noise == 0:
        return completion(record)
    if not record.get("spec"):
        raise ValueError("noise needs generated records: set it to 0 for solutions of your own")
    rng = random.Random(f"{seed} {record['spec']}")
    steps = problems.parse(record["spec"])
    steps = tuple(
        wrong if rng.random() < HABIT else right
        for right, wrong in zip(steps, problems.habitual_slips(steps))
    )
    slips = problems.mutants(steps)  # a single operation without relatives has none
    if rng.random() >= noise or not slips:
        return _fenced(problems.program(steps))
    if rng.random() < BROKEN_SHARE:
        return _fenced(_without_a_bracket(problems.program(steps), rng))
    return _fenced(problems.program(rng.choice(slips[rng.choice(sorted(slips))])))


def score(records: Sequence[Record], texts: Sequence[str], sandbox: Any) -> dict[str, np.ndarray]:
    """{"format": float32 [N], "tests": float32 [N]} of N answers, 0..1 each; `sandbox` runs the
    programs."""
    from gdsd_jax.tasks.coding import grading

    return grading.score_code(list(texts), [list(record["tests"]) for record in records], sandbox)


def _fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def _without_a_bracket(program: str, rng: random.Random) -> str:
    # Not in the first line: every program starts with the same words.
    places = [
        i for i, character in enumerate(program) if character in ")]" and i > program.index("\n")
    ]
    if not places:
        return program + ")"
    place = rng.choice(places)
    return program[:place] + program[place + 1 :]


def _read(path: Path, split: str) -> list[Record]:
    from gdsd_jax.tasks.coding import builder  # slow to import, and needed only here

    return [record | {"form": "short"} for record in builder.read(path, split)]


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are allowed
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _parse_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f'{where}: not a JSON object: write {{"question": ..., "test_cases": [...]}}'
        )
    question, tests, solution = row.get("question"), row.get("test_cases"), row.get("solution", "")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: question is not a non-empty string: give the task in words")
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"{where}: test_cases is not a non-empty list: give assert statements")
    for number, test in enumerate(tests):
        if not isinstance(test, str) or not _is_python(test):
            raise ValueError(
                f"{where}: test_cases[{number}] is not a Python statement: give asserts as strings"
            )
    if solution is not None and not isinstance(solution, str):
        raise ValueError(
            f"{where}: solution is not a string: give the program's text or leave it out"
        )
    return {"question": question, "tests": tests, "solution": solution or "", "spec": ""}
