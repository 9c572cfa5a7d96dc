"""What can be chosen for a run: one field a setting, with its type and its default."""

import dataclasses
from typing import Any

from gdsd_jax import objectives
from gdsd_jax.advantages import BASELINES
from gdsd_jax.curriculum import LengthRamp, ThresholdRamp
from gdsd_jax.models import PROJECTIONS
from gdsd_jax.optimizer import OptimizerConfig
from gdsd_jax.reference import ReferenceSync
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.sandbox import SandboxConfig
from gdsd_jax.sharding import ROLLOUT_WEIGHTS, MeshConfig
from gdsd_jax.tasks import RewardConfig, TaskSettings

MOST = 1 << 20  # of tokens or rows of anything; far more than fits, and arrays of more take long


@dataclasses.dataclass(frozen=True)
class SftPhase:
    """The supervised phase before the rounds.

    Attributes:
      objective: "sft" for a denoiser, "ar" for an autoregressive teacher.
      steps: optimizer steps; 0 = no such phase.
      batch: answers a step.
      noise: how many answers are made wrong, 0..1; the task says how.
      weighting: of "sft": of a token's log-probability, "uniform" or "elbo".
      count: positions that count, the "answer" through its end token or the "full" width.
      log_every: steps from one line of metrics.jsonl to the next.
      checkpoint_every: steps from one checkpoint to the next.
      share: of the training problems; the rounds take the others, and all of them where it is 1.
      heldout_problems: held-out problems whose answers' loss is told with each line; 0 = none.
    """

    objective: str = "sft"
    steps: int = 0
    batch: int = 64
    noise: float = 0.0
    weighting: str = "uniform"
    count: str = "full"
    log_every: int = 60
    checkpoint_every: int = 200
    share: float = 0.5
    heldout_problems: int = 0

    def __post_init__(self):
        check_least(self, 1, "batch", "log_every", "checkpoint_every")
        check_least(self, 0, "steps", "heldout_problems")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must lie in (0, 1]")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise={self.noise} must lie in [0, 1]")
        objective = objectives.find(self.objective)
        if objective.rewards or objective.teacher:
            raise ValueError(
                f"objective={self.objective!r} learns from rewards or a teacher: choose sft or ar"
            )
        self.objective_config()  # refuses weightings and counts that there are not

    def objective_config(self):
        """The config of the phase's objective, from the fields that it shares with this one."""
        kind = objectives.find(self.objective).config
        names = [field.name for field in dataclasses.fields(kind) if field.name in vars(self)]
        return kind(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that is chosen for a run.

    Attributes:
      name: the workdir defaults to runs/NAME.
      greeting: what is printed first.
      model: a preset of gdsd_jax.models, or a .py file that defines PRESET; None = init_from's own.
      init_from: folder of a converted model or workdir of another run; None = random weights.
      start_from: workdir of a run that has ended its supervised phase and begun no round, as with
        rounds=0: this run begins with that phase's model in place of its own; the settings of the
        phase must be the same. None = nothing is taken over.
      require_init: refuse to start from random weights.
      seed: of all randomness.
      task: a task of gdsd_jax.tasks, or a .py file that defines `make`.
      options: the task's own settings.
      data_file: JSONL or CSV of the user's problems; None = the task's own.
      heldout_file: the same for evaluation.
      heldout_share: of data_file's problems that are held out where there is no heldout_file;
        0 = none, evaluations then use the training problems.
      heldout_seed: says which.
      columns: our name of a column -> its name in the user's files.
      data_dir: where generated problems are built.
      prompt: "bare" (the question alone), "full" (with instructions how to answer) or "released"
        (what the task's authors ask for); None = bare for a model that starts from nothing, else
        full.
      reward: which rule grades answers, and what its parts count for.
      enable_thinking: for chat templates that know the word, such as Qwen3's.
      prompt_length: tokens; prompts are padded on the left to this.
      too_long: what becomes of longer prompts: "drop", or "cut" at the front.
      sampler: how completions are written (gdsd_jax/sampling/config.py).
      temperature: of training rollouts.
      threshold: commit every proposal of at least this probability; None = the schedule alone.
      threshold_ramp: how the threshold changes from round to round.
      length_ramp: how the longest completion changes from round to round.
      max_lengths: domain of a record -> most tokens of its completions.
      answers: whose completions are trained on: the "student", in distillation also the "teacher".
      objective: an objective of gdsd_jax.objectives, or a .py file that defines OBJECTIVE.
      objective_config: the objective's own settings; their keys begin with the objective's name.
      rounds: of rollouts and updates.
      prompts_per_round: prompts.
      group_size: completions a prompt.
      inner_iterations: optimizer steps a round.
      minibatches: parts of a round's completions; inner iterations take one after the other.
      slices: gradient accumulation: parts of a step's completions, one after the other; the
        gradient is the same however many there are.
      slices_apart: draw views and take means over tokens for each slice alone, as released code
        does; then their number matters.
      mask_draws: views of a completion in a step; complementary pairs, or single ones.
      score_masks: "fresh" views for each inner iteration, or "shared": those of a completion are
        drawn once a round, and old and reference policy score them once.
      baseline: what a reward is compared with, "leave_one_out" or the "mean" of all its prompt's.
      scale_rewards: divide advantages by their group's standard deviation.
      shuffle_rewards: control experiment: rewards permuted over a round's completions.
      optimizer: of the rounds (gdsd_jax/optimizer.py).
      reference_sync: whether the reference policy moves (gdsd_jax/reference.py).
      sft: the supervised phase.
      sft_optimizer: of the supervised phase.
      lora_rank: of adapters; 0 = all weights are trained.
      lora_alpha: adapters are scaled by alpha / rank.
      lora_targets: projections that get adapters.
      dtype: of activations, "float32" or "bfloat16".
      param_dtype: of weights; None = float32 where they are trained, else as activations.
      teacher_dtype: of a frozen teacher's weights; None = as activations.
      remat: what a backward pass keeps: "none" recomputes nothing, "dots" keeps matrix products,
        "full" keeps the inputs of layers.
      attention_kernel: "splash" (TPU), "cudnn" (GPU, bfloat16), "rows" (CPU), "xla", or "auto".
      mesh: how devices are laid out.
      rollout_weights: "whole" on each tensor group, "split" over fsdp too, or "auto": whole where
        half the memory holds them.
      drift_share: with a cache or threshold, the share of rollout rows whose log-probabilities are
        recomputed.
      drift_bound: nats a token in the mean; above it the next round samples exactly.
      probe_rows: completions of a round whose ELBO and likelihood are told before and after its
        updates, whole groups where one fits; 0 = none (gdsd_jax/probe.py says what it costs).
      not_finite: what becomes of an optimizer step whose loss or gradient is not finite, and of
        answers whose grade is none: "stop" the run, naming them, or "skip" them: the step changes
        nothing, the answers count as not judged.
      eval_every: rounds.
      eval_problems: held-out problems, at most.
      checkpoint_every: rounds.
      keep_checkpoints: the newest ones.
      keep_best: a number of eval lines, such as pass_at_1: WORKDIR/best holds the checkpoint at
        which it was the greatest, or with a minus in front, -kl_common, the least; None = none.
      sinks: where metrics go besides metrics.jsonl: names of gdsd_jax/report/sinks.py, or .py files
        that define SINK.
      sandbox: where programs run.
    """

    name: str = "run"
    greeting: str = ""
    model: str | None = None
    init_from: str | None = None
    start_from: str | None = None
    require_init: bool = False
    seed: int = 0
    task: str = "coding"
    options: Any = None
    data_file: str | None = None
    heldout_file: str | None = None
    heldout_share: float = 0.1
    heldout_seed: int = 0
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    data_dir: str = "runs/data"
    prompt: str | None = None
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    enable_thinking: bool = False
    prompt_length: int = 256
    too_long: str = "drop"
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    temperature: float = 1.0
    threshold: float | None = None
    threshold_ramp: ThresholdRamp = dataclasses.field(default_factory=ThresholdRamp)
    length_ramp: LengthRamp = dataclasses.field(default_factory=LengthRamp)
    max_lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    answers: str = "student"
    objective: str = "gdsd"
    objective_config: Any = None
    rounds: int = 100
    prompts_per_round: int = 32
    group_size: int = 8
    inner_iterations: int = 1
    minibatches: int = 1
    slices: int = 1
    slices_apart: bool = False
    mask_draws: int = 1
    score_masks: str = "fresh"
    baseline: str = "leave_one_out"
    scale_rewards: bool = False
    shuffle_rewards: bool = False
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    reference_sync: ReferenceSync = dataclasses.field(default_factory=ReferenceSync)
    sft: SftPhase = dataclasses.field(default_factory=SftPhase)
    sft_optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_targets: tuple[str, ...] = PROJECTIONS
    dtype: str = "float32"
    param_dtype: str | None = None
    teacher_dtype: str | None = None
    remat: str = "dots"
    attention_kernel: str = "auto"
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    rollout_weights: str = "auto"
    drift_share: float = 0.125
    drift_bound: float = 0.1
    probe_rows: int = 8
    not_finite: str = "stop"
    eval_every: int = 25
    eval_problems: int = 512
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    keep_best: str | None = None
    sinks: tuple[str, ...] = ("tensorboard",)
    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)

    def __post_init__(self):
        check_counts(self)
        check_choice(self, "dtype", ("float32", "bfloat16"))
        check_choice(self, "param_dtype", (None, "float32", "bfloat16"))
        check_choice(self, "teacher_dtype", (None, "float32", "bfloat16"))
        check_choice(self, "remat", ("none", "dots", "full"))
        check_choice(self, "rollout_weights", ROLLOUT_WEIGHTS)
        check_choice(self, "score_masks", ("fresh", "shared"))
        check_choice(self, "too_long", ("drop", "cut"))
        check_choice(self, "not_finite", ("stop", "skip"))
        check_choice(self, "baseline", tuple(BASELINES))
        if not 0 < self.drift_share <= 1:
            raise ValueError(f"drift_share={self.drift_share} must lie in (0, 1]")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must lie in (0, 1]")
        if self.lora_rank and not self.lora_alpha > 0:
            raise ValueError(
                f"lora_alpha={self.lora_alpha}: adapters would change nothing; give it above 0, "
                f"such as lora_rank={self.lora_rank}"
            )
        if self.lora_rank and not self.lora_targets:
            raise ValueError("lora_targets=(): name a projection, such as lora_targets=(q, v)")
        for domain, tokens in self.max_lengths.items():
            if tokens < 1:
                raise ValueError(f"max_lengths.{domain}={tokens} must be at least 1")
        if not 0 <= self.heldout_share < 1:
            raise ValueError(f"heldout_share={self.heldout_share} must lie in [0, 1)")
        if self.rows % (self.minibatches * self.slices):
            raise ValueError(
                f"minibatches={self.minibatches} times slices={self.slices} must divide the "
                f"{self.rows} completions of a round"
            )
        check_objective(self)
        check_reference(self)

    @property
    def rows(self) -> int:
        """Completions of a round."""
        return self.prompts_per_round * self.group_size

    def task_settings(self, from_nothing: bool = True, only_grades: bool = False) -> TaskSettings:
        """What the task is told.

        Args:
          from_nothing: the model starts from random weights.
          only_grades: no problems are needed, texts are graded.
        """
        return TaskSettings(
            data_file=self.data_file,
            heldout_file=self.heldout_file,
            columns=self.columns,
            data_dir=self.data_dir,
            prompt=self.prompt,
            reward=self.reward,
            noise=self.sft.noise,
            sandbox=self.sandbox,
            seed=self.seed,
            options=self.options,
            from_nothing=from_nothing,
            only_grades=only_grades,
        )

    @property
    def slice_rows(self) -> int:
        """Completions of a slice, which an update holds at once."""
        return self.rows // (self.minibatches * self.slices)


def check_counts(settings: Settings) -> None:
    """ValueError naming the first number that is too small or too large."""
    check_least(
        settings,
        1,
        "prompts_per_round",
        "group_size",
        "inner_iterations",
        "minibatches",
        "slices",
        "mask_draws",
        "prompt_length",
        "eval_every",
        "eval_problems",
        "checkpoint_every",
        "keep_checkpoints",
    )
    for key in ("prompts_per_round", "group_size", "mask_draws", "prompt_length"):
        check_most(settings, MOST, key)
    check_most(settings.sft, MOST, "batch")
    check_most(settings.sampler, MOST, "gen_length")
    zero_or_more = ("rounds", "lora_rank", "seed", "heldout_seed", "temperature", "drift_bound")
    check_least(settings, 0, *zero_or_more, "probe_rows")
    for key in ("seed", "heldout_seed"):  # keys of jax have no more bits
        if getattr(settings, key) >= 1 << 32:
            raise ValueError(f"{key}={getattr(settings, key)} must be below 2**32")
    if not settings.data_dir:
        raise ValueError("data_dir= is empty: name a folder, such as data_dir=runs/data")
    longest, start = settings.sampler.gen_length, settings.length_ramp.start
    if start is not None and start > longest:
        raise ValueError(f"length_ramp.start={start} must be at most sampler.gen_length={longest}")


def check_least(config, least: int, *keys: str) -> None:
    """ValueError naming the first field below `least`."""
    for key in keys:
        if not getattr(config, key) >= least:
            raise ValueError(f"{key}={getattr(config, key)} must be at least {least}")


def check_most(config, most: int, key: str) -> None:
    """ValueError naming the field where it is above `most`."""
    if getattr(config, key) > most:
        raise ValueError(f"{key}={getattr(config, key)} must be at most {most}")


def check_choice(config, key: str, choices: tuple) -> None:
    """ValueError unless the field is one of the choices."""
    if getattr(config, key) not in choices:
        known = ", ".join(map(str, choices))
        raise ValueError(f"{key}={getattr(config, key)!r}: choose one of {known}")


def check_objective(settings: Settings) -> None:
    """ValueError where the objective cannot do what the other settings ask for."""
    objective, sampler = objectives.find(settings.objective), settings.sampler
    if objective.rollouts is not None:
        objective.rollouts(sampler, settings.temperature, settings.threshold)
    if objective.rewards and settings.group_size < 2:
        raise ValueError(
            f"group_size={settings.group_size}: advantages compare completions, give at least 2"
        )
    whose = ("student", "teacher") if objective.teacher else ("student",)
    if settings.answers not in whose:
        raise ValueError(
            f"answers={settings.answers!r}: choose student, or teacher for an objective that "
            "distils one"
        )
    if objective.teacher and not (sampler.kind == "block" and sampler.block_length):
        raise ValueError(
            f"objective {settings.objective!r} trains a block-causal model: set "
            "sampler.kind=block and sampler.block_length"
        )
    if objective.by_group and settings.slice_rows % settings.group_size:
        raise ValueError(
            f"objective {settings.objective!r} compares the completions of a prompt: the "
            f"{settings.slice_rows} completions of a slice must be a multiple of "
            f"group_size={settings.group_size}; choose other slices"
        )


def check_reference(settings: Settings) -> None:
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
