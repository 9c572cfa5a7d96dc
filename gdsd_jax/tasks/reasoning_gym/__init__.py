"""Task "reasoning_gym": data sets of the library reasoning-gym by name (arXiv 2505.24760).

A record is a dict with "question", "answer" ("" where the data set tells none), "dataset",
"settings" (of the data set, as JSON, with its seed) and "index". The library makes the problems and
scores the answers in processes of its own (`worker.py`), since its scorers may take any time. It is
optional: pip install reasoning-gym. N answers.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
import random
from typing import Any

import numpy as np

from gdsd_jax.tasks import answer_tags, generated
from gdsd_jax.tasks.judges import Judge, Judges
from gdsd_jax.tasks.task import Grades, Record, RewardConfig, Task, TaskSettings

MEND = "pip install reasoning-gym"
JUDGE = Judge(Path(__file__).with_name("worker.py"), "reasoning-gym", MEND, failed=0.0)
HELDOUT_SEED = 1 << 31  # beyond what options.seed may be: the data sets count on from their seed
MOST = 1_000_000  # problems of a data set
LONGEST = 20_000  # characters of an answer
MAKE_S = 600.0  # of processor time, for CHUNK problems
CHUNK = 50
OWN = {"correct": 1.0}
RULES = (
    "You solve problems of reasoning. Think as long as you need, one step at a time. Then finish "
    "with the answer alone, in the form that the problem asks for, between tags: "
    "<answer>...</answer>"
)


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    """The task's own settings.

    Attributes:
      dataset: name of a data set of the library, or several, such as (leg_counting,zebra_puzzles):
        each gives as many problems.
      size: training problems of each data set.
      heldout_size: held-out problems of each data set.
      seed: seed of the training problems; the run's own seed changes nothing of them.
      config: the data sets' own settings, such as options.config.max_animals=5; numbers, lists and
        the like as JSON has them.
      workers: processes that make problems and score answers.

    Raises:
      ValueError: a number that cannot be.
    """

    dataset: tuple[str, ...] = ("leg_counting",)
    size: int = 2000
    heldout_size: int = 200
    seed: int = 0
    config: dict[str, str] = dataclasses.field(default_factory=dict)
    workers: int = 2

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("options.dataset=(): name at least one data set")
        for name in ("size", "heldout_size"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"options.{name}={getattr(self, name)} must lie in 1 .. {MOST}")
        if not 0 <= self.seed < HELDOUT_SEED - MOST:
            raise ValueError(f"options.seed={self.seed} must lie in 0 .. {HELDOUT_SEED - MOST - 1}")
        if self.workers < 1:
            raise ValueError(f"options.workers={self.workers} must be at least 1")
        for name in ("seed", "size"):
            if name in self.config:
                raise ValueError(f"options.config.{name}: set options.{name}")


def make(settings: TaskSettings) -> Task:
    """The task; its problems are made once, under `settings.data_dir`.

    A training problem whose question is held out too is left out. Questions are asked with
    instructions, or bare where the model comes from nothing, unless `settings.prompt` says
    otherwise.

    Raises:
      ValueError: the library is missing, a file is given, no such data set, settings that it
        refuses, or a remote data_dir; one line.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError(f"task=reasoning_gym needs the library reasoning-gym: {MEND}")
    if settings.data_file is not None or settings.heldout_file is not None:
        raise ValueError("task=reasoning_gym makes its problems: leave out data_file, heldout_file")
    options = settings.options or OPTIONS()
    train, heldout = records(settings.data_dir, options) if settings.own_problems else ([], [])
    notes = []
    asked = {record["question"] for record in heldout}
    kept = [record for record in train if record["question"] not in asked]
    if not kept and settings.own_problems:
        raise ValueError(
            f"options.dataset={', '.join(options.dataset)}: every training problem is held out "
            "too: give another options.seed, or a smaller options.heldout_size"
        )
    if len(kept) < len(train):
        notes.append(
            f"{len(train) - len(kept)} of {len(train)} training problems are held out too, and are "
            "left out"
        )
    prompt = settings.wording
    known = all(record["answer"] for record in kept)
    # answers for mistakes: those of other problems
    pool = sorted({record["answer"] for record in kept})
    judges = Judges(JUDGE, options.workers)
    return Task(
        kept,
        heldout,
        bare_messages if prompt == "bare" else full_messages,
        functools.partial(grade, judges=judges, reward=settings.reward),
        functools.partial(answer, noise=settings.noise, pool=pool) if known else None,
        score="correct",
        close=judges.close,
        notes=notes,
    )


# ---------------------------------------------------------------- problems


def records(data_dir: str, options: OPTIONS) -> tuple[list[Record], list[Record]]:
    """(training records, held-out records), made where they are not there yet."""
    version = importlib.metadata.version("reasoning-gym")
    chosen = dataclasses.asdict(options) | {"workers": None}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]
    folder = generated.build(
        data_dir, f"reasoning_gym-{version}-{digest}", functools.partial(write, options=options)
    )
    found = []
    for split in ("train", "heldout"):
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        found.append([json.loads(line) for line in lines if line])
    train, heldout = found
    return train, to_and_fro(heldout, len(options.dataset))


def to_and_fro(records: list[Record], count: int) -> list[Record]:
    """Records, one of each of `count` data sets after the other, with every second such group
    backwards: so that halves of them, which are every second record, have all data sets alike."""
    groups = [records[begin : begin + count] for begin in range(0, len(records), count)]
    return [one for n, group in enumerate(groups) for one in (group[::-1] if n % 2 else group)]


def write(folder: Path, options: OPTIONS) -> None:
    """Makes the problems of both splits and writes them into `folder`."""
    splits = {
        "train": (options.seed, options.size),
        "heldout": (HELDOUT_SEED, options.heldout_size),
    }
    own = {name: parsed(text) for name, text in options.config.items()}
    with Judges(JUDGE, options.workers, limit_s=MAKE_S, wall_s=10 * MAKE_S) as judges:
        for split, (seed, size) in splits.items():
            settings = json.dumps(own | {"seed": seed, "size": size}, sort_keys=True)
            found = []
            for name in options.dataset:
                found.append(problems_of(judges, name, settings, size))
            # one of each data set after the other, so that a part of all has all
            rows = [row for together in zip(*found) for row in together]
            text = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def problems_of(judges: Judges, name: str, settings: str, size: int) -> list[dict[str, Any]]:
    """The records of one data set."""
    chunks = [list(range(begin, min(begin + CHUNK, size))) for begin in range(0, size, CHUNK)]
    # the first alone: what is wrong with the settings is told once
    replies = judges.ask([["make", name, settings, chunks[0]]])
    if isinstance(replies[0], list):
        replies += judges.ask([["make", name, settings, chunk] for chunk in chunks[1:]])
    found = []
    for chunk, reply in zip(chunks, replies):
        if isinstance(reply, str):
            raise ValueError(f"options.dataset: {reply}")
        if not isinstance(reply, list):
            raise ValueError(f"options.dataset: {name} takes too much time or memory: ask for less")
        for index, (question, text) in zip(chunk, reply):
            found.append(
                {
                    "question": question,
                    "answer": text if isinstance(text, str) else "",
                    "dataset": name,
                    "settings": settings,
                    "index": index,
                }
            )
    return found


def parsed(text: str) -> Any:
    """A setting of a data set: what JSON says, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# ---------------------------------------------------------------- prompts and answers


def bare_messages(record: Record) -> list[dict[str, str]]:
    """The question alone."""
    return [{"role": "user", "content": record["question"]}]


def full_messages(record: Record) -> list[dict[str, str]]:
    """A system turn with how to answer, and the question."""
    return [{"role": "system", "content": RULES}, *bare_messages(record)]


def answer(record: Record, seed: str | None, noise: float, pool: Sequence[str]) -> str:
    """The data set's answer in tags; under a seed, with probability `noise`, another problem's."""
    text = record["answer"]
    rng = random.Random(f"{seed} {record['question']}")
    if seed is not None and rng.random() < noise:
        text = rng.choice(pool)
    return f"<answer>{text}</answer>"


# ---------------------------------------------------------------- grading


def grade(
    records: Sequence[Record], texts: Sequence[str], judges: Judges, reward: RewardConfig
) -> Grades:
    """Part "correct" is the library's score in 0..1, "format" whether there are answer tags; the
    reward is "correct", and a score of 1 is solved.

    The answer stands in the last tags. Without tags it is the whole text; released, as the library
    has it, there is none then. An answer that is empty, longer than 20,000 characters, or one that
    would run a program gets 0, and so does one that takes more than 2 seconds of processor time, or
    too much memory. An answer that two processes were lost to from outside is not judged.
    """
    tagged = [answer_tags.last_of(text) for text in texts]
    format_N = np.array([found is not None for found in tagged], np.float32)
    correct_N, judged_N = np.zeros(len(texts), np.float32), np.ones(len(texts), bool)
    rows_of: dict[str, list[int]] = {}
    for row, (record, text) in enumerate(zip(records, texts)):
        said = tagged[row]
        if said is None:
            said = "" if reward.variant == "released" else text
        said = said.strip()
        if said and len(said) <= LONGEST:
            request = ["score", record["dataset"], record["settings"], record["index"]]
            rows_of.setdefault(json.dumps([*request, record["question"], said]), []).append(row)
    # the same answer to the same problem is asked about once
    scores = judges.ask([json.loads(request) for request in rows_of])
    for rows, score in zip(rows_of.values(), scores):
        correct_N[rows] = 0.0 if score is None else score
        judged_N[rows] = score is not None
    parts = {"correct": correct_N, "format": format_N}
    solved_N = correct_N > 1 - 1e-6
    return Grades(reward.total(parts, OWN), solved_N, parts, judged_N)
