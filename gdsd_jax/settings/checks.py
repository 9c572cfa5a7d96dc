"""What settings cannot be, each alone and together."""

from collections.abc import Callable, Collection
from typing import Any

from gdsd_jax import objectives
from gdsd_jax.advantages import BASELINES
from gdsd_jax.mistakes import Gathered, check_choices, check_least, check_share
from gdsd_jax.sharding import ROLLOUT_WEIGHTS

MOST = 1 << 20  # of tokens or rows of anything; far more than fits, and arrays of more take long
ONE_OR_MORE = (
    "prompts_per_round",
    "group_size",
    "inner_iterations",
    "minibatches",
    "slices",
    "rollout_parts",
    "mask_draws",
    "prompt_length",
    "eval_every",
    "eval_problems",
    "checkpoint_every",
    "keep_checkpoints",
)
ZERO_OR_MORE = ("rounds", "lora_rank", "seed", "heldout_seed", "temperature", "drift_bound")
ZERO_OR_MORE += ("probe_rows", "probe_tokens", "prompt_multiple", "drift_tokens")
CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "param_dtype": (None, "float32", "bfloat16"),
    "teacher_dtype": (None, "float32", "bfloat16"),
    "heldout_half": (None, "development", "test"),
    "remat": ("none", "dots", "full"),
    "rollout_weights": ROLLOUT_WEIGHTS,
    "rollout_quant": ("none", "int8"),
    "score_masks": ("fresh", "shared"),
    "too_long": ("drop", "cut"),
    "not_finite": ("stop", "skip"),
    "baseline": tuple(BASELINES),
}


def check_all(settings, broken: Collection[str] = ()) -> None:
    """Mistakes of a run's settings.

    Args:
      settings: a `Settings`, which may be `unchecked`.
      broken: fields that are known to be wrong; what needs them is not checked.
    """
    wrong = Gathered()
    with wrong.check():
        check_alone(settings)
    broken = {*broken, *(line.partition("=")[0] for line in wrong.lines)}
    for check, fields in TOGETHER.items():
        if not broken & set(fields):
            with wrong.check():
                check(settings)
    wrong.end()


def check_alone(settings) -> None:
    """Mistakes of values that are wrong whatever the others are."""
    wrong = Gathered()
    with wrong.check():
        check_least(settings, **dict.fromkeys(ONE_OR_MORE, 1))
    with wrong.check():
        check_least(settings, **dict.fromkeys(ZERO_OR_MORE, 0))
    for key in ("prompts_per_round", "group_size", "mask_draws", "prompt_length"):
        with wrong.check():
            check_most(settings, MOST, key)
    for key in ("seed", "heldout_seed"):
        with wrong.check():
            check_seed(settings, key)
    with wrong.check():
        check_choices(settings, **CHOICES)
    for key, span in {
        "drift_share": "(0, 1]",
        "threshold": "(0, 1]",
        "heldout_share": "[0, 1)",
    }.items():
        if getattr(settings, key) is not None:
            with wrong.check():
                check_share(settings, key, span)
    if not settings.data_dir:
        wrong.lines.append("data_dir= is empty: name a folder, such as data_dir=runs/data")
    for domain, tokens in settings.max_lengths.items():
        if tokens < 1:
            wrong.lines.append(f"max_lengths.{domain}={tokens} must be at least 1")
    wrong.end()


def check_most(config, most: int, key: str) -> None:
    """ValueError naming the field where it is above `most`."""
    if getattr(config, key) > most:
        raise ValueError(f"{key}={getattr(config, key)} must be at most {most}")


def check_seed(config, key: str) -> None:
    """ValueError where the field has more bits than a key of jax."""
    if getattr(config, key) >= 1 << 32:
        raise ValueError(f"{key}={getattr(config, key)} must be below 2**32")


def check_lora(settings) -> None:
    """ValueError where adapters would change nothing."""
    if settings.lora_rank and not settings.lora_alpha > 0:
        raise ValueError(
            f"lora_alpha={settings.lora_alpha}: adapters would change nothing; give it above 0, "
            f"such as lora_alpha={settings.lora_rank}"
        )
    if settings.lora_rank and not settings.lora_targets:
        raise ValueError("lora_targets=(): name a projection, such as lora_targets=(q, v)")


def check_rows(settings) -> None:
    """Mistakes where a round's completions do not go into its slices, or into its parts."""
    rows, parts, wrong = settings.rows, settings.rollout_parts, Gathered()
    if rows % (settings.minibatches * settings.slices):
        wrong.lines.append(
            f"minibatches={settings.minibatches} times slices={settings.slices} must divide the "
            f"{rows} completions of a round"
        )
    if rows % parts:
        wrong.lines.append(f"rollout_parts={parts} must divide the {rows} completions of a round")
    wrong.end()


def check_lengths(settings) -> None:
    """ValueError where completions are too long, or begin longer than they end."""
    longest, start = settings.sampler.gen_length, settings.length_ramp.start
    check_most(settings.sampler, MOST, "gen_length")
    if start is not None and start > longest:
        raise ValueError(f"length_ramp.start={start} must be at most sampler.gen_length={longest}")


def check_rollouts(settings) -> None:
    """ValueError where the objective cannot learn from such rollouts."""
    objective = objectives.find(settings.objective)
    if objective.rollouts is not None:
        objective.rollouts(settings.sampler, settings.temperature, settings.threshold)
        if settings.rollout_quant != "none":
            raise ValueError(
                f"rollout_quant={settings.rollout_quant}: objective {settings.objective!r} takes "
                "each token for a draw from the model's softmax at its state: set "
                "rollout_quant=none"
            )


def check_parts(settings) -> None:
    """ValueError where rows that are sampled apart would get other tokens."""
    if settings.rollout_parts > 1 and settings.sampler.reference_quirks:
        raise ValueError(
            f"rollout_parts={settings.rollout_parts}: with sampler.reference_quirks a row's tokens "
            "depend on the other rows: set rollout_parts=1"
        )


def check_group(settings) -> None:
    """ValueError where there is nothing that the objective could compare a completion with."""
    objective = objectives.find(settings.objective)
    compares = objective.by_group or "advantages_B" in objective.reads
    if compares and settings.group_size < 2:
        raise ValueError(
            f"group_size={settings.group_size}: advantages compare completions, give at least 2"
        )


def check_answers(settings) -> None:
    """ValueError where there is nobody whose answers are asked for."""
    teacher = objectives.find(settings.objective).teacher
    allowed = ("student", "teacher") if teacher else ("student",)
    if settings.answers not in allowed:
        raise ValueError(
            f"answers={settings.answers!r}: choose student, or teacher for an objective that "
            "distils one"
        )


def check_blocks(settings) -> None:
    """ValueError where the objective wants another attention."""
    objective, sampler = objectives.find(settings.objective), settings.sampler
    if objective.teacher and sampler.kind != "block":
        raise ValueError(
            f"objective {settings.objective!r} trains a block-causal model: set "
            "sampler.kind=block and sampler.block_length"
        )


def check_slices(settings) -> None:
    """ValueError where slices part the completions of a prompt that the objective compares."""
    rows, objective = settings.rows, objectives.find(settings.objective)
    is_whole = rows % (settings.minibatches * settings.slices) == 0  # else check_rows says so
    if is_whole and objective.by_group and settings.slice_rows % settings.group_size:
        raise ValueError(
            f"objective {settings.objective!r} compares the completions of a prompt: the "
            f"{settings.slice_rows} completions of a slice must be a multiple of "
            f"group_size={settings.group_size}; choose other slices"
        )


def check_reference(settings) -> None:
    """ValueError where a reference should move that is not there, or that cannot."""
    every = settings.reference_sync.every
    if not every:
        return
    objective = objectives.find(settings.objective)
    if objective.teacher or not objective.reference(settings.objective_config):
        raise ValueError(
            f"reference_sync.every={every}: objective {settings.objective!r} compares with no "
            "reference; give it a beta above 0, or set reference_sync.every=0"
        )
    if settings.lora_rank:
        raise ValueError(
            f"reference_sync.every={every} with lora_rank={settings.lora_rank}: the mean of two "
            "adapters' factors is not the mean of their weights; set reference_sync.every=0, or "
            "lora_rank=0"
        )


ROWS = ("prompts_per_round", "group_size", "minibatches", "slices", "rollout_parts")
# what cannot be together -> the fields that it needs
TOGETHER: dict[Callable[[Any], None], tuple[str, ...]] = {
    check_lora: ("lora_rank", "lora_alpha", "lora_targets"),
    check_rows: ROWS,
    check_lengths: ("sampler", "length_ramp"),
    check_rollouts: ("objective", "sampler", "temperature", "threshold", "rollout_quant"),
    check_parts: ("sampler", "rollout_parts"),
    check_group: ("objective", "group_size"),
    check_answers: ("objective", "answers"),
    check_blocks: ("objective", "sampler"),
    check_slices: ("objective", *ROWS),
    check_reference: ("objective", "objective_config", "reference_sync", "lora_rank"),
}
