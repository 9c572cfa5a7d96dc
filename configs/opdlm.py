"""OPDLM: an autoregressive model becomes a diffusion language model by on-policy distillation
(specs/opdlm.md).

  python launch/main.py --config=configs/opdlm.py            the embedded default: any machine,
  minutes on 2 cores python launch/main.py
  --config=configs/opdlm.py:qwen3_4b,init_from=DIR,data_file=FILE.jsonl
                                                             Qwen3-4B, the published recipe; DIR is
                                                             what `launch/convert.py --a2d` made of
                                                             the released folder
  ...:qwen3_4b,math=1,...                                    OPDLM-MATH's recipe
  ...:MODEL,control=sft                                      the same budget on the teacher's
  answers: sft, or kd (soft
                                                             targets); or random masks on the
                                                             student's own: random
"""

from ml_collections import ConfigDict

from configs import common

# the divergence's top_k
SIZES = {"qwen3_0p6b": None, "qwen3_1p7b": None, "qwen3_4b": 16, "qwen3_8b": 16}
MODELS = ("tiny", *SIZES)
# its ends teach where to stop
OFF_POLICY = {"answers": "teacher", "opd.states": "random", "opd.exclude_stop": False}
CONTROLS = {
    "none": {},
    "sft": OFF_POLICY | {"opd.divergence": "nll"},
    "kd": OFF_POLICY,
    "random": {"opd.states": "random"},
}


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    config = embedded() if model == "tiny" else full(model)
    math, control = overrides.pop("math", "0"), overrides.pop("control", "none")
    if control not in CONTROLS:
        raise ValueError(f"unknown control {control!r}, known: {', '.join(CONTROLS)}")
    if math not in ("0", "1") or (math == "1" and model == "tiny"):
        raise ValueError(
            f"math={math}: 1 takes the recipe on mathematics, of the released models alone"
        )
    if math == "1":
        on_math(config)
    if control != "none":
        config.name += f"-{control}"
        config.update_from_flattened_dict(CONTROLS[control])
    return common.override(config, overrides)


def embedded() -> ConfigDict:
    """A Qwen3-shaped model of 0.4 M parameters learns generated Python problems token by token, and
    is then converted."""
    config = common.machinery()
    config.name = "opdlm-tiny"  # the workdir defaults to runs/NAME
    config.greeting = "embedded default: a tiny autoregressive model, converted; configs/opdlm.py names the full recipes"
    config.model = "a2d_qwen3_tiny"  # the student's preset; its teacher has the same shape
    # a converted model's folder; None = random weights, of which the teacher is made first
    config.init_from = None
    config.require_init = False
    config.seed = 0

    config.task = "coding"
    config.data_file = None
    config.heldout_file = None
    config.data_dir = "runs/data"
    config.prompt_length = 24
    config.too_long = "drop"

    config.sampler = common.sampler(kind="block", gen_length=24, block_length=4, steps=24)
    config.temperature = 1.0
    config.threshold = 0.9

    config.objective = "opd"
    config.opd = ConfigDict(
        dict(
            divergence="forward",
            weight=0.5,
            top_k=None,
            states="stitched",
            exclude_stop=True,
        )
    )
    config.rounds = 120
    # a student that has learnt nothing yet writes nonsense, of which no teacher makes sense: it
    # begins with one block
    config.length_ramp.update(start=4, rounds=60, shape="linear")
    config.prompts_per_round = 128
    config.group_size = 1
    config.inner_iterations = config.minibatches = 4  # one pass over a round's answers
    config.slices = config.mask_draws = 1
    # nothing is rewarded
    config.baseline, config.scale_rewards, config.shuffle_rewards = "leave_one_out", False, False
    config.optimizer = ConfigDict(
        dict(
            learning_rate=3e-3,
            warmup_steps=20,
            decay_steps=480,
            final_share=0.1,
            weight_decay=0.0,
            b1=0.9,
            b2=0.99,
            clip_norm=1.0,
            moments_dtype="float32",
        )
    )

    # the teacher's making, with habits that are wrong: GDSD has something left to mend
    config.sft = ConfigDict(
        dict(
            objective="ar",
            steps=400,
            batch=64,
            noise=0.1,
            weighting="uniform",
            count="answer",
            log_every=80,
            checkpoint_every=200,
            share=1.0,
        )
    )
    config.sft_optimizer = ConfigDict(
        dict(
            learning_rate=3e-3,
            warmup_steps=40,
            decay_steps=400,
            weight_decay=0.0,
            b1=0.9,
            b2=0.99,
            clip_norm=1.0,
            moments_dtype="float32",
        )
    )

    config.eval_every = 40
    config.eval_problems = 512
    return config


def full(model: str) -> ConfigDict:
    """Published values (section 6): 61,816 prompts once, 128 a round in 16 updates of 8; 8 H200 in
    the publication."""
    config = embedded()
    config.name = f"opdlm-{model}"
    config.greeting = f"{model} to a denoiser by on-policy distillation"
    config.model = f"a2d_{model}"
    config.require_init = True
    config.seed = 10_086
    config.task = "prompts"  # a JSONL of question and domain
    config.prompt_length = 2000
    config.sampler.update(gen_length=4000, steps=4000)
    config.length_ramp.update(start=100, rounds=100, shape="cos")
    config.max_lengths.update(math=4096, code=2048, chat=2048, science=1024)
    config.opd.top_k = SIZES[model]
    config.rounds, config.prompts_per_round = 483, 128
    config.inner_iterations = config.minibatches = 16
    config.optimizer.update(learning_rate=1e-5, warmup_steps=80, decay_steps=483 * 16 + 1, b2=0.999)
    config.sft.steps = 0
    config.dtype, config.param_dtype, config.remat = "bfloat16", "float32", "full"
    # the 8 rows of an update are the most that fsdp can split
    config.mesh.update(data=1, fsdp=8, tensor=-1)
    config.eval_every, config.eval_problems, config.checkpoint_every = 20, 256, 10
    return config


def on_math(config: ConfigDict) -> None:
    """OPDLM-MATH: about 8,000 problems of MATH's levels 3 to 5, ten times; the whole vocabulary at
    every size."""
    config.name += "-math"
    config.sampler.update(gen_length=2000, steps=2000)
    config.opd.top_k = None
    config.rounds = 630
    config.optimizer.decay_steps = 630 * 16 + 1
