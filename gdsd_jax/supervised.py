"""The supervised phase before the rounds."""

from collections.abc import Callable
import time

import jax
import numpy as np

from gdsd_jax import data, sharding, tokenizers
from gdsd_jax.experiment import Experiment
from gdsd_jax.loop import Loop, check_finite, keeper, save, unless_stopped
from gdsd_jax.resume import Progress
from gdsd_jax.steps import make_sft_loss, make_sft_step
from gdsd_jax.types import TrainState

SFT_FIELDS = ("tokens", "valid", "completion", "completion_len")


def supervise(loop: Loop, state: TrainState, frozen: dict, progress: Progress) -> TrainState:
    """Fine-tuning on the task's own, partly wrong, answers: of the denoiser, or of the teacher it
    will start from."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    sft = chosen.sft
    if sft.steps <= progress.step:
        return state
    loader = supervised_loader(experiment, progress)
    sft_step = make_sft_step(experiment.teacher or experiment.denoiser, chosen)
    heldout_loss = make_heldout_loss(loop)
    began = time.monotonic()
    losses = [np.float32(loss) for loss in progress.losses]
    for step in range(progress.step, sft.steps):
        rows = next(loader)
        arrays = sharding.global_rows(experiment.mesh, {name: rows[name] for name in SFT_FIELDS})
        rng = loop.keys(step)["sft"]
        if step == progress.step:
            keep = keeper(loop, state, frozen, progress)
            unless_stopped(loop, sft_step.lower(state, frozen, arrays, rng).compile, keep)
        state, metrics = sft_step(state, frozen, arrays, rng)
        losses.append(metrics["loss"])
        # no more than two steps are under way, for which a stop has to wait
        jax.block_until_ready(losses[-2:-1])
        done = step + 1
        if done % sft.log_every == 0 or done == sft.steps:
            loss = float(np.mean(jax.device_get(losses)))
            check_finite("sft", done, {"loss": loss}, loop.checkpoints)
            heldout = {} if heldout_loss is None else {"heldout_loss": heldout_loss(state, frozen)}
            loop.writer.write("sft", done, loss=loss, **heldout)
            left = (time.monotonic() - began) / (done - progress.step) * (sft.steps - done)
            loop.say(line_of(done, sft.steps, loss, left, **heldout))
            losses = []
        stop = loop.stopping()
        if stop or done % sft.checkpoint_every == 0:
            here = Progress(
                "sft",
                step=done,
                cursor=loader.get_state(),
                lines=loop.writer.cursor(),
                losses=tuple(map(float, jax.device_get(losses))),
            )
            save(loop, state, frozen, here, stop=stop)
    return state


def line_of(
    done: int, steps: int, loss: float, left_s: float, heldout_loss: float | None = None
) -> str:
    """A line in the terminal."""
    heldout = "" if heldout_loss is None else f", held-out {heldout_loss:.3f}"
    return f"sft step {done}/{steps} | loss {loss:.3f}{heldout} nats a token | {left_s:.0f} s left"


def make_heldout_loss(loop: Loop) -> Callable[[TrainState, dict], float] | None:
    """`(state, frozen) -> nats a token` of the best answers to the first held-out problems.

    The masks are the same every time. A last batch is filled up by repeating. None where the
    settings ask for none.
    """
    experiment, chosen = loop.experiment, loop.experiment.settings
    sft, longest = chosen.sft, chosen.sampler.gen_length
    if not sft.heldout_problems:
        return None
    task, tokenizer = experiment.task, experiment.tokenizer
    problems = data.fitting(task, experiment.heldout, tokenizer, longest, most=sft.heldout_problems)
    texts = [data.answer_of(task, problems.records[index], None) for index in problems.index]
    completions, lengths = tokenizers.encode_completions(tokenizer, texts, longest)
    loss_fn = make_sft_loss(experiment.teacher or experiment.denoiser, chosen)

    def heldout_loss(state: TrainState, frozen: dict) -> float:
        losses = []
        for number, begin in enumerate(range(0, len(problems), sft.batch)):
            row_B = np.resize(np.arange(begin, min(begin + sft.batch, len(problems))), sft.batch)
            values = problems.tokens[row_B], problems.valid[row_B], completions[row_B]
            rows = dict(zip(SFT_FIELDS, (*values, lengths[row_B])))
            arrays = sharding.global_rows(experiment.mesh, rows)
            rng = loop.keys(number)["evaluation"]
            losses.append(loss_fn(state.trainable, frozen, arrays, rng))
        return float(np.mean(jax.device_get(losses)))

    return heldout_loss


def supervised_loader(experiment: Experiment, progress: Progress):
    """Endless batches of problems with answers, from where the run stands."""
    chosen, problems = experiment.settings, experiment.sft_problems
    answers = data.answers_of(
        experiment.task, problems, experiment.tokenizer, chosen.sampler.gen_length, chosen.seed
    )
    loader = data.make_loader(problems, answers, batch=chosen.sft.batch, seed=chosen.seed)
    if progress.cursor:
        loader.set_state(progress.cursor)
    return loader
