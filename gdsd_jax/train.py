"""The one loop: prompts, rollout_fn, rewards, advantages, masked views, loss_fn, update."""

from collections.abc import Callable
import functools
import math
import time

from etils import epath
import jax
import numpy as np

from gdsd_jax import chips, curriculum, data, evaluation, objectives, sharding, workdirs
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.experience import grades_of, mean_of, prompts_of, texts_of, variety_of
from gdsd_jax.experiment import Experiment
from gdsd_jax.hosts import watch_sigterm
from gdsd_jax.loop import (
    Interrupted,
    Loop,
    check_finite,
    keys_of,
    save,
    seed_key_of,
    unless_stopped,
)
from gdsd_jax.metrics import Pace, round_line
from gdsd_jax.resume import Buffer, Progress, fresh_state, from_host, resume
from gdsd_jax.steps import Steps, make_steps
from gdsd_jax.supervised import supervise
from gdsd_jax.types import Batch, Prompts, TrainState
from gdsd_jax.weights import copies_of, initial_weights


def train(
    experiment: Experiment,
    workdir,
    say: Callable[[str], None] = print,
    profile: int | None = None,
) -> None:
    """Runs, or resumes, the whole experiment: supervised phase, rounds with evaluations, report.

    Resume order: the workdir's own checkpoint, then init_from, then random weights. Nothing in the
    workdir is changed before a checkpoint there has proven to fit the settings.

    Args:
      experiment: from `experiment.prepare`.
      workdir: local folder or gs:// address.
      say: gets the lines for the terminal, in the first process.
      profile: round, counted from 1, that is traced into WORKDIR/profile.

    Raises:
      Interrupted: SIGTERM; the state is saved.
      FloatingPointError: NaN or infinity, naming phase, step and number; the last good checkpoint
        stays.
      checkpoint.OtherSettings: the workdir's checkpoint does not fit the settings.
      report.SinkError: a sink that does not open.
    """
    hosts, chosen, workdir = experiment.hosts, experiment.settings, epath.Path(workdir)
    # the first collective must not wait long for a process that still reads data
    hosts.exchange(None)
    say = say if hosts.first else ignore
    checkpoints = Checkpoints(workdir / "checkpoints", chosen.keep_checkpoints)
    steps = make_steps(experiment.denoiser, chosen, experiment.mesh, experiment.teacher)
    with watch_sigterm() as signalled, jax.transfer_guard("disallow"):
        key = seed_key_of(experiment)
        begin, progress = beginning(experiment, steps, checkpoints, key)
        if checkpoints.latest() is not None:
            where = f"{progress.phase}, round {progress.round}, step {progress.step}"
            say(f"resuming {workdir}: {where}")
        stopped, future = hosts.run_until_stopped(begin, signalled)
        if stopped:
            raise Interrupted  # nothing is there yet that is not on disk
        state, frozen, buffer = future.result()
        with workdirs.opened(experiment, workdir, progress.lines, say) as writer:
            loop = Loop(
                experiment, workdir, steps, key, checkpoints, writer, signalled, say, profile
            )
            run(loop, state, frozen, buffer, progress)
            checkpoints.wait()  # here, where SIGTERM is still noted


def ignore(line: str) -> None:
    """Says nothing."""


def beginning(
    experiment: Experiment, steps: Steps, checkpoints: Checkpoints, seed_key: jax.Array
) -> tuple[Callable, Progress]:
    """(what gives the first state, frozen weights and buffer; where the run then stands)."""
    rng, latest = keys_of(experiment, seed_key, 0)["init"], checkpoints.latest()
    if latest is None:
        return functools.partial(start, experiment, rng), Progress()
    progress, _ = from_host(checkpoints.host(latest))
    return functools.partial(resume, experiment, steps, checkpoints, latest, rng), progress


def start(experiment: Experiment, rng: jax.Array) -> tuple[TrainState, dict, Buffer | None]:
    """(state, frozen, no buffer) of a fresh run."""
    chosen, mesh = experiment.settings, experiment.mesh
    trainable, frozen = initial_weights(chosen, experiment.denoiser.config, mesh, rng)
    return fresh_state(mesh, trainable, chosen.sft_optimizer), frozen, None


def run(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer | None, progress: Progress
) -> None:
    """The phases, from where the run stands."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    if progress.phase == "sft":
        state = supervise(loop, state, frozen, progress)
        # callers hold this state too: its moments, which nobody reads again, are freed by name
        jax.tree.map(lambda x: x.delete(), state.opt_state)
        frozen |= copies_of(chosen, state.trainable)
        state = fresh_state(experiment.mesh, state.trainable, chosen.optimizer)
        progress = Progress("rl", step=chosen.sft.steps, lines=loop.writer.cursor())
        # without the reference, which is the weights themselves
        save(loop, state, {}, progress)
    reinforce(loop, state, frozen, buffer, progress)


def reinforce(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer | None, progress: Progress
) -> TrainState:
    """The rounds."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    loader = data.make_loader(
        experiment.train, batch=chosen.prompts_per_round, seed=chosen.seed + 1
    )
    if progress.cursor:
        loader.set_state(progress.cursor)
    pace, compiling = Pace(chosen.rounds - progress.round), chips.Compiling()
    first_round = progress.round
    keep = functools.partial(save, loop, state, frozen, progress, buffer, stop=True)
    teacher = ask_teacher(loop, state, frozen, keep)
    for number in range(progress.round, chosen.rounds):
        if number + 1 == loop.profile:
            jax.profiler.start_trace(str(loop.workdir / "profile"))
        keys, exact = loop.keys(number), progress.exact
        keep = functools.partial(save, loop, state, frozen, progress, buffer, stop=True)
        summary = {}  # of a round that is resumed: its rollout line is written already
        if buffer is None:
            if number % chosen.eval_every == 0:
                evaluate(loop, state, frozen, number, teacher, keep)
            buffer, summary = collect(loop, state, frozen, next(loader), keys, progress, keep)
            exact = drifted(loop, number, summary)
        here = progress._replace(cursor=loader.get_state(), exact=exact)
        if number == first_round:
            compile_updates(loop, state, frozen, buffer, keys["masks"], here, keep)
        state, frozen, means = run_updates(loop, state, frozen, buffer, keys["masks"], here)
        if experiment.teacher is not None:
            summary["kl"] = means["kl"]
        progress = here._replace(round=number + 1, inner=0, lines=loop.writer.cursor())
        buffer, stop = None, loop.stopping()
        last = progress.round == chosen.rounds
        if stop or last or progress.round % chosen.checkpoint_every == 0:
            save(loop, state, frozen, progress, stop=stop)
        if progress.round == loop.profile:
            jax.profiler.stop_trace()
        if number == first_round:
            loop.say(f"first round: {compiling.seconds:.0f} s of compiling{chips.peak_line()}")
        loop.say(round_line(progress.round, chosen.rounds, seconds_left=pace.left(), **summary))
    keep = functools.partial(save, loop, state, frozen, progress, stop=True)
    evaluate(loop, state, frozen, progress.round, teacher, keep)
    return state


def compile_updates(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    buffer: Buffer,
    rng: jax.Array,
    here: Progress,
    keep: Callable[[], None],
) -> None:
    """Compiles what `run_updates` calls; `keep` is what a stop calls meanwhile."""
    # the first inner iteration compares with nothing, the others with the old scores
    for inner in {here.inner, loop.experiment.settings.inner_iterations - 1}:
        arguments = arguments_of_update(loop, state, frozen, buffer, rng, inner)
        lowered = loop.steps.update.lower(*arguments, first=inner == 0)
        unless_stopped(loop, lowered.compile, keep)
    if loop.steps.sync is not None:
        lowered = loop.steps.sync.lower(state.trainable, frozen["reference"])
        unless_stopped(loop, lowered.compile, keep)


def run_updates(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer, rng: jax.Array, here: Progress
) -> tuple[TrainState, dict, dict[str, float]]:
    """(state and frozen weights after a round's inner iterations from `here` on, means of their
    metrics)."""
    count = loop.experiment.settings.inner_iterations
    outcomes, began = [], time.monotonic()
    for inner in range(here.inner, count):
        arguments = arguments_of_update(loop, state, frozen, buffer, rng, inner)
        state, outcome = loop.steps.update(*arguments, first=inner == 0)
        outcomes.append(outcome)
        # scores of this round were taken before: the next round compares with the moved one
        if loop.experiment.settings.reference_sync.is_due(here.round * count + inner + 1):
            reference = loop.steps.sync(state.trainable, frozen["reference"])
            frozen = frozen | {"reference": reference}
        # no more than two are under way, for which a stop has to wait
        jax.block_until_ready(outcomes[-2:-1])
        if inner + 1 < count and loop.stopping():
            write_updates(loop, here, outcomes, began)
            here = here._replace(inner=inner + 1, lines=loop.writer.cursor())
            save(loop, state, frozen, here, buffer, stop=True)
    return state, frozen, write_updates(loop, here, outcomes, began)


def arguments_of_update(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer, rng: jax.Array, inner: int
) -> tuple:
    """What `Steps.update` takes for an inner iteration, but for `first`."""
    number = sharding.everywhere(loop.experiment.mesh, np.int32(inner))
    return state, frozen, buffer.slices, buffer.scored, number, rng


def collect(
    loop: Loop, state: TrainState, frozen: dict, rows: data.Row, keys, progress: Progress, keep
) -> tuple[Buffer, dict]:
    """One round's experience, written to metrics.jsonl; `keep` is what a stop calls meanwhile."""
    work = functools.partial(experience_of, loop, state, frozen, rows, keys, progress)
    buffer, summary, numbers = unless_stopped(loop, work, keep)
    loop.writer.write("rollout", progress.round + 1, **summary, **numbers)
    return buffer, summary


def experience_of(
    loop: Loop, state: TrainState, frozen: dict, rows: data.Row, keys, progress: Progress
) -> tuple[Buffer, dict, dict]:
    """(a round's experience, what its line in the terminal shows, further numbers).

    Completions come from the device, rewards from the host while the device scores.
    """
    experiment, chosen, steps = loop.experiment, loop.experiment.settings, loop.steps
    number, exact, mesh = progress.round, progress.exact, loop.experiment.mesh
    weights, began = (state.trainable, frozen), time.monotonic()
    prompts = training_prompts(experiment, rows, number, exact)
    answer = steps.sample_exactly if exact else steps.sample
    if chosen.answers == "teacher":
        answer = steps.teach
    rollout = answer(*weights, prompts, keys["rollout"])
    slices = steps.slices(rollout, prompts)
    tokens_BxG, length_B = sharding.fetch(mesh, (rollout.tokens_BxG, rollout.length_B))
    sampled = time.monotonic()
    drift = {}
    if steps.drift is not None and not exact:
        drift = steps.drift(*weights, prompts, rollout)._asdict()
    # runs while the host grades
    scored = steps.score(*weights, slices, keys["masks"])
    summary = {"tokens_per_s": float(length_B.sum() / (sampled - began))}
    numbers = {
        "length": length_B.mean(),
        "tokens": int(length_B.sum()),
        "rollout_s": sampled - began,
    }
    if objectives.find(chosen.objective).rewards:
        slices, graded, further = with_rewards(loop, slices, rows, tokens_BxG, length_B, number)
        summary |= graded
        numbers |= further
        numbers["reward_s"] = time.monotonic() - sampled
    # not before the answers are graded: the device may be at it still
    summary |= {f"drift_{name}": float(value) for name, value in jax.device_get(drift).items()}
    return Buffer(slices, scored), summary, numbers


def training_prompts(experiment: Experiment, rows: data.Row, number: int, exact: bool) -> Prompts:
    """The prompts of round `number`; with `exact` no proposal is committed by the threshold."""
    chosen = experiment.settings
    sampler = chosen.sampler
    threshold = curriculum.threshold(number, chosen.threshold, chosen.threshold_ramp)
    longest = curriculum.longest(
        number, sampler.gen_length, sampler.block_length, chosen.length_ramp
    )
    return prompts_of(
        experiment.mesh,
        rows,
        chosen.group_size,
        temperature=chosen.temperature,
        threshold=math.inf if exact else threshold,
        longest=longest,
    )


def with_rewards(
    loop: Loop,
    slices: Batch,
    rows: data.Row,
    tokens_BxG: np.ndarray,
    length_B: np.ndarray,
    number: int,
) -> tuple[Batch, dict[str, float], dict[str, float]]:
    """(the slices with advantages, means of the grades by name, what else is watched)."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    index_B = np.repeat(rows["index"], chosen.group_size)
    records = [experiment.train.records[index] for index in index_B]
    texts = texts_of(experiment.task, experiment.tokenizer, records, tokens_BxG)
    grades = grades_of(experiment.hosts, experiment.task, records, texts, experiment.parts)
    reward_B, judged_B = grades.reward_N, grades.judged_N
    watched = {"solved": mean_of(grades.solved_N, judged_B)}
    watched |= variety_of(texts, tokens_BxG, length_B, reward_B, judged_B, chosen.group_size)
    means = {"reward": mean_of(reward_B, judged_B)}
    means |= {name: mean_of(grades.parts[name], judged_B) for name in experiment.parts}
    if not judged_B.all():
        means["judged"] = float(judged_B.mean())
    if chosen.shuffle_rewards:
        order_B = np.random.default_rng((chosen.seed, number)).permutation(len(reward_B))
        reward_B, judged_B = reward_B[order_B], judged_B[order_B]
    arrays = [reward_B] if judged_B.all() else [reward_B, judged_B]
    slices = loop.steps.reward(slices, *sharding.global_rows(experiment.mesh, arrays))
    return slices, means, watched


def drifted(loop: Loop, number: int, summary: dict) -> bool:
    """Whether round `number`'s rollout recorded log-probabilities too far from the model's; says
    so."""
    mean, bound = summary.get("drift_mean", 0.0), loop.experiment.settings.drift_bound
    if mean > bound:
        loop.say(
            f"round {number + 1} drifted by {mean:.3g} nats a token, over drift_bound={bound}: "
            "the next one samples exactly"
        )
    return mean > bound


def ask_teacher(
    loop: Loop, state: TrainState, frozen: dict, keep: Callable[[], None]
) -> evaluation.Taught | None:
    """The teacher's held-out answers, where there is one."""
    experiment, rng = loop.experiment, loop.keys(0)["evaluation"]
    if experiment.teacher is None:
        return None
    work = functools.partial(
        evaluation.taught, experiment, loop.steps, state.trainable, frozen, rng
    )
    return unless_stopped(loop, work, keep)


def evaluate(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    number: int,
    teacher: evaluation.Taught | None,
    keep: Callable[[], None],
) -> None:
    """Held-out problems after `number` rounds; writes the eval line, sample answers and the
    report."""
    rng = loop.keys(0)["evaluation"]  # the same noise at every evaluation
    experiment = loop.experiment
    work = functools.partial(
        evaluation.heldout, experiment, loop.steps, state.trainable, frozen, rng, number, teacher
    )
    found = unless_stopped(loop, work, keep)
    loop.writer.write("eval", number, **found.numbers)
    line = evaluation.line_of(found.numbers, experiment.task.score)
    loop.say(f"eval  {number}/{experiment.settings.rounds} | {line}")
    if experiment.hosts.first:
        workdirs.write_report(experiment, loop.workdir, number, found)


def write_updates(
    loop: Loop, here: Progress, outcomes: list[dict], began: float
) -> dict[str, float]:
    """One train line for each inner iteration from `here` on; returns the means."""
    outcomes = jax.device_get(outcomes)
    update_s = (time.monotonic() - began) / max(len(outcomes), 1)
    for inner, outcome in enumerate(outcomes, here.inner):
        step = here.round * loop.experiment.settings.inner_iterations + inner + 1
        check_finite("train", step, outcome)
        loop.writer.write("train", step, **outcome, update_s=update_s)
    return {name: float(np.mean([outcome[name] for outcome in outcomes])) for name in outcomes[0]}
