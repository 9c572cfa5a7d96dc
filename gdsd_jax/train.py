"""The one loop: prompts, rollout_fn, rewards, advantages, masked views, loss_fn, update.

`experience_of` is the first half: prompts of `training_prompts`, rollout_fn (sampling/rollout.py),
rewards of `grade_round` by the task (tasks/), advantages (advantages.py). `run_updates` is the
second: `Steps.update` (steps.py) draws masked views and takes loss_fn (both of objectives/) and
update (optimizer.py).
"""

from collections.abc import Callable, Sequence
import functools
import math
import time

from etils import epath
import jax
import numpy as np

from gdsd_jax import chips, curriculum, data, evaluation, objectives, settings, sharding, workdirs
from gdsd_jax.checkpoint import Checkpoints, load_trainable
from gdsd_jax.experience import (
    answers_in,
    grades_of,
    mean_of,
    prompts_of,
    texts_of,
    truncated,
    variety_of,
)
from gdsd_jax.experiment import Experiment, ignore
from gdsd_jax.hosts import watch_sigterm
from gdsd_jax.loop import (
    Interrupted,
    Loop,
    checked,
    keep_if_best,
    keeper,
    keys_of,
    save,
    seed_key_of,
    unless_stopped,
)
from gdsd_jax.metrics import Pace, round_line
from gdsd_jax.progress import phase
from gdsd_jax.resume import Buffer, Progress, Resumed, fresh_state, resume_newest
from gdsd_jax.sampling import stop_ids_of
from gdsd_jax.steps import Steps, make_steps
from gdsd_jax.supervised import supervise
from gdsd_jax.types import Prompts, PyTree, TrainState
from gdsd_jax.weights import (
    abstract,
    base_weights,
    copies_of,
    initial_weights,
    make_trainable,
)


def train(
    experiment: Experiment,
    workdir,
    say: Callable[[str], None] = print,
    profile: int | None = None,
) -> None:
    """Runs, or resumes, the whole experiment: supervised phase, rounds with evaluations, report.

    Resume order: the workdir's own checkpoint, start_from, init_from, random weights.
    Nothing in the workdir is changed before a checkpoint there has proven to fit the settings.

    Args:
      experiment: from `experiment.prepare`.
      workdir: local folder or gs:// address.
      say: gets the lines for the terminal, in the first process.
      profile: round, counted from 1, that is traced into WORKDIR/profile.

    Raises:
      Interrupted: SIGTERM; the state is saved.
      FloatingPointError: NaN or infinity, naming phase, step, tensor and rows; the last good
        checkpoint stays.
      tasks.GradeError: the task grades an answer by no number, or fails.
      paths.WorkdirError: the workdir's run has other settings, another run is at work there, or
        something there cannot be used.
      report.SinkError: a sink that does not open.
      OSError: something cannot be written, such as on a full disk.
    """
    hosts, chosen, workdir = experiment.hosts, experiment.settings, epath.Path(workdir)
    say = say if hosts.first else ignore
    workdirs.check(workdir, chosen)
    checkpoints = Checkpoints(workdir / "checkpoints", chosen.keep_checkpoints, hosts)
    best = Checkpoints(workdir / workdirs.BEST / "checkpoints", 1, hosts)
    with (
        workdirs.claimed(hosts, workdir, say),
        watch_sigterm() as signalled,
        jax.transfer_guard("disallow"),
    ):
        changed = workdirs.check(workdir, chosen)  # again: another run may have been here meanwhile
        steps = make_steps(experiment.denoiser, chosen, experiment.mesh, experiment.teacher)
        key = seed_key_of(experiment)
        found = begin_until_stopped(experiment, steps, checkpoints, key, signalled)
        tell_beginning(workdir, checkpoints, best, found, changed, say)
        with workdirs.opened(experiment, workdir, found.progress, say) as writer:
            loop = Loop(
                experiment, workdir, steps, key, checkpoints, best, writer, signalled, say, profile
            )
            run(loop, found)
            with phase("writing a checkpoint"):  # here, where SIGTERM is still noted
                checkpoints.close()
                best.close()


def begin_until_stopped(
    experiment: Experiment,
    steps: Steps,
    checkpoints: Checkpoints,
    seed_key: jax.Array,
    signalled: Callable[[], bool],
) -> Resumed:
    """What `beginning` returns, for which a stop does not wait."""
    begin = functools.partial(beginning, experiment, steps, checkpoints, seed_key)
    with phase("loading the weights"):
        stopped, future = experiment.hosts.run_until_stopped(begin, signalled)
    if stopped:
        raise Interrupted  # nothing is there yet that is not on disk
    return future.result()


def tell_beginning(
    workdir: epath.Path,
    checkpoints: Checkpoints,
    best: Checkpoints,
    found: Resumed,
    changed: settings.Changes,
    say: Callable[[str], None],
) -> None:
    """Says where a run goes on, with which other settings; puts damaged checkpoints aside, and the
    best one of a run that was there before."""
    progress = found.progress
    for number, reason in found.damaged.items():
        say(f"{reason}: moved to {checkpoints.put_aside(number)}")
    if checkpoints.latest() is not None:
        where = f"{progress.phase}, round {progress.round}, step {progress.step}"
        say(f"resuming {workdir}: {where}")
    else:
        for number in best.hosts.exchange(best.iterations())[0]:  # before one is moved
            aside = best.put_aside(number, "earlier")
            say(f"{best.place(number)}, the best of an earlier run there: moved to {aside}")
    if changed:
        say(f"settings that are others now: {settings.listed(changed)}")


def beginning(
    experiment: Experiment, steps: Steps, checkpoints: Checkpoints, seed_key: jax.Array
) -> Resumed:
    """The run's own newest checkpoint that is whole, else the supervised phase of `start_from`,
    else a fresh start."""
    rng = keys_of(experiment, seed_key, 0)["init"]
    if checkpoints.latest() is not None:
        return resume_newest(experiment, steps, checkpoints, rng)
    chosen, mesh, model = experiment.settings, experiment.mesh, experiment.denoiser.config
    if chosen.start_from is None:
        trainable, frozen = initial_weights(chosen, model, mesh, rng)
        state = fresh_state(mesh, trainable, chosen.sft_optimizer)
        return Resumed(state, frozen, None, Progress(), {})
    trainable = load_trainable(chosen.start_from, abstract(mesh, make_trainable(chosen, model)))
    frozen = {"base": base_weights(chosen, model, mesh, rng)} if chosen.lora_rank else {}
    frozen |= copies_of(chosen, trainable)
    state = fresh_state(mesh, trainable, chosen.optimizer)
    return Resumed(state, frozen, None, Progress("rl", step=chosen.sft.steps), {})


def run(loop: Loop, found: Resumed) -> None:
    """The phases, from where the run stands."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    state, frozen, progress = found.state, found.frozen, found.progress
    if loop.profile is not None and loop.profile <= progress.round:
        loop.say(f"--profile={loop.profile}: that round is over, nothing is traced")
    if progress.phase == "sft":
        state = supervise(loop, state, frozen, progress)
        # callers hold this state too: its moments, which nobody reads again, are freed by name
        jax.tree.map(lambda x: x.delete(), state.opt_state)
        frozen |= copies_of(chosen, state.trainable)
        state = fresh_state(experiment.mesh, state.trainable, chosen.optimizer)
        progress = Progress("rl", step=chosen.sft.steps)
    elif loop.checkpoints.latest() is None:
        workdirs.repeat_supervised(loop.writer, chosen.start_from)
    if not progress.has_rl_state:
        progress = progress._replace(lines=loop.writer.cursor())
        # without the reference, which is the weights themselves
        save(loop, state, {}, progress)
    reinforce(loop, state, frozen, found.buffer, progress)


def reinforce(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer | None, progress: Progress
) -> None:
    """The rounds."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    loader = data.make_loader(
        experiment.train, batch=chosen.prompts_per_round, seed=chosen.seed + 1
    )
    if progress.cursor:
        loader.set_state(progress.cursor)
    pace, compiling = Pace(chosen.rounds, progress.round), chips.Compiling()
    first_round = progress.round
    compiled: set[int] = set()  # columns of prompts whose updates are compiled
    keep = keeper(loop, state, frozen, progress, buffer)
    teacher = ask_teacher(loop, state, frozen, keep)
    for number in range(progress.round, chosen.rounds):
        if number + 1 == loop.profile:
            jax.profiler.start_trace(str(loop.workdir / "profile"))
        keys, exact = loop.keys(number), progress.exact
        summary = {}  # of a round that is resumed: its rollout line is written already
        if buffer is None:
            if number % chosen.eval_every == 0:
                numbers = evaluate(loop, state, frozen, number, teacher, keep)
                keep_if_best(loop, state, frozen, progress, numbers)
            buffer, summary = collect(loop, state, frozen, next(loader), keys, progress, keep)
            exact = drifted(loop, number, summary)
        here = progress._replace(cursor=loader.get_state(), exact=exact)
        if buffer.slices.prompt_len not in compiled:
            compile_updates(loop, state, frozen, buffer, keys, here, keep)
            if here.inner == 0:  # else the first one of a round is not among them
                compiled.add(buffer.slices.prompt_len)
        state, frozen, means = run_updates(loop, state, frozen, buffer, keys["masks"], here)
        write_probe(loop, state, frozen, buffer, keys["probe"], number)
        if experiment.teacher is not None:
            summary["kl"] = means["kl"]
        progress = here._replace(round=number + 1, inner=0, lines=loop.writer.cursor())
        buffer, stop = None, loop.stopping()
        keep = keeper(loop, state, frozen, progress)
        last = progress.round == chosen.rounds
        if stop or last or progress.round % chosen.checkpoint_every == 0:
            keep(stop=stop)
        if progress.round == loop.profile:
            jax.profiler.stop_trace()
        if number == first_round:
            loop.say(f"first round: {compiling.seconds:.0f} s of compiling{chips.peak_line()}")
        left = pace.left(progress.round)
        loop.say(round_line(progress.round, chosen.rounds, seconds_left=left, **summary))
    numbers = evaluate(loop, state, frozen, progress.round, teacher, keep)
    keep_if_best(loop, state, frozen, progress, numbers)


def compile_updates(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    buffer: Buffer,
    keys: dict[str, jax.Array],
    here: Progress,
    keep: Callable[[], None],
) -> None:
    """Compiles what `run_updates` and `write_probe` call; `keep` is what a stop calls meanwhile."""
    lowered = []
    # the first inner iteration compares with nothing, the others with the old scores
    for inner in {here.inner, loop.experiment.settings.inner_iterations - 1}:
        arguments = arguments_of_update(loop, state, frozen, buffer, keys["masks"], inner)
        lowered.append(loop.steps.update.lower(*arguments, first=inner == 0))
    if loop.steps.sync is not None:
        lowered.append(loop.steps.sync.lower(state.trainable, frozen["reference"]))
    if buffer.probed is not None:
        arguments = state.trainable, frozen, buffer.slices, buffer.probed, keys["probe"]
        lowered.append(loop.steps.probe.after.lower(*arguments))
    with round_phase(loop, here.round), phase("compiling the updates"):
        for one in lowered:
            unless_stopped(loop, one.compile, keep)


def run_updates(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer, rng: jax.Array, here: Progress
) -> tuple[TrainState, dict, dict[str, float]]:
    """(state and frozen weights after a round's inner iterations from `here` on, means of their
    metrics)."""
    count = loop.experiment.settings.inner_iterations
    outcomes, began = [], time.monotonic()
    with round_phase(loop, here.round), phase("update", count - here.inner) as step:
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
            if len(outcomes) > 1:
                step()
            if inner + 1 < count and loop.stopping():
                write_updates(loop, here, outcomes, state.trainable, began)
                here = here._replace(inner=inner + 1, lines=loop.writer.cursor())
                save(loop, state, frozen, here, buffer, stop=True)
        return state, frozen, write_updates(loop, here, outcomes, state.trainable, began)


def round_phase(loop: Loop, number: int):
    """Round `number` as the phase around what is done in it."""
    return phase(f"round {number + 1}/{loop.experiment.settings.rounds}")


def write_probe(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer, rng: jax.Array, number: int
) -> None:
    """The line about what the updates of round `number` did to a few completions."""
    if buffer.probed is not None:
        weights = state.trainable, frozen
        found = loop.steps.probe.after(*weights, buffer.slices, buffer.probed, rng)
        loop.writer.write("probe", number + 1, **jax.device_get(found))


def arguments_of_update(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer, rng: jax.Array, inner: int
) -> tuple:
    """What `Steps.update` takes for an inner iteration, but for `first`."""
    everywhere = sharding.everywhere(loop.experiment.mesh, np.int32(inner))
    return state, frozen, buffer.slices, buffer.scored, everywhere, rng


def collect(
    loop: Loop, state: TrainState, frozen: dict, rows: data.Row, keys, progress: Progress, keep
) -> tuple[Buffer, dict]:
    """One round's experience, written to metrics.jsonl; `keep` is what a stop calls meanwhile."""
    work = functools.partial(experience_of, loop, state, frozen, rows, keys, progress)
    with round_phase(loop, progress.round):
        buffer, summary, numbers = unless_stopped(loop, work, keep)
    loop.writer.write("rollout", progress.round + 1, **summary, **numbers)
    return buffer, summary


def experience_of(
    loop: Loop, state: TrainState, frozen: dict, rows: data.Row, keys, progress: Progress
) -> tuple[Buffer, dict, dict]:
    """(a round's experience, what its line in the terminal shows, further numbers).

    Completions come from the device, rewards from the host while the device scores.
    """
    steps, mesh, exact = loop.steps, loop.experiment.mesh, progress.exact
    stop_ids = stop_ids_of(loop.experiment.settings.sampler, loop.experiment.denoiser.config)
    weights, rollout_fn = (state.trainable, frozen), sampler_of(loop, exact)
    prompts = training_prompts(loop.experiment, rows, progress.round, exact)
    with phase("compiling the rollout"):  # the first time that prompts have so many columns
        rollout_fn.lower(*weights, prompts, keys["rollout"]).compile()
    began = time.monotonic()
    with phase("rollout"):
        rollout = rollout_fn(*weights, prompts, keys["rollout"])
        slices = steps.slices(rollout, prompts)
        tokens_BxG, length_B = answers_in(mesh, rollout, stop_ids)
    summary, numbers = numbers_of(tokens_BxG, length_B, stop_ids, time.monotonic() - began)
    drift, probed = {}, None
    if steps.drift is not None and not exact:
        drift = steps.drift(*weights, prompts, rollout)._asdict()
    with phase("scores"):  # the first time they are compiled; they run while the host grades
        scored = steps.score(*weights, slices, keys["masks"])
        if steps.probe is not None:
            probed = steps.probe.before(*weights, prompts, rollout, keys["probe"])
    sampled = time.monotonic()
    if objectives.find(loop.experiment.settings.objective).rewards:
        rewards, means, watched = grade_round(loop, rows, tokens_BxG, length_B, progress.round)
        slices = steps.advantages(slices, *sharding.global_rows(mesh, rewards))
        summary |= means
        numbers |= watched | {"reward_s": time.monotonic() - sampled}
    # not before the answers are graded: the device may be at it still
    with phase("scores"):
        drift = jax.device_get(drift)
    summary |= {f"drift_{name}": float(value) for name, value in drift.items()}
    return Buffer(slices, scored, probed), summary, numbers


def sampler_of(loop: Loop, exact: bool) -> Callable:
    """The rollout_fn of `Steps` whose completions a round learns from."""
    if loop.experiment.settings.answers == "teacher":
        return loop.steps.teach
    return loop.steps.sample_exactly if exact else loop.steps.sample


def numbers_of(
    tokens_BxG: np.ndarray, length_B: np.ndarray, stop_ids: Sequence[int], seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """What a rollout of so many seconds tells of itself: (in the terminal, besides)."""
    return {"tokens_per_s": float(length_B.sum() / seconds)}, {
        "length": length_B.mean(),
        "truncated": truncated(tokens_BxG, length_B, stop_ids),
        "tokens": int(length_B.sum()),
        "rollout_s": seconds,
    }


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
        widths=experiment.train.widths,
    )


def grade_round(
    loop: Loop, rows: data.Row, tokens_BxG: np.ndarray, length_B: np.ndarray, number: int
) -> tuple[list[np.ndarray], dict[str, float], dict[str, float]]:
    """The host's part of rewards: (what `Steps.advantages` takes beside the slices, means of the
    grades by name, what else is watched)."""
    experiment, chosen = loop.experiment, loop.experiment.settings
    index_B = np.repeat(rows["index"], chosen.group_size)
    records = [experiment.train.records[index] for index in index_B]
    skip = loop.say if chosen.not_finite == "skip" else None
    with phase("grading"):
        texts = texts_of(experiment.task, experiment.tokenizer, records, tokens_BxG)
        grades = grades_of(
            experiment.hosts, experiment.task, records, texts, experiment.parts, skip
        )
    reward_B, solved_B, judged_B = grades.reward_N, grades.solved_N, grades.judged_N
    watched = {"solved": mean_of(solved_B, judged_B)}
    watched |= variety_of(texts, tokens_BxG, length_B, reward_B, judged_B, chosen.group_size)
    means = {"reward": mean_of(reward_B, judged_B)}
    means |= {name: mean_of(grades.parts[name], judged_B) for name in experiment.parts}
    if not judged_B.all():
        means["judged"] = float(judged_B.mean())
    arrays = [reward_B, solved_B] if judged_B.all() else [reward_B, solved_B, judged_B]
    if chosen.shuffle_rewards:
        place_NxG = np.arange(len(reward_B)).reshape(-1, chosen.group_size)
        rng = np.random.default_rng((chosen.seed, number))
        order_B = rng.permuted(place_NxG, axis=1).reshape(-1)
        arrays = [x_B[order_B] for x_B in arrays]
    return arrays, means, watched


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
    with phase("answers of the teacher"):
        return unless_stopped(loop, work, keep)


def evaluate(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    number: int,
    teacher: evaluation.Taught | None,
    keep: Callable[[], None],
) -> dict[str, float]:
    """Held-out problems after `number` rounds; writes the eval line, sample answers and the
    report, and returns the line's numbers."""
    rng = loop.keys(0)["evaluation"]  # the same noise at every evaluation
    experiment = loop.experiment
    work = functools.partial(
        evaluation.heldout, experiment, loop.steps, state.trainable, frozen, rng, number, teacher
    )
    with phase("evaluation"):
        found = unless_stopped(loop, work, keep)
    loop.writer.write("eval", number, **found.numbers)
    line = evaluation.line_of(found.numbers, experiment.task.score)
    rounds = experiment.settings.rounds
    loop.say(f"eval  {number}/{rounds} | {line}" if rounds else f"eval  {line}")
    if experiment.hosts.first:
        with phase("drawing the report"):
            workdirs.write_report(experiment, loop.workdir, number, found, loop.writer, loop.say)
    return found.numbers


def write_updates(
    loop: Loop, here: Progress, outcomes: list[dict], trainable: PyTree, began: float
) -> dict[str, float]:
    """One train line for each inner iteration from `here` on; returns the means."""
    chosen, told = loop.experiment.settings, []
    outcomes = jax.device_get(outcomes)
    update_s = (time.monotonic() - began) / max(len(outcomes), 1)
    for inner, outcome in enumerate(outcomes, here.inner):
        step = here.round * chosen.inner_iterations + inner + 1
        told.append(checked(loop, "train", step, outcome, trainable, chosen.slice_rows))
        loop.writer.write("train", step, **told[-1], update_s=update_s)
    return {name: float(np.mean([numbers[name] for numbers in told])) for name in told[0]}
