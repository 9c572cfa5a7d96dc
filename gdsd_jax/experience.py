"""Between the host and the device: prompts for a rollout, the texts it gives, their grades.

B rows (completions), P prompt columns, G completion columns.
"""

from collections.abc import Callable, Sequence
import itertools
import math

import jax
import numpy as np

from gdsd_jax import row_schema, sharding, tasks
from gdsd_jax.data import Row, narrowed
from gdsd_jax.hosts import Hosts
from gdsd_jax.tasks import Grades, Record, Task
from gdsd_jax.tokenizers import Tokenizer
from gdsd_jax.types import Prompts, Rollout


def prompts_of(
    mesh: jax.sharding.Mesh,
    rows: Row,
    copies: int,
    *,
    temperature: float,
    threshold: float = math.inf,
    longest: int | None = None,
    first_sample: int = 0,
    widths: tuple[int, ...] = (),
) -> Prompts:
    """Every prompt `copies` times, one after another, with all fields, on the mesh.

    A prompt that comes again gets further samples, so that no noise is drawn twice.

    Args:
      rows: rows of a `data.Problems`.
      temperature: of the proposals, 0 = greedy.
      threshold: proposals above this probability are committed; infinity = off.
      longest: most tokens of a completion, besides the cap of its problem.
      first_sample: number of a prompt's first completion.
      widths: as in `data.Problems`. All processes have the same rows, and so the same width.
    """
    rows = narrowed(rows, widths)
    index_B = np.repeat(rows["index"], copies).astype(np.int32)
    sample_B = (copies * occurrences(rows["index"])[:, None] + np.arange(copies)).reshape(-1)
    max_length_B = np.repeat(rows["max_length"], copies).astype(np.int32)
    if longest is not None:
        max_length_B = np.minimum(max_length_B, np.int32(longest))
    prompts = Prompts(
        tokens_BxP=np.repeat(rows["tokens"], copies, axis=0),
        valid_BxP=np.repeat(rows["valid"], copies, axis=0),
        temperature_B=np.full(len(index_B), temperature, np.float32),
        threshold_B=np.full(len(index_B), threshold, np.float32),
        max_length_B=max_length_B,
        index_B=index_B,
        sample_B=(first_sample + sample_B).astype(np.int32),
    )
    return sharding.global_rows(mesh, prompts)


def occurrences(index_B: np.ndarray) -> np.ndarray:
    """How often each entry has come before, int [B]."""
    seen: dict[int, int] = {}
    earlier = []
    for index in index_B.tolist():
        earlier.append(seen.get(index, 0))
        seen[index] = earlier[-1] + 1
    return np.array(earlier)


def texts_of(
    task: Task, tokenizer: Tokenizer, records: Sequence[Record], tokens_BxG: np.ndarray
) -> list[str]:
    """What the task grades: the prefill of a record's messages, then the completion before its
    first stop id."""
    return [
        row_schema.begin_of(task.messages(record)) + tokenizer.decode(row)
        for record, row in zip(records, tokens_BxG)
    ]


def grades_of(
    hosts: Hosts,
    task: Task,
    records: Sequence[Record],
    texts: Sequence[str],
    parts: Sequence[str],
    skip: Callable[[str], None] | None = None,
) -> Grades:
    """The grades of B answers under the names `parts`; every host grades its share.

    Raises:
      tasks.GradeError: grades that cannot be used; one line names the task's file. With `skip`,
        which takes that line from whichever host, such answers count as not judged.
    """
    own, told = hosts.share(len(texts)), []
    graded = tasks.graded(task, records[own], texts[own], parts, skip and told.append)
    if skip is not None:
        for line in itertools.chain.from_iterable(hosts.exchange(told)):
            skip(line)
    fields = graded._asdict()
    by_name = fields.pop("parts")
    merged = hosts.merge(fields | {f"part {name}": by_name[name] for name in parts}, len(texts))
    found = {name: merged.pop(f"part {name}") for name in parts}
    return Grades(parts=found, **merged)


def answers_in(
    mesh: jax.sharding.Mesh, rollout: Rollout, stop_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens_BxG, length_B), on the host. A length goes up to and including the first stop id,
    behind which samplers with `reference_quirks` go on."""
    tokens_BxG, length_B = sharding.fetch(mesh, (rollout.tokens_BxG, rollout.length_B))
    stops_BxG = np.isin(tokens_BxG, list(stop_ids))
    through_B = np.where(stops_BxG.any(axis=1), 1 + np.argmax(stops_BxG, axis=1), length_B)
    return tokens_BxG, np.minimum(through_B, length_B)


RUN = 4  # tokens; a text that comes round again repeats such runs


def variety_of(
    texts: Sequence[str],
    tokens_BxG: np.ndarray,
    length_B: np.ndarray,
    reward_B: np.ndarray,
    judged_B: np.ndarray,
    group_size: int,
) -> dict[str, float]:
    """How varied a round's completions are, which tells of rewards gone wrong: shares, 0..1, and a
    spread.

    distinct: different texts of a group's, in the mean over the groups. flat_groups: groups whose
    rewards are all equal, so that they teach nothing; of the groups in which at least two answers
    were judged, NaN where there is none. reward_std: standard deviation of a group's judged
    rewards, in the mean over the groups. repetition: runs of four tokens that have come before in
    the same completion, in the mean over the completions.
    """
    groups = [texts[start : start + group_size] for start in range(0, len(texts), group_size)]
    rewards = judged_groups(reward_B, judged_B, group_size)
    repeated = [repetition_of(row[:length]) for row, length in zip(tokens_BxG, length_B)]
    return {
        "distinct": float(np.mean([len(set(group)) / len(group) for group in groups])),
        "flat_groups": mean([np.ptp(group) == 0 for group in rewards]),
        "reward_std": mean([np.std(group) for group in rewards]),
        "repetition": float(np.mean(repeated)),
    }


def judged_groups(reward_B: np.ndarray, judged_B: np.ndarray, group_size: int) -> list[np.ndarray]:
    """The rewards of each group in which at least two answers were judged; what stands for a reward
    that was not is left out."""
    pairs = zip(np.reshape(reward_B, (-1, group_size)), np.reshape(judged_B, (-1, group_size)))
    return [rewards[known] for rewards, known in pairs if known.sum() > 1]


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of none."""
    return float(np.mean(values)) if values else math.nan


def truncated(tokens_BxG: np.ndarray, length_B: np.ndarray, stop_ids: Sequence[int]) -> float:
    """The share of the completions that were cut before an end token, 0..1."""
    last_B = tokens_BxG[np.arange(len(length_B)), np.maximum(length_B, 1) - 1]
    ended_B = np.isin(last_B, list(stop_ids)) & (length_B > 0)
    return float(1.0 - ended_B.mean())


def repetition_of(tokens: np.ndarray) -> float:
    """The share of the runs of four tokens that have come before, 0..1; 0 where there is none."""
    if len(tokens) <= RUN:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(tokens, RUN)
    return 1.0 - len(np.unique(runs, axis=0)) / len(runs)


def mean_of(values_B: np.ndarray, judged_B: np.ndarray) -> float:
    """The mean over the answers that were judged; NaN where none was."""
    if not judged_B.any():
        return math.nan
    return float(values_B[judged_B].mean())
