"""The one loop: prompts, rollout_fn, rewards, advantages, masked views, loss_fn, update.

B rows (completions of a round), S slices of b rows, P prompt columns, G completion columns, K mask
draws.
"""

from collections.abc import Callable
import functools
import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import chips, curriculum, data, distill, objectives, plots, sharding
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.evaluate import Evaluation, summary, summary_line
from gdsd_jax.hosts import watch_sigterm
from gdsd_jax.metrics import MetricsWriter, Pace, read_metrics, round_line
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.run import Run, ask, decode, evaluate_heldout, initial_weights, score_texts
from gdsd_jax.steps import Scored, Steps, abstract_round, make_keys, make_sft_step, make_steps
from gdsd_jax.types import Batch, PyTree, TrainState

SFT_FIELDS = ("tokens", "valid", "completion", "completion_len")
COPIES = ("reference", "teacher")  # of weights, frozen; a checkpoint holds them
SAMPLES = 12  # held-out programs that the report shows


class Progress(NamedTuple):
    """Where a run stands, on the host; goes into every checkpoint as JSON."""

    phase: str = "sft"  # then "rl"
    step: int = 0  # optimizer steps of the supervised phase
    round: int = 0  # finished rounds
    inner: int = 0  # inner iterations done in the present round
    cursor: Any = None  # of the phase's data loader; None = its start
    lines: int = 0  # of metrics.jsonl
    # the present round's rollout drifted too far: the next one goes without cache and threshold
    exact: bool = False


class Buffer(NamedTuple):
    """The present round's completions, rewarded, and the scores that its updates compare with."""

    slices: Batch
    scored: Scored


class Interrupted(Exception):
    """SIGTERM came, and the last completed state is saved. Work that was begun may still go on in
    its thread."""


class Loop(NamedTuple):
    """What the phases share."""

    run: Run
    steps: Steps
    seed_key: jax.Array
    checkpoints: Checkpoints
    writer: MetricsWriter
    signalled: Callable[[], bool]  # whether SIGTERM has come to this process
    say: Callable[[str], None]
    profile: int | None = None  # the round of which the profiler writes a trace

    def keys(self, number: int) -> dict[str, jax.Array]:
        """A key for each use of randomness in round or step `number`."""
        return make_keys(self.seed_key, sharding.everywhere(self.run.mesh, np.int32(number)))

    def stopping(self) -> bool:
        """Whether SIGTERM has come to any process; all ask at the same points and get the same
        answer."""
        return self.run.hosts.any(self.signalled())


def train(run: Run, say: Callable[[str], None] = print, profile: int | None = None) -> None:
    """Runs, or resumes, the whole experiment: supervised phase, reinforcement rounds with
    evaluations, report.

    Round `profile`, counted from 1, is traced into WORKDIR/profile.
    Resume order: the workdir's own checkpoint, then config.init_from, then random weights.

    Raises:
      Interrupted: SIGTERM; the state is saved.
      FloatingPointError: NaN or infinity, naming phase, step and number; the last good checkpoint
        stays.
    """
    config = run.config
    # the first collective must not wait long for a process that still reads data
    run.hosts.exchange(None)
    checkpoints = Checkpoints(run.workdir / "checkpoints", config.keep_checkpoints)
    if run.hosts.first:
        (run.workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    latest = checkpoints.latest()
    progress = Progress() if latest is None else Progress(**checkpoints.host(latest))
    writer = MetricsWriter(
        run.workdir / "metrics.jsonl", keep=progress.lines, enabled=run.hosts.first
    )
    say = say if run.hosts.first else lambda line: None
    seed_key = jax.jit(
        lambda: jax.random.key(config.seed), out_shardings=sharding.replicated(run.mesh)
    )()
    steps = make_steps(run.denoiser, config, run.mesh, run.teacher)
    loop = Loop(run, steps, seed_key, checkpoints, writer, watch_sigterm(), say, profile)
    with jax.transfer_guard("disallow"):
        begin = (
            (lambda: start(loop)) if latest is None else (lambda: resume(loop, latest, progress))
        )
        state, frozen, buffer = unless_stopped(loop, begin, interrupt)
        if progress.phase == "sft":
            state = supervise(loop, state, frozen, progress)
            frozen |= copies_of(config, state.trainable)
            state = fresh_state(run, state.trainable, config.optimizer)
            progress = Progress("rl", step=config.sft.steps, lines=writer.cursor())
            # without the reference, which is the weights themselves
            save(loop, state, {}, progress)
        reinforce(loop, state, frozen, buffer, progress)
    checkpoints.wait()
    writer.close()


def supervise(loop: Loop, state: TrainState, frozen: dict, progress: Progress) -> TrainState:
    """Fine-tuning on the task's own, partly wrong, solutions: of the denoiser, or of the teacher it
    will start from."""
    run, config = loop.run, loop.run.config
    if config.sft.steps <= progress.step:
        return state
    gen_length = config.sampler.gen_length
    answers = data.noisy_answers(
        run.task, run.lessons, run.tokenizer, gen_length, noise=config.sft.noise, seed=config.seed
    )
    loader = data.make_loader(run.lessons, answers, batch=config.sft.batch, seed=config.seed)
    if progress.cursor:
        loader.set_state(progress.cursor)
    sft_step, began, losses = (
        make_sft_step(run.teacher or run.denoiser, config),
        time.monotonic(),
        [],
    )
    for step in range(progress.step, config.sft.steps):
        rows = next(loader)
        arrays, rng = (
            sharding.global_rows(run.mesh, {name: rows[name] for name in SFT_FIELDS}),
            loop.keys(step)["sft"],
        )
        if step == progress.step:
            keep = functools.partial(save, loop, state, frozen, progress, stop=True)
            unless_stopped(loop, sft_step.lower(state, frozen, arrays, rng).compile, keep)
        state, metrics = sft_step(state, frozen, arrays, rng)
        losses.append(metrics["loss"])
        # no more than two steps are under way, for which a stop has to wait
        jax.block_until_ready(losses[-2:-1])
        done = step + 1
        if done % config.sft.log_every == 0 or done == config.sft.steps:
            loss = float(np.mean(jax.device_get(losses)))
            check_finite("sft", done, {"loss": loss})
            loop.writer.write("sft", done, loss=loss)
            left = (time.monotonic() - began) / (done - progress.step) * (config.sft.steps - done)
            loop.say(
                f"sft step {done}/{config.sft.steps} | loss {loss:.3f} nats a token | {left:.0f} s left"
            )
            losses = []
        stop = loop.stopping()
        if stop or done % config.sft.checkpoint_every == 0:
            here = Progress("sft", step=done, cursor=loader.get_state(), lines=loop.writer.cursor())
            save(loop, state, frozen, here, stop=stop)
    return state


def reinforce(
    loop: Loop, state: TrainState, frozen: dict, buffer: Buffer | None, progress: Progress
) -> TrainState:
    """The reinforcement rounds."""
    config, steps, writer = loop.run.config, loop.steps, loop.writer
    prompts = data.make_loader(loop.run.train, batch=config.prompts_per_round, seed=config.seed + 1)
    if progress.cursor:
        prompts.set_state(progress.cursor)
    pace, first, compiling = Pace(config.rounds - progress.round), progress.round, chips.Compiling()
    for number in range(progress.round, config.rounds):
        if number + 1 == loop.profile:
            jax.profiler.start_trace(str(loop.run.workdir / "profile"))
        keys, exact = loop.keys(number), progress.exact
        keep = functools.partial(save, loop, state, frozen, progress, buffer, stop=True)
        if buffer is None:
            if number % config.eval_every == 0:
                evaluate_now(loop, state, frozen, number, keep)
            buffer, summary = collect(loop, state, frozen, next(prompts), keys, progress, keep)
            exact = drifted(loop, number, summary)
        else:
            summary = {}  # resumed inside a round: its rollout line is written already
        arguments = [
            (
                frozen,
                buffer.slices,
                old,
                ref,
                sharding.everywhere(loop.run.mesh, np.int32(inner)),
                keys["masks"],
            )
            for inner, (old, ref) in enumerate(zip(*buffer.scored))
        ]
        # the first inner iteration compares with nothing, the others with the old scores
        if number == first:
            for each in {progress.inner, config.inner_iterations - 1}:
                unless_stopped(loop, steps.update.lower(state, *arguments[each]).compile, keep)
        outcomes, began = [], time.monotonic()
        for inner in range(progress.inner, config.inner_iterations):
            state, outcome = steps.update(state, *arguments[inner])
            outcomes.append(outcome)
            # no more than two are under way, for which a stop has to wait
            jax.block_until_ready(outcomes[-2:-1])
            if inner + 1 < config.inner_iterations and loop.stopping():
                write_updates(loop, number, progress.inner, outcomes, began)
                here = progress._replace(
                    round=number,
                    inner=inner + 1,
                    cursor=prompts.get_state(),
                    lines=writer.cursor(),
                    exact=exact,
                )
                save(loop, state, frozen, here, buffer, stop=True)
        means = write_updates(loop, number, progress.inner, outcomes, began)
        if not objectives.find(config.objective).rewards:
            summary["kl"] = means["kl"]
        progress = progress._replace(
            round=number + 1,
            inner=0,
            cursor=prompts.get_state(),
            lines=writer.cursor(),
            exact=exact,
        )
        buffer, stop = None, loop.stopping()
        if stop or progress.round % config.checkpoint_every == 0 or progress.round == config.rounds:
            save(loop, state, frozen, progress, stop=stop)
        if progress.round == loop.profile:
            jax.profiler.stop_trace()
        if number == first:
            loop.say(f"first round: {compiling.seconds:.0f} s of compiling{chips.peak_line()}")
        loop.say(round_line(progress.round, config.rounds, seconds_left=pace.left(), **summary))
    evaluate_now(
        loop,
        state,
        frozen,
        progress.round,
        functools.partial(save, loop, state, frozen, progress, stop=True),
    )
    return state


def collect(
    loop: Loop, state, frozen, prompts, keys, progress: Progress, keep: Callable
) -> tuple[Buffer, dict]:
    """One round's experience, written to metrics.jsonl; `keep` is what a stop calls meanwhile."""
    experience = functools.partial(experience_of, loop, state, frozen, prompts, keys, progress)
    buffer, summary, numbers = unless_stopped(loop, experience, keep)
    loop.writer.write("rollout", progress.round + 1, **summary, **numbers)
    return buffer, summary


def experience_of(
    loop: Loop, state, frozen, prompts, keys, progress: Progress
) -> tuple[Buffer, dict, dict]:
    """Completions from the device, rewards from the host while the device scores; and what a
    round's line shows of them, and besides."""
    run, config, steps = loop.run, loop.run.config, loop.steps
    number, exact, began = progress.round, progress.exact, time.monotonic()
    threshold, longest = curriculum.of_round(config, number)
    asked, index_B = ask(
        run,
        run.train,
        prompts,
        config.group_size,
        config.temperature,
        threshold=threshold,
        longest=longest,
    )
    answer = steps.teach if config.answers == "teacher" else steps.sample
    rollout = answer(state.trainable, frozen, asked, keys["rollout"], exact=exact)
    slices = steps.slices(rollout, asked)
    tokens_BxG, length_B = sharding.fetch(run.mesh, (rollout.tokens_BxG, rollout.length_B))
    sampled = time.monotonic()
    watched = steps.drift is not None and not exact
    drift = steps.drift(state.trainable, frozen, asked, rollout)._asdict() if watched else {}
    # runs while the host executes programs
    scored = steps.score(state.trainable, frozen, slices, keys["masks"])
    summary = {
        "tokens_per_s": float(length_B.sum() / (sampled - began)),
        **{f"drift_{name}": float(value) for name, value in jax.device_get(drift).items()},
    }
    numbers = {
        "length": length_B.mean(),
        "tokens": int(length_B.sum()),
        "rollout_s": sampled - began,
    }
    if objectives.find(config.objective).rewards:
        rewards = score_texts(run, run.train, index_B, decode(run, tokens_BxG))
        reward_B = sum(rewards.values())
        if config.shuffle_rewards:
            reward_B = np.random.default_rng((config.seed, number)).permutation(reward_B)
        slices = steps.reward(slices, sharding.global_rows(run.mesh, reward_B))
        summary |= {"reward": float(reward_B.mean()), "tests": float(rewards["tests"].mean())}
        numbers |= {
            "format": rewards["format"].mean(),
            "solved": (rewards["tests"] == 1).mean(),
            "reward_s": time.monotonic() - sampled,
        }
    return Buffer(slices, scored), summary, numbers


def drifted(loop: Loop, number: int, summary: dict) -> bool:
    """Whether round `number`'s rollout recorded log-probabilities too far from the model's; says
    so."""
    mean, bound = summary.get("drift_mean", 0.0), loop.run.config.drift_bound
    if mean > bound:
        loop.say(
            f"round {number + 1} drifted by {mean:.3g} nats a token, over drift_bound={bound}: the next one samples exactly"
        )
    return mean > bound


def unless_stopped(loop: Loop, work: Callable[[], Any], keep: Callable[[], None]) -> Any:
    """What `work()` returns. A stop does not wait for it, be it compiling, a rollout, or programs
    that take long: then `keep()` saves the state, which the work only reads, and raises
      Interrupted."""
    stopped, found = loop.run.hosts.beside(work, loop.signalled)
    if stopped:
        keep()
    return found.result()


def interrupt() -> None:
    """Nothing is there yet that is not on disk."""
    raise Interrupted


def evaluate_now(loop: Loop, state: TrainState, frozen: dict, number: int, keep: Callable) -> None:
    """Held-out problems after `number` rounds; writes the eval line, sample programs and the
    report."""
    greedy, numbers = unless_stopped(
        loop, functools.partial(evaluation_of, loop, state, frozen), keep
    )
    line = summary_line if loop.run.teacher is None else distill.line
    loop.writer.write("eval", number, **numbers)
    loop.say(f"eval  {number}/{loop.run.config.rounds} | {line(numbers)}")
    if loop.run.hosts.first:
        report(loop.run, number, greedy)


def evaluation_of(
    loop: Loop, state: TrainState, frozen: dict
) -> tuple[Evaluation, dict[str, float]]:
    """(greedy answers, the numbers of these and of answers at temperature 1)."""
    rng = loop.keys(0)["evaluation"]  # the same noise at every evaluation

    def sample(asked):
        return loop.steps.sample(state.trainable, frozen, asked, rng)

    greedy, sampled = (
        evaluate_heldout(loop.run, sample, temperature) for temperature in (0.0, 1.0)
    )
    numbers = summary(greedy, sampled)
    if loop.run.teacher is not None:
        numbers |= distill.evaluate(loop.run, loop.steps, state.trainable, frozen, rng)
    return greedy, numbers


def report(run: Run, number: int, greedy: Evaluation) -> None:
    """Keeps the first held-out programs of this evaluation and redraws report.html."""
    folder = run.workdir / "samples"
    folder.mkdir(exist_ok=True)
    records = [
        run.heldout.records[run.heldout.index[row]]
        for row in range(min(SAMPLES, len(greedy.texts)))
    ]
    shown = [
        {"question": record["question"], "text": text, "score": float(score)}
        for record, text, score in zip(records, greedy.texts, greedy.scores["tests"])
    ]
    (folder / f"{number:06}.json").write_text(json.dumps(shown, indent=1))
    first = (
        json.loads((folder / f"{0:06}.json").read_text())
        if (folder / f"{0:06}.json").exists()
        else shown
    )
    samples = [
        {
            "question": old["question"],
            "before": old["text"],
            "before_score": old["score"],
            "after": new["text"],
            "after_score": new["score"],
        }
        for old, new in zip(first, shown)
    ]
    plots.write_report(
        run.workdir, run.config.to_dict(), read_metrics(run.workdir / "metrics.jsonl"), samples
    )


def write_updates(
    loop: Loop, number: int, first: int, outcomes: list[dict], began: float
) -> dict[str, float]:
    """One train line for each inner iteration of round `number` from `first` on; returns the
    means."""
    outcomes = jax.device_get(outcomes)
    update_s = (time.monotonic() - began) / max(len(outcomes), 1)
    for inner, outcome in enumerate(outcomes, first):
        step = number * loop.run.config.inner_iterations + inner + 1
        check_finite("train", step, outcome)
        loop.writer.write("train", step, **outcome, update_s=update_s)
    return {name: float(np.mean([outcome[name] for outcome in outcomes])) for name in outcomes[0]}


def check_finite(phase: str, step: int, numbers: dict) -> None:
    """FloatingPointError before a broken state is saved."""
    for name in ("loss", "grad_norm"):
        if name in numbers and not np.isfinite(numbers[name]):
            raise FloatingPointError(
                f"{phase} step {step}: {name} is {numbers[name]}; the last checkpoint is good"
            )


def copies_of(config, weights: PyTree) -> dict:
    """The reference policy or the teacher where the objective asks for one; with adapters it is the
    base, without a copy."""
    if config.lora_rank:
        return {}
    objective = objectives.find(config.objective)
    if objective.teacher:
        return {"teacher": jax.tree.map(lambda x: jnp.copy(x.astype(config.dtype)), weights)}
    if not objective.reference(objective.config(**config[config.objective])):
        return {}
    return {"reference": jax.tree.map(jnp.copy, weights)}


def fresh_state(run: Run, trainable: PyTree, optimizer) -> TrainState:
    """A state with new optimizer moments, placed beside their parameters."""

    def make(weights):
        return init_state(weights, make_optimizer(**optimizer))

    places = sharding.shardings(run.mesh, jax.eval_shape(make, trainable))
    return jax.jit(make, out_shardings=places)(trainable)


def start(loop: Loop) -> tuple[TrainState, dict, Buffer | None]:
    """The state of a fresh run."""
    trainable, frozen = initial_weights(loop.run, loop.keys(0)["init"])
    return fresh_state(loop.run, trainable, loop.run.config.sft_optimizer), frozen, None


def resume(
    loop: Loop, iteration: int, progress: Progress
) -> tuple[TrainState, dict, Buffer | None]:
    """The state of a checkpoint; what it does not hold (a frozen base) is made as for a fresh
    run."""
    run, config = loop.run, loop.run.config
    loop.say(
        f"resuming {run.workdir}: {progress.phase}, round {progress.round}, step {progress.step}"
    )
    trainable, frozen = initial_weights(run, loop.keys(0)["init"])
    state = fresh_state(
        run, trainable, config.sft_optimizer if progress.phase == "sft" else config.optimizer
    )
    if begun := progress.round or progress.inner:
        frozen |= copies_of(config, trainable)
    buffer = (
        Buffer(*abstract_round(loop.steps, config, run.mesh, state.trainable, frozen)[1:])
        if progress.inner
        else None
    )
    saved = loop.checkpoints.restore(iteration, as_saved(state, frozen, buffer))
    if begun:
        frozen |= {name: saved[name] for name in COPIES if name in saved}
    elif progress.phase == "rl":
        frozen |= copies_of(config, saved["state"].trainable)
    if buffer is not None:
        buffer = jax.tree.unflatten(jax.tree.structure(buffer), saved["buffer"])
    return saved["state"], frozen, buffer


def as_saved(state: TrainState, frozen: dict, buffer: Buffer | None) -> PyTree:
    """What a checkpoint holds: everything but the frozen base, which is where it came from."""
    tree = {"state": state} | {name: frozen[name] for name in COPIES if name in frozen}
    if buffer is not None:
        tree["buffer"] = jax.tree.leaves(buffer)
    return tree


def save(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    progress: Progress,
    buffer: Buffer | None = None,
    *,
    stop=False,
) -> None:
    """Starts writing a checkpoint; with `stop`, finishes it and raises Interrupted."""
    per_round = loop.run.config.inner_iterations
    iteration = (
        progress.step + progress.round * per_round + progress.inner + (progress.phase == "rl")
    )
    loop.checkpoints.save(iteration, as_saved(state, frozen, buffer), progress._asdict())
    if stop:
        loop.checkpoints.wait()
        raise Interrupted
