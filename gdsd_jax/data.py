"""Records as padded rows, and loaders that go through them with a cursor that can be saved.

M problems, B rows of a batch, P prompt columns, G completion columns.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import grain
import numpy as np

from gdsd_jax import row_schema, tokenizers
from gdsd_jax.tasks import Record, Task, file_of
from gdsd_jax.tokenizers import Tokenizer

Row = dict[str, np.ndarray]
WIDTHS = 4  # of a run's prompts: each compiles its rounds' programs once more


@dataclasses.dataclass(frozen=True)
class Problems:
    """Records and their prompts as arrays: a random-access source of rows.

    Attributes:
      records: all the records; `index` counts in them.
      tokens: int32 [M, P], left-padded.
      valid: bool [M, P], False on padding.
      index: int64 [M], the record of each row.
      max_length: int32 [M], most tokens of a completion.
      widths: prompt columns that batches of these problems may have, ascending, P the last; none =
        all have P.
    """

    records: Sequence[Record]
    tokens: np.ndarray
    valid: np.ndarray
    index: np.ndarray
    max_length: np.ndarray
    widths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows) -> Row:
        """The arrays of one row, or of several."""
        fields = ("tokens", "valid", "index", "max_length")
        return {name: getattr(self, name)[rows] for name in fields}

    def part(self, rows: slice | np.ndarray) -> "Problems":
        """The problems of some rows, over the same records."""
        return Problems(self.records, **self[rows], widths=self.widths)


def problems_of(
    task: Task,
    records: Sequence[Record],
    tokenizer: Tokenizer,
    length: int,
    gen_length: int,
    *,
    too_long: str = "error",
    max_lengths: Mapping[str, int] | None = None,
    report: Callable[[str], None] = print,
) -> Problems:
    """The prompts of `records` in P = `length` columns.

    Args:
      gen_length: most tokens of a completion; `max_lengths` has fewer for a record's "domain".
      too_long: what becomes of prompts over the limit: "error", "drop" or "cut" at the front.
      report: gets one line with their number.

    Raises:
      ValueError: no prompt is left, or with "error" one is too long.
    """
    prompts = map(task.messages, records)
    encoded = tokenizers.encode_prompts(tokenizer, prompts, length, too_long=too_long)
    if len(encoded.too_long):
        done = {"drop": "dropped", "cut": "cut at the front"}[too_long]
        report(
            f"{len(encoded.too_long)} of {len(records)} prompts have more than {length} tokens "
            f"and were {done}"
        )
    if not len(encoded.index):
        raise ValueError(f"no prompt has {length} tokens or fewer: raise prompt_length")
    max_length = caps_of(records, encoded.index, gen_length, max_lengths or {})
    return Problems(records, encoded.tokens, encoded.valid, encoded.index, max_length)


def caps_of(
    records: Sequence[Record], index_M: np.ndarray, gen_length: int, max_lengths: Mapping[str, int]
) -> np.ndarray:
    """Most tokens of each problem's completions, int32 [M]: its domain's, at most `gen_length`."""
    longest = [max_lengths.get(records[index].get("domain"), gen_length) for index in index_M]
    return np.minimum(longest, gen_length).astype(np.int32)


def with_length(problems: Problems, gen_length: int, max_lengths: Mapping[str, int]) -> Problems:
    """The problems for completions of another length."""
    max_length = caps_of(problems.records, problems.index, gen_length, max_lengths)
    return dataclasses.replace(problems, max_length=max_length)


def widths_of(problems: Problems, prompts: int, multiple: int) -> tuple[int, ...]:
    """At most `WIDTHS` widths for the rounds of these problems, as in `Problems.widths`.

    A round has the least width that holds its longest prompt. Of all rounds a third fit in the
    first width, two thirds in the second and all in the third; held-out prompts may need P.

    Args:
      problems: M of them.
      prompts: of a round.
      multiple: the widths but P are multiples of it; 0 = there are none.
    """
    if not multiple:
        return ()
    columns, length_M = problems.tokens.shape[1], np.sort(problems.valid.sum(axis=1))
    share_W = np.arange(1, WIDTHS) / (WIDTHS - 1)
    # all prompts of a round are among the m shortest with probability (m / M) ** prompts
    place_W = np.ceil(len(length_M) * share_W ** (1 / prompts)).astype(int) - 1
    needed_W = -(-np.maximum(length_M[place_W], 1) // multiple) * multiple
    return tuple(sorted({*np.minimum(needed_W, columns).tolist(), columns}))


def narrowed(rows: Row, widths: tuple[int, ...]) -> Row:
    """Several rows in the least of these widths that holds their longest prompt.

    Padding on the left is what is cut off. Without widths the rows stay as they are.
    """
    if not widths:
        return rows
    longest = rows["valid"].sum(axis=1).max()
    columns = next(width for width in widths if width >= longest)
    return rows | {name: rows[name][:, -columns:] for name in ("tokens", "valid")}


def asked(task: Task, records: Sequence[Record]) -> list[str]:
    """What each record asks, however it is spaced; records that ask the same are one problem."""
    return [" ".join(str(task.messages(one)).replace(r"\n", " ").split()) for one in records]


def split_records(
    records: Sequence[Record], problems: Sequence[str], share: float, seed: int
) -> tuple[Sequence[Record], Sequence[Record]]:
    """(training records, held-out records), each in the order they came in.

    `share` of the problems are held out, at least one, by `seed` alone: a run's own seed changes
    nothing. All records of a problem are on one side.

    Args:
      records: of two problems or more.
      problems: which one each record is.
      share: of the problems.
      seed: by which they are drawn.
    """
    known = list(dict.fromkeys(problems))
    count = max(1, min(round(share * len(known)), len(known) - 1))
    drawn = np.random.default_rng(seed).permutation(len(known))[:count]
    chosen = {known[number] for number in drawn}
    pairs = list(zip(records, problems, strict=True))
    train = [record for record, problem in pairs if problem not in chosen]
    return train, [record for record, problem in pairs if problem in chosen]


def mixed(records: Sequence[Record], problems: Sequence[str], seed: int) -> Sequence[Record]:
    """The records in an order of their problems that `seed` draws; those of a problem stay
    together.

    A file may be sorted, by difficulty or kind. So mixed, its first records are a fair sample, and
    so is every part that is cut from it.
    """
    known = list(dict.fromkeys(problems))
    order = np.random.default_rng(seed).permutation(len(known))
    place = {known[number]: number_drawn for number_drawn, number in enumerate(order)}
    pairs = zip(problems, records, strict=True)
    return [record for _, record in sorted(pairs, key=lambda pair: place[pair[0]])]


def half_of(task: Task, records: Sequence[Record], half: str | None) -> Sequence[Record]:
    """The records of every second cluster, as `heldout_half` says, or all.

    Those of no cluster are with others that ask the same. Clusters are taken by their names: where
    alike ones have like names, both halves get some of them.

    Raises:
      ValueError: there is no such half.
    """
    if half is None:
        return records
    first = {"development": 0, "test": 1}[half]
    clusters = [task.cluster(one) for one in records]
    names = [name or own for name, own in zip(clusters, asked(task, records))]
    order = sorted(set(names)) if any(clusters) else list(dict.fromkeys(names))
    chosen = set(order[first::2])
    found = [one for one, name in zip(records, names, strict=True) if name in chosen]
    if not found:
        raise ValueError(f"heldout_half={half}: of {len(records)} held-out problems none is left")
    return found


def split_sft(problems: Problems, steps: int, share: float) -> tuple[Problems, Problems]:
    """(problems of the supervised phase, problems of the rounds): apart, unless the former are
    all, or there is but one."""
    if not steps or share == 1 or len(problems) == 1:
        return problems, problems
    count = max(1, min(round(share * len(problems)), len(problems) - 1))
    return problems.part(slice(count)), problems.part(slice(count, None))


def answer_of(task: Task, record: Record, seed: str | None) -> str:
    """The task's answer to a record, without its prefill.

    Raises:
      ValueError: the task has no answers, or this one is without its prefill; one line.
    """
    if task.answer is None:
        file = file_of(task.messages)
        raise ValueError(f"{file}: this task has no answers to fine-tune on: set sft.steps=0")
    text, prefill = task.answer(record, seed), row_schema.begin_of(task.messages(record))
    if not text.startswith(prefill):
        file = file_of(task.answer)
        raise ValueError(f"{file}: an answer does not begin with its prefill {prefill!r}")
    return text.removeprefix(prefill)


def fitting(
    task: Task,
    problems: Problems,
    tokenizer: Tokenizer,
    length: int,
    report: Callable[[str], None] = print,
    most: int | None = None,
) -> Problems:
    """The problems whose best answers have `length` tokens or fewer, their stop id counted.

    Args:
      task: one that has answers.
      problems: M of them.
      tokenizer: of the model.
      length: the columns of a completion.
      report: gets one line where some of all do not fit.
      most: the first so many of these problems alone, the answers behind them are not read;
        None = all.

    Raises:
      ValueError: none is left, or as `answer_of`; one line.
    """
    rows = []
    for row, index in enumerate(problems.index):
        if len(rows) == most:
            break
        text = answer_of(task, problems.records[index], None)
        if len(tokenizer.encode(text)) < length:
            rows.append(row)
    if len(rows) == len(problems):
        return problems
    if not rows:
        raise ValueError(f"no answer has {length} tokens or fewer: raise sampler.gen_length")
    if most is None:
        report(
            f"{len(problems) - len(rows)} of {len(problems)} answers have more than {length} "
            "tokens (sampler.gen_length) and were dropped"
        )
    return problems.part(np.asarray(rows))


def answers_of(
    task: Task, problems: Problems, tokenizer: Tokenizer, length: int, seed: int
) -> Callable[[int, Row], Row]:
    """Transform for `make_loader` that adds an answer of the task to each row, new at each visit.

    Adds "completion" int32 [G = `length`], right-padded, and "completion_len" int32, the stop id
    counted. An answer that is too long gives way to the best one. The transform raises ValueError
    where that one is missing, too long (`fitting` leaves such problems out), or without its
    prefill.
    """

    def add(position: int, row: Row) -> Row:
        record = problems.records[row["index"]]
        ids = tokenizer.encode(answer_of(task, record, f"{seed} {position}"))
        if len(ids) >= length:
            ids = tokenizer.encode(answer_of(task, record, None))
        (tokens,), (used,) = tokenizers.pad_completions(tokenizer, [ids], length)
        return row | {"completion": tokens, "completion_len": used}

    return add


def make_loader(
    source: Sequence[Row],
    transform: Callable[[int, Row], Row] | None = None,
    *,
    batch: int,
    seed: int,
) -> grain.DatasetIterator:
    """Endless iterator over batches of B = `batch` rows, every field stacked.

    Each pass over the source is shuffled anew. `transform` gets the position of a row in the whole
    stream of visits, and the row. The iterator's `get_state()` is a small dict that JSON can hold,
    which `set_state()` takes in any later process. Reading is in the calling thread.
    """

    def fetch(position: int, row: int) -> Row:
        found = source[row]
        return found if transform is None else transform(position, found)

    # repeated as often as 64 bits can count: without a number no batch of one row is taken
    passes = (1 << 62) // max(len(source), 1)
    rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(passes)
    batches = rows.map_with_index(fetch).batch(batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
