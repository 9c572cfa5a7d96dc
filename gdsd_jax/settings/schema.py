"""What can be chosen for a run: one field a setting, with its type and its default."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gdsd_jax import objectives
from gdsd_jax.curriculum import LengthRamp, ThresholdRamp
from gdsd_jax.mistakes import Gathered, check_least, check_share
from gdsd_jax.models import PROJECTIONS
from gdsd_jax.optimizer import OptimizerConfig
from gdsd_jax.reference import ReferenceSync
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.sandbox import SandboxConfig
from gdsd_jax.settings import checks
from gdsd_jax.sharding import MeshConfig
from gdsd_jax.tasks import RewardConfig, TaskSettings


@dataclasses.dataclass(frozen=True)
class SftPhase:
    """The supervised phase before the rounds.

    Attributes:
      objective: "sft" where a denoiser learns, "ar" where an autoregressive teacher does.
      steps: optimizer steps of the supervised phase; 0 = there is none.
      batch: answers of a step.
      noise: share of the answers that are made wrong, 0..1; the task says how.
      weighting: weight of a token's log-probability under "sft", "uniform" or "elbo"; "ar" weighs
        all alike, whatever stands here.
      count: positions that count, the "answer" through its end token or the "full" width.
      log_every: steps from one line of metrics.jsonl to the next.
      checkpoint_every: steps from one checkpoint to the next.
      share: share of the training problems that this phase takes; the rounds take the others, and
        all of them where it is 1.
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
        wrong = Gathered()
        with wrong.check():
            check_least(self, batch=1, log_every=1, checkpoint_every=1, steps=0, heldout_problems=0)
        with wrong.check():
            checks.check_most(self, checks.MOST, "batch")
        with wrong.check():
            check_share(self, "share", "(0, 1]")
        with wrong.check():
            check_share(self, "noise")
        with wrong.check():
            self.check_objective()
        wrong.end()

    def check_objective(self) -> None:
        """ValueError where the phase cannot have this objective, or these choices of it."""
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
      name: name of the run; its workdir is runs/NAME-OVERRIDES unless another is given.
      greeting: what is printed first.
      model: a preset of gdsd_jax.models, or a .py file that defines PRESET; None = init_from's own.
      init_from: folder of a converted model or workdir of another run; None = random weights.
      start_from: workdir of a run that has ended its supervised phase and begun no round, as with
        rounds=0: this run begins with that phase's model in place of its own; the settings of the
        phase must be the same. None = nothing is taken over.
      require_init: refuse to start from random weights.
      seed: where all randomness begins.
      task: a task of gdsd_jax.tasks, or a .py file that defines `make`.
      options: the task's own settings.
      data_file: JSONL, CSV or Parquet of the user's problems; None = the task's own.
      heldout_file: such a file of the problems to evaluate on; None = the task's own, or a share.
      heldout_share: share of data_file's problems that are held out where there is no
        heldout_file, of tasks that have no split of their own; 0 = none, evaluations then use the
        training problems.
      heldout_seed: decides which problems those are, and in which order those of data_file come.
      heldout_half: half of the held-out problems that evaluations ask, every second one or, of a
        task that says which are alike, every second cluster: "development", to choose by, or
        "test", to report; None = all.
      columns: our name of a column -> its name in the user's files.
      data_dir: folder where generated problems are built.
      prompt: what is asked: "bare" (the question alone), "full" (with instructions how to answer)
        or "released" (what the task's authors ask for); None = the task's own choice: generated
        problems bare, those of a file in full, but bare for a model that starts from nothing.
      reward: which rule grades answers, and what its parts count for.
      enable_thinking: what chat templates are told that know the word, such as Qwen3's.
      prompt_length: tokens of a prompt; shorter ones are padded on the left to this.
      prompt_multiple: a round's prompts have as many columns as its longest one needs, in one of at
        most four widths: multiples of this, and prompt_length. What comes out is the same but for
        rounding. 0 = all rounds have prompt_length columns.
      too_long: what becomes of longer prompts: "drop", or "cut" at the front.
      sampler: how completions are written (gdsd_jax/sampling/config.py).
      temperature: of the proposals in training rollouts.
      threshold: commit every proposal above this probability; None = the schedule alone.
      threshold_ramp: how the threshold changes from round to round.
      length_ramp: how the longest completion changes from round to round.
      max_lengths: domain of a record -> most tokens of its completions.
      answers: whose completions are trained on: the "student", in distillation also the "teacher".
      objective: an objective of gdsd_jax.objectives, or a .py file that defines OBJECTIVE.
      objective_config: the objective's own settings; their keys begin with the objective's name.
      rounds: how many rounds there are, each a rollout and its updates.
      prompts_per_round: how many prompts a round answers.
      group_size: completions of each prompt.
      inner_iterations: optimizer steps of a round.
      minibatches: parts of a round's completions; inner iterations take one after the other.
      slices: gradient accumulation: parts of a step's completions, one after the other; the
        gradient is the same however many there are, unless they are apart.
      slices_apart: draw views and take means over tokens for each slice alone, as released code
        does; then their number matters.
      mask_draws: views of a completion in a step; complementary pairs, or single ones.
      score_masks: "fresh" views for each inner iteration, or "shared": those of a completion are
        drawn once a round, and old and reference policy score them once.
      baseline: what a reward is compared with, "leave_one_out" or the "mean" of all its prompt's.
      scale_rewards: divide advantages by their group's standard deviation.
      shuffle_rewards: control experiment: rewards permuted among the completions of each prompt.
      optimizer: of the rounds (gdsd_jax/optimizer.py).
      reference_sync: whether the reference policy moves (gdsd_jax/reference.py).
      sft: the supervised phase.
      sft_optimizer: of the supervised phase.
      lora_rank: rank of the adapters; 0 = none, all weights are trained.
      lora_alpha: adapters are scaled by alpha / rank.
      lora_targets: projections that get adapters.
      dtype: type of activations, "float32" or "bfloat16".
      param_dtype: type of weights; None = float32 where they are trained, else as activations.
      teacher_dtype: type of a frozen teacher's weights; None = as activations.
      remat: what a backward pass keeps: "none" recomputes nothing, "dots" keeps matrix products,
        "full" keeps the inputs of layers.
      attention_kernel: what computes attention: "splash" (TPU), "cudnn" (GPU, bfloat16), "rows"
        (CPU), "xla", or "auto".
      mesh: how devices are laid out.
      rollout_weights: where weights lie during a rollout: "whole" on each tensor group, "split"
        over fsdp too, or "auto": whole where half the memory holds them, of int8 three fifths.
      rollout_parts: parts of a round's completions, sampled one after the other to save memory; the
        tokens are the same however many there are.
      rollout_quant: "int8": rollouts and evaluations multiply by the layers' projections in int8,
        weights with a scale a column, inputs with a scale a token; embedding, head and adapters
        stay as they are. Tokens then differ a little, as with a cache. "none": nothing is in int8.
      drift_share: with an approximate cache, a threshold or int8, the share of rollout rows whose
        log-probabilities are recomputed, rounded up to rows that the devices divide.
      drift_tokens: of each of these answers the tokens for which that is done, evenly spread; it
        costs a pass of the rows for each. 0 = all tokens.
      drift_bound: mean drift, nats a token, above which the next round samples exactly.
      probe_rows: completions of a round whose ELBO and likelihood are told before and after its
        updates, whole groups where one fits; 0 = none, as under sampler.reference_quirks
        (gdsd_jax/probe.py says what it costs).
      probe_tokens: of each of these completions the tokens from which its likelihood is estimated,
        evenly spread; it costs a pass of the rows for each. 0 = all tokens, exactly.
      not_finite: what becomes of an optimizer step whose loss or gradient is not finite, and of
        answers whose grade is none: "stop" the run, naming them, or "skip" them: the step changes
        nothing, the answers count as not judged.
      eval_every: rounds from one evaluation to the next.
      eval_problems: held-out problems of an evaluation, at most.
      checkpoint_every: rounds from one checkpoint to the next.
      keep_checkpoints: how many of the newest checkpoints stay.
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
    heldout_half: str | None = None
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    data_dir: str = "runs/data"
    prompt: str | None = None
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    enable_thinking: bool = False
    prompt_length: int = 256
    prompt_multiple: int = 0
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
    rollout_parts: int = 1
    rollout_quant: str = "none"
    drift_share: float = 0.125
    drift_tokens: int = 16
    drift_bound: float = 0.1
    probe_rows: int = 8
    probe_tokens: int = 0
    not_finite: str = "stop"
    eval_every: int = 25
    eval_problems: int = 512
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    keep_best: str | None = None
    sinks: tuple[str, ...] = ("tensorboard",)
    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)

    def __post_init__(self):
        checks.check_all(self)

    @property
    def rows(self) -> int:
        """Completions of a round."""
        return self.prompts_per_round * self.group_size

    @property
    def approximate(self) -> bool:
        """Whether rollouts compute something else than the model's own full forwards."""
        return self.sampler.approximate or self.rollout_quant != "none"

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


def unchecked(values: Mapping[str, Any]) -> Settings:
    """Settings of these fields, and of the defaults for the others, which may be wrong."""
    found = object.__new__(Settings)
    for name, value in (defaults_of(Settings) | dict(values)).items():
        object.__setattr__(found, name, value)
    return found


def defaults_of(kind: type) -> dict[str, Any]:
    """{field: its default}, of a dataclass whose fields all have one."""
    return {field.name: default_of(field) for field in dataclasses.fields(kind)}


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass's field; dataclasses.MISSING: it must be given."""
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()
