"""Held-out evaluation with the training sampler: the same jitted function, other temperatures."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """Completions of B problems and what they took."""

    texts: list[str]
    tokens_B: np.ndarray  # int, through the stop id
    forwards_B: np.ndarray  # int, of the model


class Evaluation(NamedTuple):
    metrics: dict[str, float]  # means over the problems, 0..1
    texts: list[str]  # one completion a problem
    scores: dict[str, np.ndarray]  # float32 [problems] a reward
    forwards_per_token: float  # all problems' forwards over all their tokens


def evaluate(
    generate: Callable[[np.ndarray, float], Answers],
    score: Callable[[np.ndarray, Sequence[str]], dict],
    problems: int,
    rows: int,
    temperature: float,
) -> Evaluation:
    """One completion for each of the first `problems` problems.

    Args:
      generate: `(index_B, temperature) -> Answers` for exactly `rows` problem numbers.
      score: `(index_B, texts) -> {"tests": share of tests passed, ...}`, each float32 [B] in 0..1.
      problems: how many.
      rows: rows of a device batch; the last batch is filled up by repeating.
      temperature: of the proposals, 0 = greedy.
    """
    texts, parts, tokens, forwards = [], [], 0, 0
    for start in range(0, problems, rows):
        index_B = np.arange(start, min(start + rows, problems))
        batch = Answers(
            *(field[: len(index_B)] for field in generate(np.resize(index_B, rows), temperature))
        )
        texts += batch.texts
        parts.append(score(index_B, batch.texts))
        tokens, forwards = (
            tokens + int(batch.tokens_B.sum()),
            forwards + int(batch.forwards_B.sum()),
        )
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    metrics = {name: float(values.mean()) for name, values in scores.items()}
    metrics["solved"] = float((scores["tests"] == 1).mean())
    return Evaluation(metrics, texts, scores, forwards / max(tokens, 1))


def summary(greedy: Evaluation, sampled: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation at temperatures 0 and 1, under the names of metrics.jsonl."""
    return {
        "pass_at_1": greedy.metrics["solved"],
        "mean_reward": sampled.metrics["tests"],
        "solved": sampled.metrics["solved"],
        "format": sampled.metrics["format"],
        "problems": len(greedy.texts),
        "forwards_per_token": greedy.forwards_per_token,
    }


def summary_line(numbers: dict[str, float]) -> str:
    return (
        f"held-out pass@1 {numbers['pass_at_1']:.1%} (temperature 0) | "
        f"tests passed {numbers['mean_reward']:.1%} (temperature 1) | "
        f"{numbers['problems']} problems"
    )
