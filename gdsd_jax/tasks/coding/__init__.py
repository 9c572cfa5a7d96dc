"""Task "coding": write a Python program that passes the tests.

A record is a dict with "question" (str), "tests" (list of assert statements), "solution" (the
program, "" where unknown) and "spec" (of generated problems, see problems.py; else ""); of a user's
row that has them also with "messages" and "domain". Records are
generated or the user's own, of the layouts in layouts.py.
"""

from collections.abc import Callable
import dataclasses
import functools
import types

from gdsd_jax import rows
from gdsd_jax.sandbox import open_sandbox
from gdsd_jax.tasks.coding import acecode, answers, dataset, grading, layouts
from gdsd_jax.tasks.task import Record, Task, TaskSettings, notes_of, read_files

INSTRUCTION = (
    "You are a careful Python programmer. Think as long as you need, then finish with one complete "
    "program in a single ```python code block. Put nothing after that block, and no other code "
    "block before it."
)
# What the released recipes tell the model, in other words.
RELEASED = (
    "You are a helpful assistant. Answer with Python code in a single fenced block, and let this "
    "block be the last part of your response."
)


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The task's own settings.

    Attributes:
      hard: of AceCode's rows, train on the released recipes' hard part.
      challenge: of MBPP's rows, the challenge_test_list must pass too.
    """

    hard: bool = False
    challenge: bool = False


def make(settings: TaskSettings) -> Task:
    """The task, with its sandbox open until `Task.close`.

    The generated problems and their tokenizer are built under `settings.data_dir` only where they
    are needed: without a data_file, or for a model from nothing. Generated problems are always
    asked bare. The user's own are asked in full, unless `settings.prompt` says otherwise or the
    model comes from nothing and has learnt from bare questions.

    Raises:
      ValueError: a file, row or column that cannot be read, or a remote data_dir; one line.
      SandboxError: no sandbox works here.
    """
    rows.check_columns(settings.columns, layouts.COLUMNS)
    options = settings.options or OPTIONS()
    if options.hard and settings.data_file is None:
        raise ValueError("options.hard=true: add data_file=FILE.jsonl with AceCode's rows")
    read = functools.partial(layouts.read, challenge=options.challenge)
    generated = settings.own_problems
    tokenizer, notes = None, ()
    if not generated:  # first, since a wrong row is told before anything is built
        train, heldout = read_files(settings, read, layouts.WANTED)
        if options.hard:
            train, notes = hard_part(settings)
        notes = (*notes, *notes_of(train, heldout))
        prompt = settings.wording
    if generated or settings.from_nothing:
        dataset.build(settings.data_dir)
        tokenizer = str(dataset.folder(settings.data_dir))
    if generated:
        train, heldout = (dataset.records(settings.data_dir, name) for name in ("train", "heldout"))
        prompt = "bare"

    # Last: what fails before leaves no worker behind.
    sandbox = open_sandbox(settings.sandbox.mode, limits=settings.sandbox.limits)
    return Task(
        train,
        heldout,
        functools.partial(messages, wording=WORDINGS[prompt]),
        functools.partial(grading.grade, sandbox=sandbox, reward=settings.reward),
        functools.partial(answer, noise=settings.noise),
        score="tests",
        read=read,
        tokenizer=tokenizer,
        close=sandbox.close,
        notes=notes,
        cluster=operations_of,
    )


def operations_of(record: Record) -> str | None:
    """The names of a generated problem's operations: what one with other numbers asks too."""
    steps = (record.get("spec") or "").split()
    return " ".join(step.partition("=")[0] for step in steps) or None


def hard_part(settings: TaskSettings) -> tuple[list[Record], tuple[str, ...]]:
    """(the hard records of AceCode's rows in the data_file, a line about them for the user).

    Their twins (`acecode.hard`) are left out where a share of the records is to be held out.
    """
    read = functools.partial(layouts.read, hard=True)
    records = rows.read_records(settings.data_file, read, layouts.WANTED, settings.columns)
    twins = settings.heldout_file is not None
    found = acecode.hard(records, twins)
    if not found:
        raise ValueError(
            f"{settings.data_file}: no hard problems, for no row has a pass_rate of "
            f"{' or '.join(acecode.MODELS)}: leave options.hard out"
        )
    kind = "with" if twins else "without (no heldout_file)"
    return found, (
        f"{settings.data_file}: {len(found)} hard records of {len(records)} problems, {kind} twins "
        "that ask the same as a function to complete",
    )


def answer(record: Record, seed: str | None, noise: float) -> str:
    """The solution as an answer; under a seed, with probability `noise`, one with a mistake."""
    if seed is None:
        return answers.completion(record)
    return answers.noisy_completion(record, seed, noise)


def messages(
    record: Record, wording: Callable[[Record], list[dict[str, str]]]
) -> list[dict[str, str]]:
    """The record's own messages as they stand, or its question in one of `WORDINGS`."""
    return record.get("messages") or wording(record)


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The question alone."""
    return [{"role": "user", "content": record["question"]}]


def full_messages(record: Record) -> list[dict[str, str]]:
    """A system turn that says how to answer, and the question with its first test.

    A question with a code block shows an example already, so no test is added to it.
    """
    question = _words_of(record)
    if "```" not in question:
        said = "The program must pass tests like this one:"
        if record.get("form") == "stdin":
            said = "The program reads standard input and prints its answer. An example:"
        question += f"\n\n{said}\n{_shown(record)}"
    return _turns(INSTRUCTION, question)


def released_messages(record: Record) -> list[dict[str, str]]:
    """The content of the released recipes' prompt: a system turn, and the question with a test."""
    question = _words_of(record)
    if "```" not in question:
        question += f"\nTest cases: {_shown(record)}"
    return _turns(RELEASED, question)


WORDINGS = types.MappingProxyType(
    {"bare": bare_messages, "full": full_messages, "released": released_messages}
)


def _words_of(record: Record) -> str:
    """The question in words, also where it is a program to complete."""
    question = record["question"]
    if record.get("form") == "function":
        return f"Complete this Python function:\n```python\n{question.rstrip()}\n```"
    return question


def _shown(record: Record) -> str:
    return record.get("shown") or record["tests"][0]


def _turns(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
