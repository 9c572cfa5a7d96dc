"""GDSD on coding: completions are Python programs, rewards are their tests.

python launch/main.py --config=configs/coding.py
    the embedded default: any machine, about 9 minutes on 2 cores
python launch/main.py --config=configs/coding.py:llada,init_from=DIR,data_file=FILE.jsonl
    LLaDA-8B, the released recipe
...:llada,lora_rank=0,init_from=DIR,...
    the same, full fine-tuning
...:a2d,init_from=runs/opdlm-tiny
    on from the denoiser that configs/opdlm.py made, block sampler
...:MODEL,objective=espo
    another objective with its recipe (configs/objectives.py): espo, spg, diffu_grpo,
    coupled_grpo, wd1, dmpo
"""

from ml_collections import ConfigDict

from configs import common, objectives

MODELS = ("tiny", "llada", "a2d")


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    config = {"tiny": embedded, "llada": full, "a2d": converted}[model]()
    recipes = objectives.PUBLISHED if model == "llada" else objectives.EMBEDDED
    # before the other overrides
    objectives.select(config, overrides.get("objective", "gdsd"), recipes)
    return common.override(config, overrides)


def embedded() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters that learns generated Python problems from
    nothing."""
    config = common.machinery()
    config.name = "coding-tiny"  # the workdir defaults to runs/NAME
    config.greeting = (
        "embedded default: a tiny denoiser on generated problems; "
        "configs/coding.py names the full recipes"
    )
    config.model = "llada_tiny"  # a preset of gdsd_jax.models
    config.init_from = None  # a converted model's folder; None = random weights
    config.require_init = False
    config.seed = 0
    set_data_and_sampler(config)
    set_rounds(config)
    set_supervised_phase(config)
    config.eval_every = 30  # rounds
    config.eval_problems = 512  # held-out problems, at most
    return config


def set_data_and_sampler(config: ConfigDict) -> None:
    config.task = "coding"
    config.data_file = None  # a JSONL of question and test_cases; None = the generated problems
    config.heldout_file = None  # the same for evaluation
    config.data_dir = "runs/data"  # where the generated problems and their tokenizer are built
    config.prompt_length = 24  # tokens, prompts are padded on the left to this
    config.too_long = "drop"  # prompts over it: "drop" or "cut" (from the left)

    config.sampler = common.sampler(gen_length=24, block_length=8, steps=12)
    config.temperature = 1.0  # of training rollouts


def set_rounds(config: ConfigDict) -> None:
    config.rounds = 110
    config.prompts_per_round = 32
    config.group_size = 8  # completions a prompt
    config.inner_iterations = 2  # optimizer steps a round, each over all completions
    config.slices = 1  # gradient accumulation: parts of the completions, one after the other
    # views of a completion in a step: complementary pairs, or single ones (spg, diffu_grpo, wd1)
    config.mask_draws = 1
    # what a reward is compared with: that, or the "mean" of all its prompt's
    config.baseline = "leave_one_out"
    config.scale_rewards = False  # divide advantages by the group's standard deviation
    # control experiment: rewards permuted over the round's completions
    config.shuffle_rewards = False
    config.optimizer = ConfigDict(
        dict(
            learning_rate=2e-4,
            warmup_steps=10,
            decay_steps=0,
            weight_decay=0.0,
            b1=0.9,
            b2=0.99,
            clip_norm=1.0,
            moments_dtype="float32",
        )
    )


def set_supervised_phase(config: ConfigDict) -> None:
    """Before the rounds."""
    config.sft = ConfigDict(
        dict(
            objective="sft",
            steps=600,
            batch=64,
            noise=0.4,
            weighting="uniform",
            count="full",
            log_every=60,
            checkpoint_every=200,
            share=0.5,  # of the training problems; the rounds take the others
        )
    )
    config.sft_optimizer = ConfigDict(
        dict(
            learning_rate=3e-3,
            warmup_steps=40,
            decay_steps=600,
            weight_decay=0.0,
            b1=0.9,
            b2=0.99,
            clip_norm=1.0,
            moments_dtype="float32",
        )
    )


def converted() -> ConfigDict:
    """The embedded task for a block-causal denoiser, which generates blocks of 4 one after the
    other."""
    config = embedded()
    config.name = "coding-a2d"
    config.greeting = "GDSD on from a converted denoiser, on generated problems"
    config.model = "a2d_qwen3_tiny"
    config.require_init = True
    config.sampler.update(kind="block", block_length=4, steps=24)
    config.sft.steps = 0
    return config


def full() -> ConfigDict:
    """LLaDA-8B on AceCode-style problems: GDSD's 480 completions of 30 prompts a round, LoRA r128
    on all projections."""
    config = embedded()
    config.name = "coding-llada"
    config.greeting = "LLaDA-8B on coding problems"
    config.model = "llada_8b"
    config.require_init = True
    config.prompt_length = 400
    config.too_long = "cut"
    config.sampler.update(gen_length=256, block_length=32, steps=256)
    config.rounds = 1000
    config.prompts_per_round, config.group_size = 30, 16
    config.inner_iterations, config.slices, config.mask_draws = 8, 15, 4
    config.optimizer.update(learning_rate=3e-6, warmup_steps=8, weight_decay=0.0, clip_norm=0.2)
    config.sft.steps = 0
    config.lora_rank, config.lora_alpha = 128, 64.0
    config.dtype, config.remat = "bfloat16", "full"
    config.mesh.update(data=1, fsdp=-1, tensor=-1)  # fsdp as far as a slice's completions go round
    config.eval_every, config.eval_problems, config.checkpoint_every = 25, 480, 5
    config.sandbox.cpu_s = 2.0
    config.sandbox.wall_s = 40.0
    return config
