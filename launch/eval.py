"""Scores a checkpoint on held-out problems:

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

# `python launch/eval.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from gdsd_jax import restore, sharding
from gdsd_jax.checkpoint import latest_iteration
from gdsd_jax.cli import fail, load_config, output_path, replacing
from gdsd_jax.evaluate import summary, summary_line
from gdsd_jax.run import Run, evaluate_heldout, prepare
from gdsd_jax.steps import make_keys, make_samplers
from gdsd_jax.types import PyTree


def make_sample(run: Run, trainable: PyTree, frozen: dict):
    """`sample(prompt arrays) -> Rollout`, with the noise of the run's own evaluations."""
    sample_fn, _ = make_samplers(run.denoiser, run.config, run.mesh)
    seed_key = jax.device_put(jax.random.key(run.config.seed), sharding.replicated(run.mesh))
    rng = make_keys(seed_key, sharding.everywhere(run.mesh, np.int32(0)))["evaluation"]
    return lambda asked: sample_fn(trainable, frozen, asked, rng)


def evaluate_thresholds(run: Run, sample, thresholds: list[float]) -> list[dict]:
    """What each threshold solves at temperature 0 and how many forwards a token it takes."""
    found = {threshold: evaluate_heldout(run, sample, 0.0, threshold) for threshold in thresholds}
    return [
        {
            "threshold": threshold,
            "pass_at_1": one.metrics["solved"],
            "forwards_per_token": one.forwards_per_token,
        }
        for threshold, one in found.items()
    ]


def evaluate_weights(run: Run, sample) -> dict:
    """The numbers, and each problem's question, answers and scores."""
    greedy, sampled = (evaluate_heldout(run, sample, temperature) for temperature in (0.0, 1.0))

    def answer(evaluation, row: int) -> dict:
        return {"text": evaluation.texts[row]} | {
            name: float(score[row]) for name, score in evaluation.scores.items()
        }

    numbers = summary(greedy, sampled)
    records = [run.heldout.records[index] for index in run.heldout.index[: numbers["problems"]]]
    per_problem = [
        {
            "question": record["question"],
            "greedy": answer(greedy, row),
            "sampled": answer(sampled, row),
        }
        for row, record in enumerate(records)
    ]
    return numbers | {"per_problem": per_problem}


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
            out, config = output_path("--out", args.out), load_config(args.config)
            thresholds = read_thresholds(args.thresholds)
            run = prepare(config, args.checkpoint, restore.read_settings(args.checkpoint))
            opened.enter_context(run.sandbox)
            weights = restore.load_weights(args.checkpoint, run.denoiser.config, run.mesh)
        except (ValueError, OSError) as error:
            return fail(error, 2)
        sample = make_sample(run, *weights)
        found = evaluate_weights(run, sample)
        if thresholds:
            found["thresholds"] = evaluate_thresholds(run, sample, thresholds)
    source = {
        "config": args.config,
        "checkpoint": args.checkpoint,
        "iteration": latest_iteration(args.checkpoint),
    }
    with replacing(out) as file:
        json.dump(source | found, file, indent=1)
    print(f"{summary_line(found)} | {args.out}")
    for row in found.get("thresholds", ()):
        print(
            f"threshold {row['threshold']:g} | pass@1 {row['pass_at_1']:.1%} | "
            f"{row['forwards_per_token']:.2f} forwards a token, "
            f"the schedule takes {found['forwards_per_token']:.2f}"
        )
    return 0


def read_thresholds(text: str) -> list[float]:
    """Raises ValueError where one of them is no probability."""
    try:
        thresholds = [float(part) for part in text.split(",") if part]
    except ValueError:
        thresholds = [0.0]
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"--thresholds={text}: give probabilities in (0, 1], separated by commas")
    return thresholds


if __name__ == "__main__":
    sys.exit(main())
