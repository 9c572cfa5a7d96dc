"""What the evaluations of a run say, before and after, as text."""

from collections.abc import Mapping
import os
from typing import Any

from etils import epath

from gdsd_jax import json_files
from gdsd_jax.metrics import parts_of, read_metrics
from gdsd_jax.report.charts import REWARD, Rows, points


def headlines(rows: Rows, score: str) -> list[tuple[str, str, str, str]]:
    """(name, before, after, change) of what the evaluations say, as text."""
    shares = {
        "pass_at_1": "held-out problems solved, temperature 0",
        "threshold_pass_at_1": "held-out problems solved, by a threshold",
        "teacher_pass_at_1": "held-out problems solved by the teacher",
    }
    numbers = {}
    mean_reward = {"mean_reward": f"held-out {score}, temperature 1"}
    if score == REWARD:
        numbers |= mean_reward
    else:
        shares |= mean_reward
        numbers["reward"] = "held-out reward, temperature 1"
    for part in parts_of(rows):
        if part != score:
            numbers[part] = f"held-out {part}, temperature 1"
    costs = {
        "kl_common": "held-out KL to the teacher, nats a token",
        "threshold_forwards_per_token": "forwards a token by the threshold",
    }
    found = []
    for names, told in ((shares, told_share), (numbers, told_number), (costs, told_cost)):
        for key, name in names.items():
            _, values = points(rows, "eval", key)
            if values and (told is not told_cost or min(values[0], values[-1]) > 0):
                found.append((name, *told(values[0], values[-1])))
    return found


def told_share(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a share, in percent."""
    return f"{first:.1%}", f"{last:.1%}", f"{100 * (last - first):+.1f} points"


def told_number(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a number of any scale."""
    return f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}"


def told_cost(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a positive number that should get small; the change is a ratio."""
    if first >= last:
        change = f"{first / last:.1f} times less"
    else:
        change = f"{last / first:.1f} times more"
    return f"{first:.2f}", f"{last:.2f}", change


def headline_lines(workdir: str | os.PathLike) -> list[str]:
    """The headlines of a run so far, one line each."""
    workdir = epath.Path(workdir)
    told = headlines(read_metrics(workdir / "metrics.jsonl"), score_name(workdir))
    width = max((len(name) for name, *_ in told), default=0)
    return [
        f"{name:{width}} {before:>6} -> {after:>6}  {change}"
        for name, before, after, change in told
    ]


def score_name(workdir: str | os.PathLike) -> str:
    """The entry `score` of a run's config.json; "reward" where there is none."""
    return score_of(entries_of(workdir))


def score_of(entries: Mapping[str, Any]) -> str:
    """The same of these entries."""
    return json_files.entry(entries, "score", "text", REWARD)


def entries_of(workdir: str | os.PathLike) -> dict[str, Any]:
    """What a run's config.json says; nothing where there is none."""
    file = epath.Path(workdir) / "config.json"
    return json_files.read_object(file, only_shown=True) if file.exists() else {}
