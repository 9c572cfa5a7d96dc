r"""OPDLM: an autoregressive model becomes a diffusion language model by on-policy distillation
(arXiv 2606.06712).

  python launch/main.py --config=configs/opdlm.py
      the embedded default: any machine, minutes on 2 cores
  python launch/main.py --config=configs/opdlm.py:smollm2_135m,init_from=DIR
      SmolLM2-135M-Instruct on everyday questions, for two cores (launch/demo.sh real): 17,800
      answer tokens in half an hour; or qwen2p5_coder_0p5b; DIR is what `launch/convert.py --a2d`
      made of the released model
  ...:smollm2_135m,init_from=DIR,rounds=400,optimizer.decay_steps=1600,eval_every=40
      165,000 tokens, about three hours; 353 of its rounds have been run
  ...:smollm2_135m,init_from=DIR,dtype=bfloat16,param_dtype=float32,prompts_per_round=256,\
rounds=750,inner_iterations=16,minibatches=16,optimizer.decay_steps=12000,eval_every=75
      5 million tokens, for one GPU; it has not been run
  python launch/main.py --config=configs/opdlm.py:qwen3_4b,init_from=DIR,data_file=FILE.json
      Qwen3-4B, the published recipe of about 70 million tokens; of qwen3_8b launch/plan.py says at
      best 27 s a round on v5p:2x2x4, 58 chip-hours for the 483 rounds
  ...:qwen3_4b,math=1,...
      OPDLM-MATH's recipe
  ...:MODEL,control=sft
      the same budget on the teacher's answers: sft, or kd (soft targets); or random masks on the
      student's own: random
"""

from ml_collections import ConfigDict

from configs import common

# models that a laptop can convert -> the shape's preset
SMALL = {"smollm2_135m": "a2d_smollm2_135m", "qwen2p5_coder_0p5b": "a2d_qwen2p5_0p5b"}
TOP_K = {"qwen3_0p6b": None, "qwen3_1p7b": None, "qwen3_4b": 16, "qwen3_8b": 16}  # by size
MODELS = ("tiny", *SMALL, *TOP_K)
# the teacher's own ends teach where to stop
OFF_POLICY = {"answers": "teacher", "opd": {"states": "random", "exclude_stop": False}}
CONTROLS = {
    "none": {},
    "sft": {"answers": "teacher", "opd": OFF_POLICY["opd"] | {"divergence": "nll"}},
    "kd": OFF_POLICY,
    "random": {"opd": {"states": "random"}},
}


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    if model == "tiny":
        recipe = embedded()
    else:
        recipe = small(model) if model in SMALL else full(model)
    math, control = overrides.pop("math", "0"), overrides.pop("control", "none")
    if control not in CONTROLS:
        raise ValueError(f"unknown control {control!r}, known: {', '.join(CONTROLS)}")
    if math not in ("0", "1") or (math == "1" and model not in TOP_K):
        raise ValueError(
            f"math={math}: 1 takes the recipe on mathematics, of the released models alone"
        )
    if math == "1":
        on_math(recipe)
    if control != "none":
        recipe.name += f"-{control}"
        recipe.update(ConfigDict(CONTROLS[control]))
    return common.config(recipe, overrides)


def embedded() -> ConfigDict:
    """A Qwen3-shaped model of 0.4 M parameters learns generated Python problems token by token, and
    is then converted."""
    recipe = ConfigDict()
    recipe.name = "opdlm-tiny"
    recipe.greeting = (
        "embedded default: a tiny autoregressive model, converted; configs/opdlm.py names the "
        "full recipes"
    )
    recipe.model = "a2d_qwen3_tiny"  # the student's preset; its teacher has the same shape
    recipe.task = "coding"
    recipe.prompt_length = 24
    recipe.sampler = ConfigDict({"kind": "block", "gen_length": 24, "block_length": 4, "steps": 24})
    recipe.threshold = 0.9
    recipe.objective = "opd"
    recipe.opd = ConfigDict()
    recipe.rounds = 120
    # a student that has learnt nothing yet writes nonsense, of which no teacher makes sense: it
    # begins with one block
    recipe.length_ramp = ConfigDict({"start": 4, "rounds": 60, "shape": "linear"})
    recipe.prompts_per_round, recipe.group_size = 128, 1
    recipe.inner_iterations = recipe.minibatches = 4  # one pass over a round's answers
    recipe.optimizer = ConfigDict(
        {
            "learning_rate": 3e-3,
            "warmup_steps": 20,
            "decay_steps": 480,
            "final_share": 0.1,
            "clip_norm": 1.0,
        }
    )
    # the teacher's making, with habits that are wrong: GDSD has something left to mend
    recipe.sft = ConfigDict(
        {
            "objective": "ar",
            "steps": 400,
            "noise": 0.1,
            "count": "answer",
            "log_every": 80,
            "share": 1.0,
        }
    )
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 400, "clip_norm": 1.0}
    )
    recipe.eval_every = 40
    return recipe


def small(model: str) -> ConfigDict:
    """Short answers to everyday questions, in float32 on two cores."""
    recipe = embedded()
    recipe.name = f"opdlm-{model}"
    recipe.greeting = f"{model} to a denoiser by on-policy distillation, on everyday questions"
    recipe.model = SMALL[model]
    recipe.require_init = True
    recipe.task = "everyday"
    recipe.prompt_length = 48
    recipe.sampler.update(gen_length=32, steps=32)
    recipe.length_ramp.update(start=8, rounds=20)
    recipe.rounds, recipe.prompts_per_round = 48, 16
    recipe.inner_iterations = recipe.minibatches = 4
    recipe.optimizer.update(
        learning_rate=1.7e-4, warmup_steps=10, decay_steps=192, moments_dtype="bfloat16"
    )
    recipe.teacher_dtype = "bfloat16"
    recipe.sft.steps = 0
    recipe.eval_every, recipe.eval_problems = 24, 32
    return recipe


def full(model: str) -> ConfigDict:
    """Published values: 61,816 prompts once, 128 a round in 16 updates of 8; 8 H200 in the
    publication."""
    recipe = embedded()
    recipe.name = f"opdlm-{model}"
    recipe.greeting = f"{model} to a denoiser by on-policy distillation"
    recipe.model = f"a2d_{model}"
    recipe.require_init = True
    recipe.seed = 10_086
    recipe.task = "prompts"  # a JSONL of question and domain
    recipe.prompt_length = 2000
    recipe.sampler.update(gen_length=4000, steps=4000)
    recipe.length_ramp.update(start=100, rounds=100, shape="cos")
    recipe.max_lengths = ConfigDict({"math": 4096, "code": 2048, "chat": 2048, "science": 1024})
    recipe.opd.top_k = TOP_K[model]
    recipe.rounds, recipe.prompts_per_round = 483, 128
    recipe.inner_iterations = recipe.minibatches = 16
    recipe.optimizer.update(learning_rate=1e-5, warmup_steps=80, decay_steps=483 * 16 + 1, b2=0.999)
    recipe.sft.steps = 0
    recipe.dtype, recipe.param_dtype, recipe.remat = "bfloat16", "float32", "full"
    # the 8 rows of an update are the most that fsdp can split
    recipe.mesh = ConfigDict({"data": 1, "fsdp": 8, "tensor": -1})
    recipe.eval_every, recipe.eval_problems, recipe.checkpoint_every = 20, 256, 10
    return recipe


def on_math(recipe: ConfigDict) -> None:
    """OPDLM-MATH: about 8,000 problems of MATH's levels 3 to 5, ten times; the whole vocabulary at
    every size."""
    recipe.name += "-math"
    recipe.sampler.update(gen_length=2000, steps=2000)
    recipe.opd.top_k = None
    recipe.rounds = 630
    recipe.optimizer.decay_steps = 630 * 16 + 1
