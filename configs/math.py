r"""GDSD on MATH: problems of competitions whose answer is a formula.

python launch/main.py --config=configs/math.py:llada,init_from=DIR,data_file=train.jsonl
    LLaDA-8B, the mended recipe; about 24 hours of 8 v5p chips at best (launch/plan.py)
...:llada,gdsd.recipe=r1,init_from=DIR,data_file=train.jsonl
    the first release's, its prompts and rewards; authors' figure: 44.6% solved
...:llada,gdsd.recipe=r2,init_from=DIR,data_file=train.jsonl
    the later one's, with token-logit centralisation (TLC); authors' figure: 44.0% solved
python launch/main.py --config=configs/math.py:dream,init_from=DIR,data_file=train.jsonl
    Dream-7B, with the values of its other tasks; authors' figure: none published
python launch/main.py --config=configs/math.py:a2d,init_from=DIR,data_file=train.jsonl
    on from a denoiser that configs/opdlm.py made; authors' figure: none published
python launch/main.py --config=configs/math.py:tiny,data_file=train.jsonl
    a model of 0.4 M parameters from nothing, to try a file: any machine, minutes on 2 cores
...:llada,objective=espo
    another objective with its authors' recipe for this task (configs/objectives.py)
...:MODEL,prompt=released,reward.variant=released
    the released prompt and rule in place of ours, by which equal formulas are right in any spelling

The authors train on the 12,000 problems of ankner/math-500 with problem and solution. They evaluate
the 500 of HuggingFaceH4/MATH-500 at temperature 0 with half as many steps as tokens, and with
another prompt than they train on:

python launch/eval.py --checkpoint=WORKDIR --out=FILE.json --lengths=128,256,512 \
--config=configs/math.py:llada,gdsd.recipe=r1,data_file=train.jsonl,heldout_file=test.jsonl,\
options.asked=evaluation,eval_problems=500

Their figures are the best of several lengths, read off the bars of their repository's figure.
"""

from ml_collections import ConfigDict

from configs import common, gsm8k, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.name, recipe.task = f"math-{model}", "math"
    if model == "tiny":
        objectives.select(recipe, overrides, (objectives.EMBEDDED,))
        return common.config(recipe, overrides)
    recipe.prompts_per_round = 16  # 8 completions a device and slice
    # LLaDA's scripts, also for the others
    own = published.gdsd(published.choose(recipe, overrides), psi=10.0, beta=1e-4, top_k=64)
    recipes = objectives.published("math", own, model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def llada() -> ConfigDict:
    """LLaDA-8B by the script of the release."""
    recipe = published.llada()
    recipe.greeting = "LLaDA-8B on MATH"
    return recipe


def dream() -> ConfigDict:
    """Dream-7B, as on Countdown."""
    recipe = published.dream()
    recipe.greeting = "Dream-7B on MATH, with the values of its other tasks"
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.greeting = "MATH, on from a converted denoiser"
    return recipe


MODELS = {"llada": llada, "dream": dream, "a2d": a2d, "tiny": gsm8k.tiny}
