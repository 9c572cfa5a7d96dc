"""GDSD on Countdown: an expression of the given numbers that is worth the target.

python launch/main.py --config=configs/countdown.py
    the embedded default: any machine, minutes on 2 cores, on generated problems of two numbers
python launch/main.py --config=configs/countdown.py:llada,init_from=DIR,data_file=FILE.jsonl
    LLaDA-8B, the mended recipe; about 29 hours of 8 v5p chips at best (launch/plan.py)
...:llada,gdsd.recipe=r2,init_from=DIR,data_file=FILE.jsonl
    the later release's, without token-logit centralisation (TLC), its prompts and rewards
    authors' figure: 84.0% solved, 85.6% with TLC (gdsd.centring=top_k)
python launch/main.py --config=configs/countdown.py:dream,init_from=DIR,data_file=FILE.jsonl
    Dream-7B; authors' figure under gdsd.recipe=r2, with TLC: 84.8% solved, 70.3% without TLC
python launch/main.py --config=configs/countdown.py:a2d,init_from=DIR,data_file=FILE.jsonl
    on from a denoiser that configs/opdlm.py made; authors' figure: none published
...:MODEL,reward.variant=released
    the released rule in place of ours, which takes exact fractions and + - * / alone
...:MODEL,prompt=released
    the content of the released prompt in place of ours
...:llada,objective=espo
    another objective with its authors' recipe for this task (configs/objectives.py)

The authors train on the rows with three numbers of Jiayi-Pan/Countdown-Tasks-3to4 and evaluate the
256 problems of countdown_cd3_test.jsonl (heldout_file=...), at temperature 0 with
sampler.steps=gen_length/2. Their figures are the best of several lengths, read off the bars of
their repository's figure. Without data_file the problems are generated.
"""

from ml_collections import ConfigDict

from configs import common, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.task = "countdown"
    recipes = EMBEDDED
    if model != "tiny":
        name = published.choose(recipe, overrides)
        recipes = objectives.published("countdown", published.gdsd(name, **GDSD[model]), model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def embedded() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters learns generated problems of two numbers, whose
    sum or difference is the target, from nothing. Three numbers are beyond it."""
    recipe = ConfigDict()
    recipe.name = "countdown-tiny"
    recipe.greeting = (
        "embedded default: a tiny denoiser on generated Countdown; configs/countdown.py names the "
        "full recipes"
    )
    recipe.model = "llada_tiny"
    recipe.options = ConfigDict(
        {"counts": (2,), "largest": 50, "largest_target": 99, "signs": "+-"}
    )
    recipe.prompt_length = 20
    recipe.sampler = ConfigDict({"gen_length": 12, "block_length": 12, "steps": 12})
    recipe.rounds = 80
    recipe.prompts_per_round, recipe.group_size = 32, 8
    recipe.inner_iterations = 2
    recipe.optimizer = ConfigDict({"learning_rate": 2e-4, "warmup_steps": 10, "clip_norm": 1.0})
    recipe.sft = ConfigDict({"steps": 600, "noise": 0.5, "share": 1.0})
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 600, "clip_norm": 1.0}
    )
    recipe.eval_every = 20
    return recipe


def llada() -> ConfigDict:
    """LLaDA-8B by the script of the later release."""
    recipe = published.llada()
    recipe.name, recipe.greeting = "countdown-llada", "LLaDA-8B on Countdown"
    recipe.options = ConfigDict({"counts": (3,)})
    return recipe


def dream() -> ConfigDict:
    """Dream-7B by the script of the later release."""
    recipe = published.dream()
    recipe.name, recipe.greeting = "countdown-dream", "Dream-7B on Countdown"
    recipe.options = ConfigDict({"counts": (3,)})
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.name, recipe.greeting = "countdown-a2d", "Countdown, on from a converted denoiser"
    recipe.options = ConfigDict({"counts": (3,)})
    return recipe


MODELS = {"tiny": embedded, "llada": llada, "dream": dream, "a2d": a2d}
LLADA = {"psi": 1.0, "beta": 3e-3}
GDSD = {"llada": LLADA, "a2d": LLADA, "dream": {"psi": 10.0, "beta": 3e-3, "top_k": 64}}
# the completion is one block, of SPG two
EMBEDDED = (
    objectives.EMBEDDED,
    {"gdsd": {"gdsd": {"mask_block": 12}}, "spg": {"spg": {"block_length": 6}}},
)
