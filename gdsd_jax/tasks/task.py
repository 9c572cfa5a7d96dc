"""What a task is: its records, their prompts, how answers are graded, and the checks of all that.

N answers. NumPy and the standard library only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
import functools
import inspect
import math
import random
import sys
from typing import Any, NamedTuple

import numpy as np

from gdsd_jax import row_schema, rows
from gdsd_jax.mistakes import Gathered
from gdsd_jax.sandbox import SandboxConfig

Record = Mapping[str, Any]

PROMPTS = ("bare", "full", "released")
VARIANTS = ("mended", "released")


class Grades(NamedTuple):
    """What is thought of N answers.

    Attributes:
      reward_N: float32, finite, of any scale: what advantages are made of.
      solved_N: bool: what pass@1 counts.
      parts: float32 [N] each, under the same names in every call; logged and drawn by name, never
        summed by the loop.
      judged_N: bool, False where no verdict was possible: the row enters no mean. None = all True.
      points_Nx2: int, (right, of how many), such as the cells of a Sudoku. None = (solved, 1).
    """

    reward_N: np.ndarray
    solved_N: np.ndarray
    parts: dict[str, np.ndarray]
    judged_N: np.ndarray | None = None
    points_Nx2: np.ndarray | None = None


class Task(NamedTuple):
    """What the loop asks of a task; made by a task file's `make(settings: TaskSettings)`.

    Attributes:
      train: the records to learn from; may be empty where texts are only graded.
      heldout: the records to evaluate on; None = a share of `train`.
      messages: record -> turns, {"role", "content"} each; an assistant's turn at the end is a
        prefill and stays open.
      grade: (records, texts) -> Grades; called through `graded` alone, in threads, on a share of
        the answers. None = nothing is judged.
      answer: (record, seed) -> text for a supervised start, as `grade` gets it: a prefill is its
        begin. A str seed may give an answer with mistakes, always the same one; a seed of None
        gives the best answer. None = the task knows no answers.
      score: "reward" or the name of a part that lies in 0..1: what evaluations call mean_reward.
      read: row of a user's file -> record; ValueError, without the path, where it is none. None =
        the task reads no files.
      tokenizer: folder with the tokenizer for a model from nothing; None = one is trained on the
        task's own texts.
      close: gives back what the task opened, such as a sandbox.
      notes: lines for the user, about the data.
      cluster: record -> a name that problems share which a model mostly solves or fails together;
        None = a problem by itself. Those of a cluster are in the same half of what is held out, and
        intervals take clusters as independent, not problems.
    """

    train: Sequence[Record]
    heldout: Sequence[Record] | None
    messages: Callable[[Record], list[dict[str, str]]]
    grade: Callable[[Sequence[Record], Sequence[str]], Grades] | None
    answer: Callable[[Record, str | None], str] | None = None
    score: str = "reward"
    read: Callable[[dict[str, Any]], Record] | None = None
    tokenizer: str | None = None
    close: Callable[[], None] = lambda: None
    notes: Sequence[str] = ()
    cluster: Callable[[Record], str | None] = lambda _: None


MOST_WEIGHT = 1_000_000  # of a part; float32 tells sums of larger ones apart no more


class WeightError(ValueError):
    """A weight of the user's that the parts of the grades cannot have."""


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Which rule grades, and what its parts count for.

    Attributes:
      variant: "mended", or "released", the rule of the task's authors with what is wrong in it.
      weights: part -> its factor in the reward, in place of the rule's own.

    Raises:
      ValueError: an unknown variant, or a weight that is no finite number or above MOST_WEIGHT.
    """

    variant: str = "mended"
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: choose {' or '.join(VARIANTS)}")
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"reward.weights.{name}={weight}: give a finite number")
            if abs(weight) > MOST_WEIGHT:
                raise ValueError(
                    f"reward.weights.{name}={weight:g} is too large: give at most {MOST_WEIGHT:,}"
                )

    def total(self, parts: Mapping[str, np.ndarray], own: Mapping[str, float]) -> np.ndarray:
        """The reward, float32 [N]: the parts times their weights, `own` where none are given.

        Raises:
          WeightError: as `check`.
        """
        self.check(parts, own)
        weights = {**own, **self.weights}
        terms = [np.float32(weights.get(name, 0.0)) * part for name, part in parts.items()]
        return np.sum(terms, axis=0, dtype=np.float32)

    def check(self, parts: Iterable[str], own: Mapping[str, float]) -> None:
        """WeightError, in one line, where a given weight is of a part that there is not, is below 0
        though the rule's `own` is not, or where all parts would count nothing."""
        for name, weight in self.weights.items():
            if name not in parts:
                near = sorted(parts, key=lambda part: -likeness(name, part))
                raise WeightError(
                    f"reward.weights.{name}={weight:g}: there is no such part: choose "
                    f"{' or '.join(near)}"
                )
            if weight < 0 <= own.get(name, 0.0):
                raise WeightError(
                    f"reward.weights.{name}={weight:g} would reward the opposite: give 0 or more"
                )
        weights = {**own, **self.weights}
        if self.weights and not any(weights.get(name) for name in parts):
            raise WeightError(
                "reward.weights: all parts count 0, so nothing is rewarded: give "
                f"{' or '.join(parts)} a weight above 0"
            )


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """What a task may be told.

    Attributes:
      data_file: the user's own problems, JSONL, CSV or Parquet, local or gs://; None = the
        task's.
      heldout_file: the same for evaluation; None = a share of `data_file`.
      columns: our name of a field -> its name in these files, where that is another one.
      data_dir: local folder where a task builds problems of its own.
      prompt: "bare" (the question alone), "full" (with instructions how to answer), "released"
        (what the task's authors ask for), or None, the task's own choice.
      reward: which rule grades the answers.
      noise: chance in 0..1 of a mistake in an answer for a supervised start.
      sandbox: for tasks that run programs.
      seed: of the run.
      options: the task's own settings, an instance of its file's OPTIONS; None = it has none.
      from_nothing: whether the model starts from random weights. It then needs the task's
        tokenizer, and has learnt from bare questions.
      only_grades: texts that are there already are graded: the task reads no files, builds no
        problems, and `Task.train` is empty.

    Raises:
      ValueError: an unknown prompt, or noise outside of 0..1.
    """

    data_file: str | None = None
    heldout_file: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data_dir: str = "runs/data"
    prompt: str | None = None
    reward: RewardConfig = RewardConfig()
    noise: float = 0.0
    sandbox: SandboxConfig = SandboxConfig()
    seed: int = 0
    options: Any = None
    from_nothing: bool = False
    only_grades: bool = False

    @property
    def own_problems(self) -> bool:
        """Whether the problems are the task's own: not a user's, and some are needed."""
        return not self.only_grades and self.data_file is None and self.heldout_file is None

    @property
    def wording(self) -> str:
        """How questions are asked: as `prompt` says, or bare by a model that starts from nothing,
        else in full."""
        return self.prompt or ("bare" if self.from_nothing else "full")

    def __post_init__(self):
        if self.prompt not in (*PROMPTS, None):
            raise ValueError(
                f"prompt={self.prompt!r}: choose {' or '.join(PROMPTS)}, or leave it out"
            )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise={self.noise} must lie in 0 .. 1")


def read_files(
    settings: TaskSettings, read: Callable[[dict[str, Any]], Record], wanted: str
) -> tuple[list[Record], list[Record] | None]:
    """(training records, held-out records) of the user's files; None without a heldout_file.

    No records where the task only grades.

    Args:
      settings: names the files and their columns.
      read: as `Task.read`.
      wanted: what a row holds, for messages, such as " with question and domain".

    Raises:
      ValueError: no data_file, or a file or row that cannot be read; one line names `path:line`.
    """
    if settings.only_grades:
        return [], None
    if settings.data_file is None and settings.heldout_file is not None:
        raise ValueError(
            f"heldout_file={settings.heldout_file} needs a data_file too: add data_file=FILE.jsonl"
        )
    if settings.data_file is None:
        raise ValueError(f"add data_file=FILE.jsonl: one JSON object a line{wanted}")

    def records(path: str) -> list[Record]:
        return rows.read_records(path, read, wanted, settings.columns)

    wrong, heldout = Gathered(), None
    if settings.heldout_file is not None:
        with wrong.check():
            heldout = records(settings.heldout_file)
    with wrong.check():
        train = records(settings.data_file)
    wrong.end()
    return train, heldout


def file_task(
    settings: TaskSettings,
    fields: Sequence[str],
    grade: Callable[[Sequence[Record], Sequence[str]], Grades],
) -> Task:
    """A task on the user's files, whose rows hold texts.

    Args:
      settings: names the files and their columns.
      fields: names of a record's texts; numbers become texts too. The first is what is asked.
      grade: as `Task.grade`.

    Raises:
      ValueError: as `read_files`, or a column that is no field; one line.
    """
    checked = [rows.Field(name, "text or number", "give a text") for name in fields]
    rows.check_columns(settings.columns, checked)

    def read(row: dict[str, Any]) -> Record:
        return rows.check(row, "", checked)

    def messages(record: Record) -> list[dict[str, str]]:
        return [{"role": "user", "content": record[fields[0]]}]

    train, heldout = read_files(settings, read, rows.required(checked))
    return Task(train, heldout, messages, grade, read=read)


def solution_of(record: Record, seed: str | None, noise: float) -> str:
    """A user's own solution, as `Task.answer` gives it, which stands as it is.

    Raises:
      ValueError: under a seed, where there is noise: nobody knows how to make it wrong; one line.
    """
    if seed is not None and noise:
        raise ValueError(
            f"sft.noise={noise:g} needs generated records: set sft.noise=0 for solutions of your "
            "own"
        )
    return record["solution"]


def take_examples(
    settings: TaskSettings, train: Sequence[Record], shots: int
) -> tuple[list[Record], Sequence[Record]]:
    """(worked examples for the prompts, the other training problems).

    The same ones for every seed of a run, so that all hold out and ask the same; none where texts
    are only graded.

    Raises:
      ValueError: no other problem would be left; one line.
    """
    if not shots or settings.only_grades:
        return [], train
    if len(train) <= shots:
        raise ValueError(f"options.shots={shots}: there are {len(train)} training problems")
    chosen = random.Random("shots").sample(range(len(train)), shots)
    others = [record for row, record in enumerate(train) if row not in set(chosen)]
    return [train[row] for row in chosen], others


def likeness(one: str, other: str) -> float:
    """How alike two names are, 0..1."""
    return difflib.SequenceMatcher(None, one, other).ratio()


def notes_of(*parts: Sequence[Record] | None) -> tuple[str, ...]:
    """A line for the user where rows of his own begin their answers.

    Args:
      *parts: records, of which some have the "messages" of their rows; None = none.
    """
    records = [record for part in parts for record in part or ()]
    begun = sum("messages" in one and row_schema.begin_of(one["messages"]) != "" for one in records)
    return (row_schema.begun_line(begun, len(records)),) if begun else ()


def file_of(function: Callable) -> str:
    """The file that a function, method or callable object comes from, for messages."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is not None:
        return code.co_filename
    name = getattr(function, "__module__", None)
    return getattr(sys.modules.get(name), "__file__", None) or repr(function)
