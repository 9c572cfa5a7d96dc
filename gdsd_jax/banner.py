"""What a run says of itself before it begins."""

import math

from etils import epath
import jax

from gdsd_jax import extensions, models, objectives, sampling
from gdsd_jax.checkpoint import latest_iteration
from gdsd_jax.experiment import Experiment
from gdsd_jax.settings import Settings

WIDTH = 10  # columns of the names


def lines_of(experiment: Experiment, workdir) -> list[str]:
    """The run in some lines for the terminal, and a line for each of `doubts_of`."""
    chosen = experiment.settings
    told = {
        "model": model_text(experiment),
        "devices": devices_text(experiment),
        "task": task_text(experiment),
        "training": training_text(experiment),
        "round": arithmetic_of(chosen) if chosen.rounds else "",
        "workdir": workdir_text(chosen, workdir),
    }
    lines = [f"{name:<{WIDTH}}{text}" for name, text in told.items() if text]
    return lines + [f"{'note':<{WIDTH}}{doubt}" for doubt in doubts_of(experiment)]


def model_text(experiment: Experiment) -> str:
    """The model's name, size and precision, and where its weights are from."""
    chosen, model = experiment.settings, experiment.denoiser.config
    shapes = jax.tree.leaves(models.param_shapes(model))
    said = [
        f"{choice_text(chosen.model or model.family)}",
        f"{count_text(sum(math.prod(leaf.shape) for leaf in shapes))} parameters",
        model.dtype,
    ]
    if model.lora_rank:
        said.append(f"adapters of rank {model.lora_rank}")
    begins = "random weights" if chosen.init_from is None else f"weights of {chosen.init_from}"
    if chosen.start_from is not None:
        begins = f"weights of the supervised phase in {chosen.start_from}"
    return f"{', '.join(said)}; {begins}"


def devices_text(experiment: Experiment) -> str:
    """The devices, the mesh and what computes attention."""
    mesh, chosen = experiment.mesh, experiment.settings
    device = mesh.devices.flat[0]
    kernel = models.find_kernel(chosen.attention_kernel, experiment.denoiser.config, device)
    kernels = [name for name, one in models.KERNELS.items() if one == kernel]
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    hosts = f" in {experiment.hosts.count} processes" if experiment.hosts.count > 1 else ""
    attention = f", attention by {kernels[0]}" if kernels else ""
    return f"{mesh.size} x {device.device_kind}{hosts}, mesh {shape}{attention}"


def task_text(experiment: Experiment) -> str:
    """The task and how many problems each phase has."""
    chosen, said = experiment.settings, []
    if chosen.sft.steps:
        said.append(f"{times(len(experiment.sft_problems), 'problem')} of the supervised phase")
    if chosen.rounds or not said:
        what = "" if said else " problem" if len(experiment.train) == 1 else " problems"
        said.append(f"{len(experiment.train):,}{what} of the rounds")
    return f"{choice_text(chosen.task)}; {', '.join(said)}, {len(experiment.heldout):,} held out"


def training_text(experiment: Experiment) -> str:
    """The phases, the objective and the evaluations."""
    chosen, said = experiment.settings, []
    asked = min(chosen.eval_problems, len(experiment.heldout))
    if chosen.sft.steps:
        steps = times(chosen.sft.steps, "supervised step")
        said.append(f"{steps} of {times(chosen.sft.batch, 'answer')}")
    if chosen.rounds:
        said.append(f"{times(chosen.rounds, 'round')} of {choice_text(chosen.objective)}")
    often = "at the end"
    if chosen.rounds and chosen.eval_every >= chosen.rounds:
        often = "before the rounds and at the end"
    elif chosen.rounds:
        often = "every round" if chosen.eval_every == 1 else f"every {chosen.eval_every:,} rounds"
    evaluations = (
        f"{times(asked, 'held-out problem')} {'is' if asked == 1 else 'are'} asked {often}"
    )
    return f"{', then '.join(said) or 'none'}; {evaluations}"


def arithmetic_of(chosen: Settings) -> str:
    """What a round's completions are made of, and what an update takes of them at once."""
    return (
        f"{times(chosen.prompts_per_round, 'prompt')} x {times(chosen.group_size, 'answer')} = "
        f"{times(chosen.rows, 'completion')} = {times(chosen.minibatches, 'minibatch', 'es')} x "
        f"{times(chosen.slices, 'slice')} x {times(chosen.slice_rows, 'row')}; "
        f"{times(chosen.inner_iterations, 'update')}, each of a minibatch"
    )


def times(count: int, what: str, more: str = "s") -> str:
    """A number of things, such as 2 updates."""
    return f"{count:,} {what}{'' if count == 1 else more}"


def workdir_text(chosen: Settings, workdir) -> str:
    """The workdir, and whether a run goes on there."""
    newest, sinks = latest_iteration(workdir), ", ".join(map(choice_text, chosen.sinks))
    begins = "a new run" if newest is None else f"goes on from checkpoint {newest}"
    return f"{epath.Path(workdir)}, {begins}" + (f"; metrics also to {sinks}" if sinks else "")


def doubts_of(experiment: Experiment) -> list[str]:
    """Settings that go together, but hardly as they are meant."""
    chosen, model, found = experiment.settings, experiment.denoiser.config, []
    learnt = models.default_sampler(model).get("kind", "llada"), model.block_length
    if chosen.init_from is not None:
        found += sampling.attention_doubts(chosen.sampler, *learnt, f"{model.family} weights")
    found += sampling.idle_doubts(chosen.sampler)
    if chosen.rounds and chosen.inner_iterations < chosen.minibatches:
        found.append(
            f"inner_iterations={chosen.inner_iterations} is below minibatches="
            f"{chosen.minibatches}: the other minibatches of a round are never learnt from"
        )
    updates, steps = chosen.rounds * chosen.inner_iterations, chosen.sft.steps
    for section, optimizer, count, whose in (
        ("sft_optimizer", chosen.sft_optimizer, steps, "the supervised phase"),
        ("optimizer", chosen.optimizer, updates, "the run"),
    ):
        if 0 < count <= optimizer.warmup_steps:
            found.append(
                f"{section}.warmup_steps={optimizer.warmup_steps} is not below the "
                f"{times(count, 'update')} of {whose}: the learning rate is never reached"
            )
        if 0 < optimizer.decay_steps < count:
            found.append(
                f"{section}.decay_steps={optimizer.decay_steps} is below the "
                f"{times(count, 'update')} of {whose}: the others are made at "
                f"{optimizer.final_share:.0%} of the learning rate"
            )
    learns_by_rewards = chosen.rounds and objectives.find(chosen.objective).rewards
    if learns_by_rewards and chosen.temperature == 0:
        found.append("temperature=0: the answers to a prompt are all the same, nothing is learnt")
    return found


def choice_text(name: str) -> str:
    """A name of ours, or the name of a user's file."""
    return epath.Path(name).name if extensions.is_file(name) else name


def count_text(count: int) -> str:
    """A large number in three digits, such as 8.02 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
