r"""GDSD on coding: completions are Python programs, rewards are their tests.

python launch/main.py --config=configs/coding.py
    the embedded default: any machine, about 9 minutes on 2 cores
python launch/main.py --config=configs/coding.py:tiny,gdsd.recipe=regression
    the same with targets that its moves can reach; of every task and model
python launch/main.py --config=configs/coding.py:llada,init_from=DIR,data_file=FILE.jsonl
    LLaDA-8B, the mended recipe on rows such as AceCode's
python launch/main.py --config=configs/coding.py:dream,init_from=DIR,data_file=FILE.jsonl
    Dream-7B, Dream-Coder-7B or DiffuCoder-7B, the same with the sampler of the Dream recipes for
    other tasks; of GDSD's authors neither a recipe nor a figure is published for Dream on code
    launch/plan.py --topology=v5p:2x2x4: at best 343 s a round, 1,527 chip-hours for 1,000 rounds
...:llada,gdsd.recipe=r2,options.hard=true,init_from=DIR,data_file=FILE.jsonl,\
heldout_file=HumanEval.jsonl.gz
    the later release's, with its prompts, rewards, adapters and noise, on that part of
    AceCode-87K's own rows that it trains on
...:llada,lora_rank=0,init_from=DIR,...
    the same, full fine-tuning
...:a2d,init_from=DIR,data_file=FILE.jsonl
    on from a denoiser that configs/opdlm.py made, block sampler, LLaDA's values; of GDSD's authors
    nothing is published for it
...:tiny_a2d,init_from=runs/opdlm-tiny
    the embedded problems, on from what the embedded default of configs/opdlm.py made
...:MODEL,objective=espo
    another objective with its recipe (configs/objectives.py): espo, spg, rft, diffu_grpo,
    coupled_grpo (of :dream: DiffuCoder's own), wd1, dmpo, gdpo, trajectory, just_grpo

Files hold question and test_cases, or are HumanEval's, MBPP's or AceCode's as published, or hold
inputs and outputs (gdsd_jax/tasks/README.md). HumanEval with the length and the steps of the
authors' evaluation, at temperature 0, by our prompt and rule:

python launch/eval.py --checkpoint=WORKDIR --out=FILE.json --config=configs/coding.py:llada,\
data_file=HumanEval.jsonl.gz,heldout_file=HumanEval.jsonl.gz,eval_problems=164,sampler.steps=128
"""

from ml_collections import ConfigDict

from configs import common, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipes = (objectives.EMBEDDED,)
    if not model.startswith("tiny"):
        name = published.choose(recipe, overrides)
        if model == "llada" and name != "mended":
            recipe.update(ConfigDict(RELEASED))
        own = published.gdsd(name, psi=10.0, beta=5e-2, top_k=64)
        recipes = objectives.published("coding", own, model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def embedded() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.5 M parameters that learns generated Python problems from
    nothing."""
    recipe = ConfigDict()
    recipe.name = "coding-tiny"
    recipe.greeting = (
        "embedded default: a tiny denoiser on generated problems; configs/coding.py names the "
        "full recipes"
    )
    recipe.model = "llada_tiny"
    recipe.task = "coding"
    recipe.prompt_length = 24
    # a token a pass: of two that are chosen together one often does not fit the other
    recipe.sampler = ConfigDict({"gen_length": 24, "block_length": 8, "steps": 24})
    recipe.rounds = 60
    recipe.prompts_per_round, recipe.group_size = 32, 8
    recipe.inner_iterations, recipe.minibatches = 4, 2
    recipe.optimizer = ConfigDict(
        {
            "learning_rate": 4e-4,
            "warmup_steps": 10,
            "decay_steps": 240,
            "final_share": 0.05,
            "clip_norm": 1.0,
        }
    )
    recipe.sft = ConfigDict({"steps": 600, "noise": 0.4})
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 600, "clip_norm": 1.0}
    )
    recipe.eval_every = 20
    return recipe


def converted() -> ConfigDict:
    """The embedded task for a block-causal denoiser, which generates blocks of 4 one after the
    other."""
    recipe = embedded()
    recipe.name = "coding-tiny-a2d"
    recipe.greeting = "GDSD on from a tiny converted denoiser, on generated problems"
    recipe.model = "a2d_qwen3_tiny"
    recipe.require_init = True
    recipe.sampler.update(ConfigDict({"kind": "block", "block_length": 4, "steps": 24}))
    recipe.rounds, recipe.eval_every = 110, 30
    recipe.inner_iterations, recipe.minibatches = 2, 1
    recipe.optimizer = ConfigDict({"learning_rate": 2e-4, "warmup_steps": 10, "clip_norm": 1.0})
    recipe.sft.steps = 0
    return recipe


def full() -> ConfigDict:
    """LLaDA-8B on AceCode-style problems: GDSD's 480 completions of 30 prompts a round, LoRA r128
    on all projections."""
    recipe = embedded()
    recipe.name = "coding-llada"
    recipe.greeting = "LLaDA-8B on coding problems"
    recipe.model = "llada_8b"
    recipe.require_init = True
    recipe.prompt_length, recipe.too_long = 400, "cut"
    recipe.prompt_multiple = 64
    recipe.sampler.update(gen_length=256, block_length=32, steps=256)
    recipe.rounds = 1000
    recipe.prompts_per_round, recipe.group_size = 30, 16
    recipe.inner_iterations, recipe.minibatches = 8, 1
    recipe.slices, recipe.mask_draws = 15, 4
    recipe.optimizer = ConfigDict(
        {"learning_rate": 3e-6, "warmup_steps": 8, "weight_decay": 0.01, "clip_norm": 0.2}
    )
    recipe.sft.steps = 0
    recipe.lora_rank, recipe.lora_alpha = 128, 64.0
    recipe.dtype, recipe.remat = "bfloat16", "full"
    # fsdp as far as a slice's completions go round
    recipe.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": -1})
    recipe.eval_every, recipe.eval_problems, recipe.checkpoint_every = 25, 480, 5
    recipe.probe_tokens = 16  # of 256: each is a forward that collects all weights
    recipe.sandbox = ConfigDict({"cpu_s": 2.0, "wall_s": 40.0})
    return recipe


def dream() -> ConfigDict:
    """Dream-7B with LLaDA's values, and the sampler of its recipes for other tasks."""
    recipe = full()
    recipe.name, recipe.greeting = "coding-dream", "Dream-7B on coding problems"
    recipe.model = "dream_7b"
    recipe.sampler = published.dream().sampler
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = full()
    recipe.name, recipe.greeting = "coding-a2d", "Coding problems, on from a converted denoiser"
    recipe.model = None  # whichever init_from holds
    recipe.sampler = published.a2d().sampler
    return recipe


# 3 completions a device and slice
RELEASED = {
    "slices": 20,
    "lora_targets": published.LLADA_TARGETS,
    "sampler": {"reference_quirks": True},
}

MODELS = {
    "tiny": embedded,
    "llada": full,
    "dream": dream,
    "a2d": a2d,
    "tiny_a2d": converted,
}
