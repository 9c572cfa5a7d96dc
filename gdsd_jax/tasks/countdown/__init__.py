"""Task "countdown": reach a target with some numbers, each used once, and + - * /.

A record is a dict with "numbers" (list of int), "target" (int) and "solution" (an expression, ""
where none is known). Problems are generated, or the user's own: JSONL with the columns numbers and
target, in the layout of Jiayi-Pan/Countdown-Tasks-3to4 (nums, target), or in that of diffu-GRPO's
public countdown_cd3_test.jsonl (input, output; arXiv 2504.12216).
"""

import dataclasses
import functools
import random
import re
from typing import Any

from gdsd_jax import rows
from gdsd_jax.tasks import generated
from gdsd_jax.tasks.countdown import expressions, grading, problems
from gdsd_jax.tasks.task import Record, Task, TaskSettings, read_files

FEWEST, MOST = 2, 6  # numbers of a problem
LARGEST = 10**9  # of a user's numbers and targets
FIELDS = (
    rows.Field("numbers", "integers", f"give {FEWEST} to {MOST} whole numbers as a list"),
    rows.Field("target", "integer", "give a whole number"),
    rows.Field("solution", "text", "give an expression, or leave it out", default=""),
)
RULES = (
    "You are given some numbers and a target. Write one arithmetic expression that is worth the "
    "target exactly. Use every number once and no other number; you may add, subtract, multiply, "
    "divide and set brackets. Think as long as you need, then finish with the expression alone "
    "between tags, without an equals sign. For 2, 3, 4 and the target 5 an answer is "
    "<answer>2*4-3</answer>"
)
# What diffu-GRPO and GDSD ask for in training, in other words: one user turn with the tags, the
# numbers and the target, and an example. (diffu-GRPO's evaluation asks for \boxed{} inside the
# tags, which the reward does not understand.)
RELEASED = (
    "Answer in the following format:\n"
    "<reasoning>\n...\n</reasoning>\n"
    "<answer>\n...\n</answer>\n\n"
    "Make an arithmetic expression that is worth exactly {target}, with no other numbers than "
    "{numbers}. All numbers of the list have to be used, each exactly once. The operations +, -, "
    "*, and / may be used as needed. When you have reasoned, give your final expression alone "
    "inside <answer></answer> tags, with neither an equals sign nor the target number. For "
    "example, for the numbers [2, 3, 4] and the target 5 this is a valid answer: "
    "<answer>\n2*4-3\n</answer>"
)
PREFILL = "<reasoning>"
SIGN_NAMES = {"a": "+", "s": "-", "m": "*", "d": "/"}  # as they may stand in the name of a folder


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The task's own settings, of the generated problems.

    Attributes:
      counts: how many numbers a problem has, each count as likely.
      largest: the largest number of a problem; the smallest is 1.
      largest_target: the largest target; the smallest is 1.
      signs: signs of the expressions that make the targets, some of +-*/. Answers may have all.
    """

    counts: tuple[int, ...] = (3, 4)
    largest: int = 99
    largest_target: int = 100
    signs: str = expressions.SIGNS

    def __post_init__(self):
        if not self.counts or not all(FEWEST <= count <= MOST for count in self.counts):
            raise ValueError(f"options.counts={self.counts}: give numbers of {FEWEST} .. {MOST}")
        if not self.signs or not set(self.signs) <= set(expressions.SIGNS):
            raise ValueError(f"options.signs={self.signs!r}: give some of {expressions.SIGNS}")
        for name in ("largest", "largest_target"):
            if not 2 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"options.{name}={getattr(self, name)} must lie in 2 .. {LARGEST}")


def make(settings: TaskSettings) -> Task:
    """The task; generated problems are built under `settings.data_dir` where no file is given.

    Generated problems are asked bare and the user's own in full, unless `settings.prompt` says
    otherwise or the model comes from nothing. A data_file without heldout_file is split by its
    numbers, as the generated problems are.

    Raises:
      ValueError: a file, row or column that cannot be read, or a remote data_dir; one line.
    """
    rows.check_columns(settings.columns, FIELDS)
    notes = ()
    if settings.own_problems:
        options = settings.options or OPTIONS()
        train, heldout = (records(settings.data_dir, options, name) for name in problems.SPLITS)
        prompt = settings.prompt or "bare"
    else:
        train, heldout = read_files(settings, read, rows.required(FIELDS))
        if heldout is None:
            train, heldout = split(train)
            count = 0 if heldout is None else len(heldout)
            notes = (f"{settings.data_file}: held out by their numbers: {count} problems",)
        else:
            notes = (overlap_line(settings.heldout_file, heldout, train),)
        prompt = settings.wording
    ask = {"bare": bare_messages, "full": full_messages, "released": released_messages}[prompt]
    begin = f"{PREFILL}</reasoning>\n" if prompt == "released" else ""
    return Task(
        train,
        heldout,
        ask,
        functools.partial(grading.grade, reward=settings.reward),
        functools.partial(answer, noise=settings.noise, begin=begin),
        score="correct",
        read=read,
        notes=notes,
    )


def records(data_dir: str, options: OPTIONS, split: str) -> list[dict[str, Any]]:
    """The generated records of a split, built where they are not there yet."""
    from gdsd_jax.tasks.countdown import builder  # slow to import, and needed only here

    chosen = problems.Range(**vars(options))
    counts = "_".join(map(str, options.counts))
    signs = "".join(name for name, sign in SIGN_NAMES.items() if sign in options.signs)
    ranges = f"{counts}-{options.largest}-{options.largest_target}-{signs}"
    name = f"countdown-{problems.VERSION}-{ranges}"
    return generated.records(data_dir, name, lambda new: builder.write(new, chosen), split)


# ---------------------------------------------------------------- a user's rows


def read(row: Any) -> dict[str, Any]:
    """The record of a file's row; ValueError, in one line, where it is none.

    Besides numbers and target, rows with nums and target, with input and output (texts such as
    "30,100,93" and "23"), and those of diffu-GRPO's generation files are read ("ground_truth" holds
    the numbers and the target).
    """
    found = rows.check(_renamed(row), "", FIELDS)
    numbers, target = found["numbers"], found["target"]
    if not FEWEST <= len(numbers) <= MOST:
        raise ValueError(f"numbers has {len(numbers)} entries: {FIELDS[0].mend}")
    if not all(0 <= number <= LARGEST for number in numbers):
        raise ValueError(f"numbers={numbers!r:.60}: give numbers of 0 .. {LARGEST}")
    if abs(target) > LARGEST:
        raise ValueError(f"target={target!r:.40}: give a number of at most {LARGEST}")
    record = {"numbers": numbers, "target": target, "solution": found["solution"].strip()}
    if record["solution"] and not grading.is_right(record, record["solution"]):
        raise ValueError(f"solution={record['solution']!r:.60}: it does not reach {target}")
    return record


def _renamed(row: Any) -> Any:
    """A row under our names, where it has others that are known."""
    if not isinstance(row, dict) or "numbers" in row:
        return row
    if "nums" in row:
        return {"numbers": row["nums"], **row}
    if "input" in row and "output" in row:
        return {"numbers": _integers(row["input"]), "target": _integer(row["output"])}
    truth = row.get("ground_truth")
    if isinstance(truth, list) and len(truth) == 2:
        return {"numbers": truth[0], "target": truth[1]}
    return row


def _integers(text: Any) -> Any:
    """The whole numbers of a text such as "30,100,93"; what is none stays as it is."""
    return [_integer(part) for part in text.split(",")] if isinstance(text, str) else text


def _integer(text: Any) -> Any:
    """The whole number of a short text; what is none stays as it is."""
    is_number = isinstance(text, str) and re.fullmatch(r"\s*-?[0-9]{1,12}\s*", text)
    return int(text) if is_number else text


def split(given: list[Record]) -> tuple[list[Record], list[Record] | None]:
    """`generated.split` by the numbers."""
    return generated.split(given, lambda record: problems.split_of(record["numbers"]))


def overlap_line(file: str, heldout: list[Record], train: list[Record]) -> str:
    """How many held-out problems have numbers that are trained on, for the user."""
    known = {tuple(sorted(record["numbers"])) for record in train}
    same = sum(tuple(sorted(record["numbers"])) in known for record in heldout)
    return f"{file}: {same} of {len(heldout)} problems have numbers that are trained on"


# ---------------------------------------------------------------- prompts and answers


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The numbers and the target alone."""
    numbers = " ".join(map(str, record["numbers"]))
    return [{"role": "user", "content": f"{numbers} = {record['target']}"}]


def full_messages(record: Record) -> list[dict[str, str]]:
    """A system turn with the rules and how to answer, then the numbers and the target."""
    question = f"Numbers: {', '.join(map(str, record['numbers']))}\nTarget: {record['target']}"
    return [{"role": "system", "content": RULES}, {"role": "user", "content": question}]


def released_messages(record: Record) -> list[dict[str, str]]:
    """The content of the released training prompt, and the begin of the answer."""
    content = RELEASED.format(numbers=list(record["numbers"]), target=record["target"])
    return [{"role": "user", "content": content}, {"role": "assistant", "content": PREFILL}]


def answer(record: Record, seed: str | None, noise: float, begin: str) -> str:
    """An expression in tags, behind `begin`.

    Under a seed and with probability `noise` it is another expression of the same numbers, which
    misses the target.

    Raises:
      ValueError: nothing reaches the target.
    """
    text = record["solution"] or _solved(tuple(record["numbers"]), record["target"])
    rng = random.Random(f"{seed} {record['numbers']} {record['target']}")
    if seed is not None and rng.random() < noise:
        text = _wrong(record, rng) or text
    return f"{begin}<answer>{text}</answer>"


@functools.lru_cache(maxsize=65_536)
def _solved(numbers: tuple[int, ...], target: int) -> str:
    """An expression of the numbers that reaches the target; ValueError where there is none."""
    tree = expressions.solve(numbers, target)
    if tree is None:
        raise ValueError(
            f"numbers={list(numbers)}, target={target}: nothing reaches it; take it out"
        )
    return expressions.text_of(tree)


def _wrong(record: Record, rng: random.Random) -> str | None:
    """An expression of the record's numbers that misses its target; None where none was drawn."""
    numbers = list(record["numbers"])
    for _ in range(20):
        tree = problems.random_tree(rng.sample(numbers, len(numbers)), rng)
        if expressions.value_of_tree(tree) != record["target"]:
            return expressions.text_of(tree)
    return None
