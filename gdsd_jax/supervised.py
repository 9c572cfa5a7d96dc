"""The supervised phase before the rounds."""

from collections.abc import Callable
import math

import jax
import numpy as np

from gdsd_jax import data, objectives, sharding, tokenizers
from gdsd_jax.experiment import Experiment
from gdsd_jax.loop import Loop, checked, keeper, save, unless_stopped
from gdsd_jax.metrics import Pace
from gdsd_jax.optimizer import make_optimizer, make_update
from gdsd_jax.progress import counted, phase
from gdsd_jax.resume import Progress
from gdsd_jax.settings import Settings
from gdsd_jax.steps import as_batch
from gdsd_jax.types import Array, Batch, Denoiser, PyTree, TrainState

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
    pace = Pace(sft.steps, progress.step)
    losses, outcomes = [np.float32(loss) for loss in progress.losses], []
    for step in counted(range(progress.step, sft.steps), "supervised step"):
        rows = next(loader)
        arrays = sharding.global_rows(experiment.mesh, {name: rows[name] for name in SFT_FIELDS})
        rng = loop.keys(step)["sft"]
        if step == progress.step:
            keep = keeper(loop, state, frozen, progress)
            with phase("compiling"):
                unless_stopped(loop, sft_step.lower(state, frozen, arrays, rng).compile, keep)
        state, metrics = sft_step(state, frozen, arrays, rng)
        outcomes.append(metrics)
        # no more than two steps are under way, for which a stop has to wait
        jax.block_until_ready(outcomes[-2:-1])
        done, stop = step + 1, loop.stopping()
        logs = done % sft.log_every == 0 or done == sft.steps
        keeps = stop or done % sft.checkpoint_every == 0
        if logs or keeps:
            losses += losses_of(loop, done, outcomes, state.trainable)
            outcomes = []
        if logs:
            numbers = means_of(losses, chosen.not_finite == "skip")
            if heldout_loss is not None:
                numbers["heldout_loss"] = heldout_loss(state, frozen)
            loop.writer.write("sft", done, **numbers)
            loop.say(line_of(done, sft.steps, pace.left(done), **numbers))
            losses = []
        if keeps:
            here = Progress(
                "sft",
                step=done,
                cursor=loader.get_state(),
                lines=loop.writer.cursor(),
                losses=tuple(map(float, losses)),
            )
            save(loop, state, frozen, here, stop=stop)
    return state


def losses_of(loop: Loop, done: int, outcomes: list[dict], trainable: PyTree) -> list[np.float32]:
    """The losses of the last steps, the newest of which is `done`; NaN where one was skipped."""
    batch, losses = loop.experiment.settings.sft.batch, []
    for number, outcome in enumerate(jax.device_get(outcomes), done - len(outcomes) + 1):
        told = checked(loop, "sft", number, outcome, trainable, batch)
        losses.append(np.float32(np.nan) if told.get("skipped") else told["loss"])
    return losses


def means_of(losses: list[np.float32], skip: bool) -> dict[str, float]:
    """What a line tells of the steps since the last one; with `skip` how many changed nothing."""
    finite = [loss for loss in losses if np.isfinite(loss)]
    mean = {"loss": float(np.mean(finite)) if finite else math.nan}
    return mean | ({"skipped": len(losses) - len(finite)} if skip else {})


def line_of(
    done: int,
    steps: int,
    left_s: float,
    loss: float,
    heldout_loss: float | None = None,
    skipped: int = 0,
) -> str:
    """A line in the terminal."""
    heldout = "" if heldout_loss is None else f", held-out {heldout_loss:.3f}"
    left_out = f" | {skipped} skipped" if skipped else ""
    loss_part = f"loss {loss:.3f}{heldout} nats a token{left_out}"
    return f"sft step {done}/{steps} | {loss_part} | {left_s:.0f} s left"


def make_heldout_loss(loop: Loop) -> Callable[[TrainState, dict], float] | None:
    """`(state, frozen) -> nats a token` of the best answers to the first held-out problems.

    The masks are the same every time. A last batch is filled up by repeating its own problems, and
    counts for as many as it has. None where the settings ask for none.
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
        losses, sizes = [], []
        for number, begin in enumerate(range(0, len(problems), sft.batch)):
            row_N = np.arange(begin, min(begin + sft.batch, len(problems)))
            row_B = np.resize(row_N, sft.batch)
            values = problems.tokens[row_B], problems.valid[row_B], completions[row_B]
            rows = dict(zip(SFT_FIELDS, (*values, lengths[row_B])))
            arrays = sharding.global_rows(experiment.mesh, rows)
            rng = loop.keys(number)["evaluation"]
            losses.append(loss_fn(state.trainable, frozen, arrays, rng))
            sizes.append(len(row_N))
        return float(np.average(jax.device_get(losses), weights=sizes))

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


def make_sft_step(denoiser: Denoiser, settings: Settings) -> Callable:
    """`step(state, frozen, arrays, rng) -> (state, metrics)` on given completions, jitted."""
    loss_fn, batch_of = supervised_loss(denoiser, settings)
    skip = settings.not_finite == "skip"
    update_fn = make_update(loss_fn, make_optimizer(settings.sft_optimizer), skip)

    def step(state: TrainState, frozen, arrays: dict[str, Array], rng: Array):
        slices = jax.tree.map(lambda x: x[None], batch_of(arrays, rng))
        return update_fn(state, frozen, slices)

    return jax.jit(step, donate_argnums=0)


def make_sft_loss(denoiser: Denoiser, settings: Settings) -> Callable:
    """`loss(trainable, frozen, arrays, rng) -> nats a token` of the supervised phase on given
    completions, jitted; nothing is trained."""
    loss_fn, batch_of = supervised_loss(denoiser, settings)

    def loss(trainable, frozen, arrays: dict[str, Array], rng: Array) -> Array:
        return loss_fn(trainable, frozen, batch_of(arrays, rng))[0]

    return jax.jit(loss)


def supervised_loss(denoiser: Denoiser, settings: Settings) -> tuple[Callable, Callable]:
    """(loss_fn of the supervised phase, `batch_of(arrays, rng)` under one draw of views)."""
    name, config = settings.sft.objective, settings.sft.objective_config()
    views_fn = objectives.make_views_fn(name, config)
    block = settings.sampler.causal_block

    def batch_of(arrays: dict[str, Array], rng: Array) -> Batch:
        answers = arrays["completion"], arrays["completion_len"]
        batch = as_batch(arrays["tokens"], arrays["valid"], *answers, block)
        return batch.replace(masks_KxBxL=views_fn(batch, 1, rng))

    return objectives.make_loss_fn(name, denoiser, config), batch_of
