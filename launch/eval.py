"""Scores a checkpoint on held-out problems.

  python launch/eval.py --config=FILE.py[:MODEL[,key=value...]] --checkpoint=DIR --out=FILE.json
  ... --thresholds=0.7,0.9
      besides, what committing every proposal of that probability keeps and saves

The config names the problems, the sampler and how many (`eval_problems`); DIR is a folder that
launch/convert.py wrote, or the workdir of a run, whose newest checkpoint is taken. FILE.json holds
the numbers of metrics.jsonl's eval lines and, for each problem, the answers at temperature 0 and 1
with their scores; with thresholds, for each the share solved at temperature 0 and the forwards a
token.

Exit codes: 0 done; 2 bad configuration or input, one line says which; 1 a fault.
"""

import argparse
import contextlib
import json
import pathlib
import sys
from typing import Any

# `python launch/eval.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from gdsd_jax import evaluation, settings, sharding, weights
from gdsd_jax.checkpoint import latest_iteration
from gdsd_jax.cli import fail, load_config, output_path, replacing
from gdsd_jax.evaluation import Request, Table
from gdsd_jax.experiment import Experiment, prepare
from gdsd_jax.keys import make_keys
from gdsd_jax.steps import make_sampler
from gdsd_jax.types import Prompts, PyTree, Rollout


def evaluate(experiment: Experiment, model: tuple[PyTree, dict], thresholds: list[float]) -> dict:
    """The numbers, and each problem's question, answers and grades, with the noise of the run's
    own evaluations."""
    chosen, mesh = experiment.settings, experiment.mesh
    sampler = make_sampler(experiment.denoiser, chosen.sampler, mesh, chosen.rollout_weights)
    seed_key = jax.device_put(jax.random.key(chosen.seed), sharding.replicated(mesh))
    rng = make_keys(seed_key, sharding.everywhere(mesh, np.int32(0)))["evaluation"]

    def sample(prompts: Prompts) -> Rollout:
        return sampler(*model, prompts, rng)

    greedy = evaluation.evaluate(experiment, sample, Request(temperature=0.0))
    sampled = evaluation.evaluate(experiment, sample, Request(temperature=1.0))
    found = evaluation.summary(experiment, greedy, sampled)
    found["per_problem"] = [
        {
            "question": question_of(experiment, row),
            "greedy": answer_of(greedy, row),
            "sampled": answer_of(sampled, row),
        }
        for row in range(found["problems"])
    ]
    if thresholds:
        found["thresholds"] = [
            by_threshold(experiment, sample, threshold) for threshold in thresholds
        ]
    return found


def question_of(experiment: Experiment, row: int) -> str:
    """The question of a held-out problem."""
    problems = experiment.heldout
    return evaluation.question_of(experiment.task, problems.records[problems.index[row]])


def answer_of(table: Table, row: int) -> dict[str, Any]:
    """The first answer to a problem and its grades."""
    return {"text": table.texts[row][0], **table.grades_of_answer(row)}


def by_threshold(experiment: Experiment, sample, threshold: float) -> dict[str, float]:
    """What a threshold solves at temperature 0 and how many forwards a token it takes."""
    table = evaluation.evaluate(experiment, sample, Request(threshold=threshold))
    found = {"threshold": threshold, "forwards_per_token": table.forwards_per_token}
    if table.grades is not None:
        found["pass_at_1"] = table.mean("solved")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument(
        "--checkpoint", required=True, help="a converted model's folder, or a run's workdir"
    )
    parser.add_argument("--out", required=True, help="JSON file for the numbers and every answer")
    parser.add_argument(
        "--thresholds", default="", help="probabilities in (0, 1], separated by commas"
    )
    args = parser.parse_args()
    with contextlib.ExitStack() as opened:
        try:
            out = output_path("--out", args.out)
            chosen = settings.parse(load_config(args.config))
            thresholds = read_thresholds(args.thresholds)
            experiment = prepare(chosen, folder=args.checkpoint)
            opened.callback(experiment.task.close)
            model = weights.load_weights(
                args.checkpoint,
                weights.settings_of(args.checkpoint),
                experiment.denoiser.config,
                experiment.mesh,
            )
        except (ValueError, OSError, ImportError) as error:  # gs:// needs a package of its own
            return fail(error, 2)
        found = evaluate(experiment, model, thresholds)
    source = {
        "config": args.config,
        "checkpoint": args.checkpoint,
        "iteration": latest_iteration(args.checkpoint),
    }
    with replacing(out) as file:
        json.dump(source | found, file, indent=1)
    print(f"{evaluation.line_of(found, experiment.task.score)} | {args.out}")
    for row in found.get("thresholds", ()):
        print(threshold_line(row, found["forwards_per_token"]))
    return 0


def threshold_line(row: dict[str, float], scheduled: float) -> str:
    """What the terminal shows of a threshold; `scheduled` is the schedule's forwards a token."""
    solved = f"pass@1 {row['pass_at_1']:.1%} | " if "pass_at_1" in row else ""
    return (
        f"threshold {row['threshold']:g} | {solved}{row['forwards_per_token']:.2f} forwards a "
        f"token, the schedule takes {scheduled:.2f}"
    )


def read_thresholds(text: str) -> list[float]:
    """Raises ValueError where one of them is no probability."""
    wanted = f"--thresholds={text}: give probabilities in (0, 1], separated by commas"
    try:
        thresholds = [float(part) for part in text.split(",") if part]
    except ValueError:
        raise ValueError(wanted) from None
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(wanted)
    return thresholds


if __name__ == "__main__":
    sys.exit(main())
