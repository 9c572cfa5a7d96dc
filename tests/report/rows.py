"""Rows of metrics.jsonl as the loop writes them, for three tasks."""

from gdsd_jax.meanings import meaning_of


def unexplained(rows, parts=()) -> list[str]:
    """The keys that have no meaning in MEANINGS and are no parts of the task's grades."""
    keys = dict.fromkeys((row["phase"], key) for row in rows for key in row)
    return [key for phase, key in keys if not meaning_of(phase, key) and key not in parts]


def row(phase: str, step: int, wall_s: float, **values) -> dict:
    return {"phase": phase, "step": step, "wall_s": wall_s, **values}


def rollout(step: int, wall_s: float, **values) -> dict:
    return row("rollout", step, wall_s, **values, rollout_s=2.0, reward_s=1.0)


def train(step: int, wall_s: float, loss: float, kl: float | None, trust: float, update_s: float):
    values = dict(loss=loss, kl=kl, trust=trust, grad_norm=1.0, update_s=update_s)
    return row("train", step, wall_s, **values)


# programs: the score is the part "tests"
ROWS = [
    row("sft", 10, 1.0, loss=3.0),
    row("eval", 0, 2.0, pass_at_1=0.5, mean_reward=0.25, format=0.75),
    rollout(1, 5.0, reward=1.0, tests=0.5, format=0.5, length=20.0, tokens_per_s=1000.0),
    train(1, 6.0, loss=0.5, kl=0.1, trust=0.0, update_s=1.0),
    train(2, 7.0, loss=0.3, kl=None, trust=0.5, update_s=2.0),
    rollout(2, 9.0, reward=1.5, tests=0.75, format=0.75, length=21.0, tokens_per_s=1200.0),
    train(3, 10.0, loss=0.2, kl=0.2, trust=1.0, update_s=4.0),
    row("eval", 2, 120.0, pass_at_1=0.75, mean_reward=0.625, format=1.0),
]

# a puzzle: the score is the part "cells"; "valid" has a scale of its own
PUZZLE = [
    row("eval", 0, 1.0, pass_at_1=0.0, mean_reward=0.5, solved=0.0, valid=-3.0, problems=8),
    rollout(1, 2.0, reward=-2.5, cells=0.5, valid=-3.0, solved=0.0),
    rollout(2, 3.0, reward=0.75, cells=0.75, valid=0.0, solved=0.25),
    row("eval", 2, 4.0, pass_at_1=0.25, mean_reward=0.875, solved=0.25, valid=1.5, problems=8),
]

# distillation on plain prompts: nothing is judged
UNJUDGED = [
    row("eval", 0, 1.0, kl_common=4.5, forwards_per_token=2.0, problems=8),
    row("rollout", 1, 2.0, tokens_per_s=100.0, length=20.0, tokens=160, rollout_s=1.0),
    row("train", 1, 3.0, loss=4.0, kl=4.0, grad_norm=1.0, update_s=1.0),
    row("eval", 1, 4.0, kl_common=0.5, forwards_per_token=2.0, problems=8),
]
