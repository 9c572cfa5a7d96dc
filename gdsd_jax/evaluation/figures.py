"""Answers as items of a JSON file, and all that is said of them; the same from new answers and from
a file.

N problems, S answers to each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gdsd_jax.evaluation import intervals
from gdsd_jax.evaluation.answers import Table, finite, named, summary
from gdsd_jax.evaluation.intervals import Ratio
from gdsd_jax.tasks import Grades, Record, Task

Item = dict[str, Any]


def items_of(problems: Sequence[Item], table: Table, **asked: Any) -> list[Item]:
    """An item for each answer, those to one problem one after another; distances to a teacher stand
    in the first of them.

    Args:
      problems: {"question", and "cluster" where it has one} of each of the N.
      table: the answers.
      asked: entries of all items, such as the temperature.
    """
    return [
        {
            "problem": row,
            **problems[row],
            **asked,
            "sample": number,
            "completion": text,
            "tokens": int(table.lengths_NxS[row, number]),
            "forwards": int(table.forwards_NxS[row, number]),
            **verdict(table.grades, (row, number)),
            **({} if number else distance(table, row)),
        }
        for row, texts in enumerate(table.texts)
        for number, text in enumerate(texts)
    ]


def distance(table: Table, row: int) -> Item:
    """{"distance": by name, None where nothing counts}; nothing where there is no teacher."""
    if table.distances is None:
        return {}
    found = {name: finite(float(values[row])) for name, values in table.distances.items()}
    return {"distance": found}


def cluster_entry(task: Task, record: Record) -> Item:
    """{"cluster": its name}; nothing where the record has none."""
    name = task.cluster(record)
    return {} if name is None else {"cluster": name}


def verdict(grades: Grades | None, place: Any) -> Item:
    """{"grades": by name, None where there is no verdict; "points": (right, of how many), None
    where nothing is graded}."""
    if grades is None:
        return {"grades": None, "points": None}
    found = None
    if grades.judged_N[place]:
        found = {name: float(values[place]) for name, values in named(grades).items()}
    return {"grades": found, "points": grades.points_Nx2[place].tolist()}


def table_of(items: Sequence[Item], names: Sequence[str]) -> Table:
    """The answers of items, problems in the order in which they come.

    Where a problem has fewer answers than others, the rest are None, without a verdict.

    Args:
      items: answers to N problems.
      names: of the grades' parts.
    """
    of_problem: dict[Any, list[Item]] = {}
    for item in items:
        of_problem.setdefault(item["problem"], []).append(item)
    width = max(map(len, of_problem.values()))
    rows = [found + [{}] * (width - len(found)) for found in of_problem.values()]
    texts = [[item.get("completion") for item in row] for row in rows]

    def array(value, dtype) -> np.ndarray:
        return np.array([[value(item) for item in row] for row in rows], dtype)

    def grade(name: str, dtype: type) -> np.ndarray:
        return array(lambda item: (item.get("grades") or {}).get(name, 0.0), dtype)

    grades = None
    if any(item["points"] is not None for item in items):
        grades = Grades(
            reward_N=grade("reward", np.float32),
            solved_N=grade("solved", bool),
            parts={name: grade(name, np.float32) for name in names},
            judged_N=array(lambda item: item.get("grades") is not None, bool),
            points_Nx2=array(lambda item: item.get("points") or [0, 0], np.int64),
        )
    lengths_NxS, forwards_NxS = (
        array(lambda item, key=key: item.get(key) or 0, np.int64) for key in ("tokens", "forwards")
    )
    distances, firsts = None, [row[0].get("distance") for row in rows]
    if all(firsts):
        shared = [name for name in firsts[0] if all(name in one for one in firsts)]
        distances = {name: np.array([one[name] for one in firsts], float) for name in shared}
    clusters = clusters_of([row[0].get("cluster") for row in rows])
    return Table(texts, grades, lengths_NxS, forwards_NxS, distances, clusters)


def clusters_of(names: Sequence[str | None]) -> np.ndarray | None:
    """A number for each cluster, int [N], one of its own for None; None where all are None."""
    if not any(names):
        return None
    known: dict[Any, int] = {}
    own = (row if name is None else str(name) for row, name in enumerate(names))
    return np.array([known.setdefault(one, len(known)) for one in own])


# ---------------------------------------------------------------- numbers


def figures(greedy: Table, sampled: Table, score: str, names: Sequence[str]) -> dict[str, Any]:
    """{"metrics": all numbers, "intervals": by the same names, [low, high] each}.

    The numbers of `evaluation.summary`, those of the parts by themselves under "parts", where no
    name of theirs can be another number's. Besides of the greedy answers: correct and total, the
    sums of their points, accuracy, the quotient of both, unjudged, how many have no verdict; and of
    the sampled ones pass_at_k.

    Args:
      greedy, sampled: the same where only one kind of answers is known.
      score: the task's.
      names: of the grades' parts.
    """
    ratios = ratios_of(greedy, sampled, score)
    metrics: dict[str, Any] = {}
    if greedy.grades is not None:
        points_2 = greedy.grades.points_Nx2[greedy.grades.judged_N].sum(axis=0)
        answered = sum(text is not None for row in greedy.texts for text in row)
        metrics |= {"correct": int(points_2[0]), "total": int(points_2[1])}
        metrics["unjudged"] = answered - int(greedy.grades.judged_N.sum())
    metrics |= {name: ratio.value for name, ratio in ratios.items()}
    metrics |= summary(score, (), greedy, sampled)
    if "forwards_per_token" not in ratios:
        del metrics["forwards_per_token"]
    metrics = {name: finite(value) for name, value in metrics.items()}
    found = {name: intervals.interval(ratio) for name, ratio in ratios.items()}
    if sampled.grades is not None:
        for group, members in (
            ("parts", parts_ratios(sampled, names)),
            ("pass_at_k", {str(k): chance for k, chance in chances_of(sampled).items()}),
        ):
            metrics[group] = {name: finite(ratio.value) for name, ratio in members.items()}
            found[group] = {name: intervals.interval(ratio) for name, ratio in members.items()}
    return {"metrics": metrics, "intervals": found}


def ratios_of(greedy: Table, sampled: Table, score: str) -> dict[str, Ratio]:
    """The means of `figures` by name, each as sums over the answers of a problem; without parts."""
    found, cluster_N = {}, greedy.cluster_N
    if greedy.grades is not None:
        judged_NxS = greedy.grades.judged_N
        points_NxSx2 = greedy.grades.points_Nx2 * judged_NxS[..., None]
        found["accuracy"] = Ratio(*np.moveaxis(points_NxSx2.sum(axis=1), -1, 0), cluster_N)
        found["pass_at_1"] = mean_ratio(greedy, "solved")
        found["mean_reward"] = mean_ratio(sampled, score)
        for name in ("reward", "solved"):
            found[name] = mean_ratio(sampled, name)
    answered_NxS = np.array([[text is not None for text in row] for row in greedy.texts])
    found["looping"] = Ratio(greedy.loops_NxS.sum(axis=1), answered_NxS.sum(axis=1), cluster_N)
    if greedy.lengths_NxS.any():
        found["forwards_per_token"] = Ratio(
            greedy.forwards_NxS.sum(axis=1), greedy.lengths_NxS.sum(axis=1), cluster_N
        )
    for name, values_N in (greedy.distances or {}).items():
        known_N = ~np.isnan(values_N)
        found[name] = Ratio(np.where(known_N, values_N, 0.0), known_N.astype(np.int64), cluster_N)
    return found


def parts_ratios(sampled: Table, names: Sequence[str]) -> dict[str, Ratio]:
    """The mean of each part by its name, as sums over the answers of a problem."""
    if sampled.grades is None:
        return {}
    return {name: mean_ratio(sampled, name) for name in names}


def mean_ratio(table: Table, name: str) -> Ratio:
    """The mean of "reward", "solved" or a part over the answers that were judged."""
    judged_NxS = table.grades.judged_N
    values_NxS = np.where(judged_NxS, named(table.grades)[name], 0).astype(np.float64)
    return Ratio(values_NxS.sum(axis=1), judged_NxS.sum(axis=1), table.cluster_N)


def chances_of(table: Table) -> dict[int, Ratio]:
    """{k: the mean of pass@k} for k = 1, 2, 4, ...; over the problems with k judged answers."""
    answers_N = table.grades.judged_N.sum(axis=1)
    solved_N = (table.grades.solved_N & table.grades.judged_N).sum(axis=1)
    found = {}
    for k in intervals.powers_to(int(answers_N.max(initial=0))):
        enough_N = answers_N >= k
        chance_N = [
            intervals.pass_at_k(int(answers), int(solved), k) if enough else 0.0
            for answers, solved, enough in zip(answers_N, solved_N, enough_N)
        ]
        found[k] = Ratio(np.array(chance_N), enough_N.astype(np.int64), table.cluster_N)
    return found


# ---------------------------------------------------------------- evaluations of a file


def evaluations_of(
    items: Sequence[Item], samplers: Sequence[Mapping[str, Any]], score: str, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The figures of each generation length, in the order of the items.

    Items without a temperature come from elsewhere; they stand for greedy and sampled ones alike.

    Args:
      items: answers, those of a length with what was asked of them.
      samplers: of each length.
      score: the task's.
      names: of the grades' parts.
    """
    found = []
    for place, mine in enumerate(grouped(items, "gen_length").values()):
        greedy, sampled, by_threshold = sets_of(mine, names)
        entry: dict[str, Any] = {"gen_length": mine[0].get("gen_length")}
        if samplers:
            entry["sampler"] = samplers[place]
        entry |= figures(greedy, sampled, score, names)
        if by_threshold:
            entry["thresholds"] = [
                {"threshold": threshold, **threshold_figures(table, score, names)}
                for threshold, table in by_threshold.items()
            ]
        found.append(entry)
    return found


def sets_of(items: Sequence[Item], names: Sequence[str]) -> tuple[Table, Table, dict[float, Table]]:
    """(greedy answers, sampled answers, {threshold: greedy answers that it shortened})."""
    plain = [item for item in items if item.get("threshold") is None]
    kinds = grouped(plain, "temperature")
    greedy = kinds.get(0.0, plain)
    others = [found for temperature, found in kinds.items() if temperature != 0.0]
    sampled = others[0] if others else plain
    by_threshold = grouped(
        (item for item in items if item.get("threshold") is not None), "threshold"
    )
    tables = {threshold: table_of(found, names) for threshold, found in by_threshold.items()}
    return table_of(greedy, names), table_of(sampled, names), tables


def threshold_figures(table: Table, score: str, names: Sequence[str]) -> dict[str, Any]:
    """What a threshold solves at temperature 0 and how many forwards a token it takes."""
    found = figures(table, table, score, names)
    wanted = [name for name in ("pass_at_1", "forwards_per_token") if name in found["metrics"]]
    numbers = {name: found["metrics"][name] for name in wanted}
    return numbers | {"intervals": {name: found["intervals"][name] for name in wanted}}


def grouped(items: Iterable[Item], key: str) -> dict[Any, list[Item]]:
    """The items by their value of an entry, in the order in which they come."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(item.get(key), []).append(item)
    return found
