"""The supervised phase before the rounds."""

import functools
import time

import jax
import numpy as np

from gdsd_jax import data, sharding
from gdsd_jax.experiment import Experiment
from gdsd_jax.loop import Loop, check_finite, save, unless_stopped
from gdsd_jax.resume import Progress
from gdsd_jax.steps import make_sft_step
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
    began = time.monotonic()
    losses = [np.float32(loss) for loss in progress.losses]
    for step in range(progress.step, sft.steps):
        rows = next(loader)
        arrays = sharding.global_rows(experiment.mesh, {name: rows[name] for name in SFT_FIELDS})
        rng = loop.keys(step)["sft"]
        if step == progress.step:
            keep = functools.partial(save, loop, state, frozen, progress, stop=True)
            unless_stopped(loop, sft_step.lower(state, frozen, arrays, rng).compile, keep)
        state, metrics = sft_step(state, frozen, arrays, rng)
        losses.append(metrics["loss"])
        # no more than two steps are under way, for which a stop has to wait
        jax.block_until_ready(losses[-2:-1])
        done = step + 1
        if done % sft.log_every == 0 or done == sft.steps:
            loss = float(np.mean(jax.device_get(losses)))
            check_finite("sft", done, {"loss": loss})
            loop.writer.write("sft", done, loss=loss)
            left = (time.monotonic() - began) / (done - progress.step) * (sft.steps - done)
            loop.say(
                f"sft step {done}/{sft.steps} | loss {loss:.3f} nats a token | {left:.0f} s left"
            )
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
