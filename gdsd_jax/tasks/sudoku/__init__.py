"""Task "sudoku": fill the empty cells of a 4 by 4 grid.

A record is a dict with "puzzle" and "solution", 16 digits each, row by row, 0 for an empty cell.
Puzzles are generated, or the user's own: CSV or JSONL with the columns puzzle and solution, such as
diffu-GRPO's public 4x4_test_sudoku.csv (arXiv 2504.12216).
"""

from collections.abc import Sequence
import dataclasses
import functools
import random
import re
from typing import Any

from gdsd_jax import rows
from gdsd_jax.tasks import generated
from gdsd_jax.tasks.sudoku import grading, problems
from gdsd_jax.tasks.sudoku.worked import steps
from gdsd_jax.tasks.task import Record, Task, TaskSettings, read_files, take_examples

FIELDS = (
    rows.Field("puzzle", "text", "give 16 digits, row by row, 0 for an empty cell"),
    rows.Field("solution", "text", "give 16 digits, or leave it out", default=""),
)
RULES = (
    "You fill in Sudoku grids of 4 by 4. A grid is written as 16 digits, row after row, with 0 for "
    "an empty cell. In the finished grid each row, each column and each of the four 2 by 2 corners "
    "holds 1, 2, 3 and 4 once, and the digits that were given stay where they are. Think as long "
    "as you need, then finish with the whole grid between tags, 16 digits and nothing else: "
    "<answer>1234341221434321</answer>"
)
# What diffu-GRPO's evaluation asks for, in other words: one user turn with the form of a 16-digit
# puzzle, the rules, a warning that the answer must be complete, and the tags of the answer.
RELEASED = (
    "Below is a 4x4 Sudoku puzzle to solve. It is a string of 16 characters, read from left to "
    "right and from top to bottom, in which '0' stands for an empty cell.\n\n"
    "Rules:\n"
    "- Empty cells get digits from 1 to 4\n"
    "- Every row has each of the digits 1-4 exactly once\n"
    "- Every column has each of the digits 1-4 exactly once\n"
    "- Every 2x2 box has each of the digits 1-4 exactly once\n\n"
    "Important: the solution has to be a COMPLETE string of 16 characters, all of them digits 1-4, "
    "which is the grid once it is solved.\n\n"
    "Answer in exactly this format:\n"
    "<reasoning>\nHow you solve it, step by step\n</reasoning>\n"
    "<answer>\n[the 16 characters of the solution, without spaces or separators]\n</answer>\n\n"
)
ASK = "Solve this Sudoku puzzle: {}\n"
PREFILL = "<reasoning>"


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The task's own settings.

    Attributes:
      blanks: fewest and most empty cells of a generated puzzle; each number is drawn as often, but
        with more cells empty fewer puzzles have one solution and are kept.
      shots: worked examples before each puzzle, from the training puzzles, which lose them.

    Raises:
      ValueError: numbers that cannot be.
    """

    blanks: tuple[int, int] = (6, 10)
    shots: int = 0

    def __post_init__(self):
        if self.shots < 0:
            raise ValueError(f"options.shots={self.shots} must not be negative")
        least, most = self.blanks
        if not 1 <= least <= most <= problems.MOST_BLANKS:
            raise ValueError(
                f"options.blanks={self.blanks}: give (fewest, most) in 1 .. {problems.MOST_BLANKS}"
            )


def make(settings: TaskSettings) -> Task:
    """The task; generated puzzles are built under `settings.data_dir` where no file is given.

    Generated puzzles are asked bare and the user's own in full, unless `settings.prompt` says
    otherwise or the model comes from nothing. A data_file without heldout_file is split by solved
    grid, as the generated puzzles are.

    Raises:
      ValueError: a file, row or column that cannot be read, fewer puzzles than examples, or a
        remote data_dir; one line.
    """
    rows.check_columns(settings.columns, FIELDS)
    notes = ()
    options = settings.options or OPTIONS()
    if settings.own_problems:
        train, heldout = (records(settings.data_dir, options, name) for name in problems.SPLITS)
        prompt = settings.prompt or "bare"
    else:
        train, heldout = read_files(settings, read, rows.required(FIELDS))
        if heldout is None:
            notes = (split_line(settings.data_file, train),)
            train, heldout = split(train)
        else:
            notes = (overlap_line(settings.heldout_file, heldout, train),)
        prompt = settings.wording
    examples, train = take_examples(settings, train, options.shots)
    begin = f"{PREFILL}</reasoning>\n" if prompt == "released" else ""
    return Task(
        train,
        heldout,
        functools.partial(messages, prompt=prompt, examples=examples),
        functools.partial(grading.grade, reward=settings.reward),
        functools.partial(answer, noise=settings.noise, begin=begin),
        score="cells",
        read=read,
        notes=notes,
    )


def records(data_dir: str, options: OPTIONS, split: str) -> list[dict[str, str]]:
    """The generated records of a split, built where they are not there yet."""
    from gdsd_jax.tasks.sudoku import builder  # slow to import, and needed only here

    least, most = options.blanks
    name = f"sudoku-{problems.VERSION}-{least}-{most}"
    return generated.records(data_dir, name, lambda new: builder.write(new, options.blanks), split)


# ---------------------------------------------------------------- a user's rows


def read(row: Any) -> dict[str, str]:
    """The record of a file's row; ValueError, in one line, where it is none.

    Besides puzzle and solution (or Puzzle and Solution), the rows of diffu-GRPO's generation files
    are read: the puzzle from "question", the solution from "ground_truth".
    """
    found = rows.check(_renamed(row), "", FIELDS)
    puzzle, solution = found["puzzle"].strip(), found["solution"].strip()
    if not re.fullmatch("[0-4]{16}", puzzle) or "0" not in puzzle:
        raise ValueError(f"puzzle={puzzle!r:.40}: {FIELDS[0].mend}, at least one")
    solutions = ["".join(map(str, grid)) for grid in problems.completions(puzzle)]
    if not solutions:
        raise ValueError(f"puzzle={puzzle}: it has no solution")
    if not solution and len(solutions) > 1:
        raise ValueError(f"puzzle={puzzle}: it has {len(solutions)} solutions, say which one")
    if solution and solution not in solutions:
        raise ValueError(f"solution={solution!r:.40}: it does not solve the puzzle {puzzle}")
    return {"puzzle": puzzle, "solution": solution or solutions[0]}


def _renamed(row: Any) -> Any:
    """A row under our names, where it has others that are known."""
    if not isinstance(row, dict) or "puzzle" in row:
        return row
    if "Puzzle" in row:
        return {"puzzle": row["Puzzle"], "solution": row.get("Solution")}
    question = row.get("question")
    if isinstance(question, str) and "ground_truth" in row:
        digits = re.search(r"(?<![0-9])[0-9]{16}(?![0-9])", question)
        puzzle = question if digits is None else digits[0]
        return {"puzzle": puzzle, "solution": row["ground_truth"]}
    return row


def split(given: list[Record]) -> tuple[list[Record], list[Record] | None]:
    """`generated.split` by the class of the solution."""
    return generated.split(given, lambda record: problems.split_of(record["solution"]))


def split_line(file: str, given: list[Record]) -> str:
    """How a file's puzzles and grids lie in the training classes, for the user."""
    grids = {record["solution"] for record in given}
    inside = sum(problems.split_of(record["solution"]) == "train" for record in given)
    known = sum(problems.split_of(grid) == "train" for grid in grids)
    return (
        f"{file}: {inside} of {len(given)} puzzles, {known} of {len(grids)} solved grids, belong "
        "to the training classes; the others are held out"
    )


def overlap_line(file: str, heldout: list[Record], train: list[Record]) -> str:
    """How many held-out puzzles have a solved grid, or a class, that is trained on."""
    grids = {record["solution"] for record in train}
    classes = set(map(problems.class_of, grids))
    same = sum(record["solution"] in grids for record in heldout)
    alike = sum(problems.class_of(record["solution"]) in classes for record in heldout)
    return (
        f"{file}: {same} of {len(heldout)} puzzles have a solved grid that is trained on, {alike} "
        "have one up to the names of its digits"
    )


# ---------------------------------------------------------------- prompts and answers


def messages(record: Record, prompt: str, examples: Sequence[Record] = ()) -> list[dict[str, str]]:
    """The puzzle as it is asked, after the examples.

    Args:
      record: with "puzzle".
      prompt: "bare" (the puzzle alone), "full" (behind a system turn with the rules and how to
        answer) or "released" (the content of the released evaluation's prompt, and the begin of
        the answer).
      examples: worked puzzles: turns of their own, and in the released prompt a part of the turn,
        as SPG has them.
    """
    if prompt == "released":
        content = RELEASED + _after_examples(record, examples)
        return [{"role": "user", "content": content}, {"role": "assistant", "content": PREFILL}]
    turns = [{"role": "system", "content": RULES}] if prompt == "full" else []
    for example in examples:
        said = answer(example, None, 0.0, "")
        if prompt == "full":
            said = f"{_steps(example)}\n{said}"
        turns.append({"role": "user", "content": example["puzzle"]})
        turns.append({"role": "assistant", "content": said})
    return [*turns, {"role": "user", "content": record["puzzle"]}]


def _steps(record: Record) -> str:
    return steps(record["puzzle"], record["solution"])


def _after_examples(record: Record, examples: Sequence[Record]) -> str:
    """What is asked in the released prompt."""
    asked = ASK.format(record["puzzle"])
    if not examples:
        return asked
    shown = [
        f"Question: {ASK.format(example['puzzle'])}Answer:\n"
        f"{PREFILL}\n{_steps(example)}\n</reasoning>\n<answer>\n{example['solution']}\n</answer>"
        for example in examples
    ]
    return "\n\n".join([*shown, f"Question: {asked}Answer:\n"])


def answer(record: Record, seed: str | None, noise: float, begin: str) -> str:
    """The solution in tags; under a seed, with probability `noise`, with 1 to 4 wrong cells."""
    cells = list(record["solution"])
    rng = random.Random(f"{seed} {record['puzzle']}")
    if seed is not None and rng.random() < noise:
        empty = [cell for cell, given in enumerate(record["puzzle"]) if given == "0"]
        for cell in rng.sample(empty, min(rng.randint(1, 4), len(empty))):
            cells[cell] = rng.choice([digit for digit in "1234" if digit != cells[cell]])
    return f"{begin}<answer>{''.join(cells)}</answer>"
