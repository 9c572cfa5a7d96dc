"""What an evaluation of a distilled student says besides: its distance to the teacher, the teacher's score, its speed."""
from collections.abc import Callable, Mapping

import jax
import numpy as np

from gdsd_jax.run import Run, ask, evaluate_heldout
from gdsd_jax.steps import Steps
from gdsd_jax.types import PyTree


def evaluate(run: Run, steps: Steps, trainable: PyTree, frozen: dict, rng: jax.Array) -> dict[str, float]:
    """Numbers on held-out problems; the "threshold_..." ones where the config has a threshold.

      kl: forward KL at the states of rollouts like those of training, nats a masked token.
      teacher_pass_at_1: problems that the teacher solves, 0..1, temperature 0.
      threshold_pass_at_1: the same of the student, committing whatever reaches the threshold.
      threshold_forwards_per_token: its denoising passes and one saving pass a block, over the tokens of its answers.
    """
    config = run.config
    teach = lambda asked: steps.teach(trainable, frozen, asked, rng)  # noqa: E731
    numbers = {
        "kl": heldout_distance(run, steps, trainable, frozen, rng),
        "teacher_pass_at_1": evaluate_heldout(run, teach, 0.0).metrics["solved"],
    }
    if config.threshold is not None:
        sample = lambda asked: steps.sample(trainable, frozen, asked, rng)  # noqa: E731
        watched, forwards_per_token = counting(sample, config.sampler.block_length)
        numbers["threshold_pass_at_1"] = evaluate_heldout(run, watched, 0.0, config.threshold).metrics["solved"]
        numbers["threshold_forwards_per_token"] = forwards_per_token()
    return numbers


def heldout_distance(run: Run, steps: Steps, trainable: PyTree, frozen: dict, rng: jax.Array) -> float:
    """The distance on one round's number of held-out prompts, answered as in training."""
    config = run.config
    rows = run.heldout[np.arange(config.prompts_per_round) % len(run.heldout)]
    asked, _ = ask(run, run.heldout, rows, config.group_size, config.temperature, threshold=config.threshold)
    slices = steps.slices(steps.sample(trainable, frozen, asked, rng), asked)
    return float(jax.device_get(steps.distance(trainable, frozen, slices, rng)))


def counting(sample: Callable, saved_block: int | None) -> tuple[Callable, Callable[[], float]]:
    """(`sample` that counts, `() -> forwards a token` of all its rollouts so far).

    `saved_block`: tokens of a block whose finished keys and values one more forward saves; None = nothing is saved.
    """
    forwards, tokens = [], []

    def watched(asked: dict):
        rollout = sample(asked)
        passes_B, length_B = jax.device_get((rollout.passes_B, rollout.length_B))
        forwards.append(np.sum(passes_B) + (np.sum(-(-length_B // saved_block)) if saved_block else 0))
        tokens.append(np.sum(length_B))
        return rollout

    return watched, lambda: float(np.sum(forwards) / max(np.sum(tokens), 1))


def line(numbers: Mapping[str, float]) -> str:
    """The end of an evaluation's line in the terminal."""
    return "".join(f" | {name} {value:.3f}" for name, value in numbers.items())
