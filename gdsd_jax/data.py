"""Problems and fine-tuning rows of the loop, read through grain with a cursor that can be saved.

B rows of a batch, P prompt columns, G completion columns.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import types
from typing import Any

import grain
import numpy as np

from gdsd_jax import tokenizers

Record = Mapping[str, Any]
Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Problems:
    """Records and their prompts as arrays: a random-access source of rows.

    Attributes:
      records: all the records; `index` counts in them.
      tokens: int32 [M, P], left-padded.
      valid: bool [M, P], False on padding.
      index: int64 [M], the record of each row.
      too_long: int64, the records whose prompt was dropped or cut.
    """

    records: Sequence[Record]
    tokens: np.ndarray
    valid: np.ndarray
    index: np.ndarray
    too_long: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Row:
        return {"tokens": self.tokens[row], "valid": self.valid[row], "index": self.index[row]}

    def rows(self, part: slice) -> "Problems":
        """The problems of some rows, over the same records."""
        return dataclasses.replace(
            self, tokens=self.tokens[part], valid=self.valid[part], index=self.index[part]
        )


def prepare(
    task: types.ModuleType,
    records: Sequence[Record],
    tokenizer: tokenizers.Tokenizer,
    length: int,
    *,
    too_long: str = "error",
    report: Callable[[str], None] = print,
) -> Problems:
    """The prompts of `records` in P = `length` columns.

    Prompts over the limit are an error, dropped or cut, as `too_long` says ("error", "drop",
    "cut"); `report` gets one line with their number. Raises ValueError where none is left.
    """
    encoded = tokenizers.encode_prompts(
        tokenizer, map(task.messages, records), length, too_long=too_long
    )
    if len(encoded.too_long):
        done = {"drop": "dropped", "cut": "cut at the front"}[too_long]
        report(
            f"{len(encoded.too_long)} of {len(records)} prompts have more than {length} tokens "
            f"and were {done}"
        )
    if not len(encoded.index):
        raise ValueError(f"no prompt has {length} tokens or fewer: raise the prompt length")
    return Problems(records, *encoded)


def noisy_answers(
    task: types.ModuleType,
    problems: Problems,
    tokenizer: tokenizers.Tokenizer,
    length: int,
    *,
    noise: float,
    seed: int,
) -> Callable[[int, Row], Row]:
    """Transform for `make_loader` that adds an answer to each row, wrong with probability `noise`,
    new at each visit.

    Adds "completion" int32 [G = `length`], right-padded, and "completion_len" int32, the stop id
    counted. A wrong answer that is too long gives way to the gold one. Raises ValueError, at once,
    where a gold answer is missing or too long.
    """
    answers = [task.completion(problems.records[index]) for index in problems.index]
    gold, lengths = tokenizers.encode_completions(tokenizer, answers, length)
    row_of = {int(index): row for row, index in enumerate(problems.index)}

    def add(position: int, row: Row) -> Row:
        number = row_of[int(row["index"])]
        text = task.noisy_completion(problems.records[row["index"]], f"{seed} {position}", noise)
        tokens, used = gold[number], lengths[number]
        if text != answers[number] and len(tokenizer.encode(text)) < length:
            (tokens,), (used,) = tokenizers.encode_completions(tokenizer, [text], length)
        return row | {"completion": tokens, "completion_len": used}

    return add


def share_of(count: int, share: float) -> int:
    """How many of `count` things `share` of them are: at least one, and of several not all."""
    return max(1, min(round(share * count), count - 1))


def split_records(
    records: Sequence[Record], share: float, seed: int
) -> tuple[Sequence[Record], Sequence[Record]]:
    """(training records, held-out records), each in the order they came in.

    `share` of them are held out (`share_of`), by `seed` alone: a run's own seed changes nothing.
    """
    count = share_of(len(records), share)
    chosen = sorted(np.random.default_rng(seed).permutation(len(records))[:count].tolist())
    held_out = set(chosen)
    train = [record for number, record in enumerate(records) if number not in held_out]
    return train, [records[number] for number in chosen]


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

    rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    batches = rows.map_with_index(fetch).batch(batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
