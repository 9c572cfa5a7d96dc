r"""GDSD on GSM8K: word problems whose answer is a number.

python launch/main.py --config=configs/gsm8k.py:llada,init_from=DIR,data_file=train.jsonl
    LLaDA-8B, the mended recipe; about 16 hours of 8 v5p chips at best (launch/plan.py)
...:llada,gdsd.recipe=r1,init_from=DIR,data_file=train.jsonl
    the first release's, its prompts and rewards; authors' figure: 86.4% solved
...:llada,gdsd.recipe=r2,init_from=DIR,data_file=train.jsonl
    the later one's, with token-logit centralisation (TLC); authors' figure: 85.6% solved
python launch/main.py --config=configs/gsm8k.py:dream,init_from=DIR,data_file=train.jsonl
    Dream-7B, with the values of its other tasks; authors' figure: none published
python launch/main.py --config=configs/gsm8k.py:a2d,init_from=DIR,data_file=train.jsonl
    on from a denoiser that configs/opdlm.py made; authors' figure: none published
python launch/main.py --config=configs/gsm8k.py:tiny,data_file=train.jsonl
    a model of 0.4 M parameters from nothing, to try a file: any machine, minutes on 2 cores
...:llada,objective=espo
    another objective with its authors' recipe for this task (configs/objectives.py)
...:MODEL,prompt=released,reward.variant=released
    the released prompt and rule in place of ours, by which "1,080" and "18 dollars" are right

train.jsonl and test.jsonl are the public files with question and answer. The authors evaluate the
1,319 of test.jsonl at temperature 0 with half as many steps as tokens, and with another prompt than
they train on:

python launch/eval.py --checkpoint=WORKDIR --out=FILE.json --lengths=128,256,512 \
--config=configs/gsm8k.py:llada,gdsd.recipe=r1,data_file=train.jsonl,heldout_file=test.jsonl,\
options.asked=evaluation,eval_problems=1319

Their figures are the best of several lengths, read off the bars of their repository's figure.
"""

from ml_collections import ConfigDict

from configs import common, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.name, recipe.task = f"gsm8k-{model}", "gsm8k"
    if model == "tiny":
        objectives.select(recipe, overrides, (objectives.EMBEDDED,))
        return common.config(recipe, overrides)
    recipe.rounds = 163  # 1,300 updates of 8 a round, as far as the reward figure goes
    recipe.optimizer.learning_rate = 3e-6
    # LLaDA's scripts, also for the others
    own = published.gdsd(published.choose(recipe, overrides), psi=10.0, beta=1e-3, top_k=64)
    recipes = objectives.published("gsm8k", own, model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def llada() -> ConfigDict:
    """LLaDA-8B by the script of the release."""
    recipe = published.llada()
    recipe.greeting = "LLaDA-8B on GSM8K"
    return recipe


def dream() -> ConfigDict:
    """Dream-7B, as on Countdown."""
    recipe = published.dream()
    recipe.greeting = "Dream-7B on GSM8K, with the values of its other tasks"
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.greeting = "GSM8K, on from a converted denoiser"
    return recipe


def tiny() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters learns a file's solutions from nothing. It is too
    small for the problems; questions and solutions that are too long for it are left out."""
    recipe = ConfigDict()
    recipe.greeting = "a tiny denoiser on word problems, to try a file"
    recipe.model = "llada_tiny"
    recipe.prompt_length = 128
    recipe.sampler = ConfigDict({"gen_length": 96, "block_length": 8, "steps": 48})
    recipe.rounds, recipe.eval_every, recipe.eval_problems = 10, 5, 64
    recipe.prompts_per_round, recipe.group_size, recipe.inner_iterations = 8, 8, 2
    recipe.optimizer = ConfigDict({"learning_rate": 2e-4, "warmup_steps": 10, "clip_norm": 1.0})
    recipe.sft = ConfigDict({"steps": 200, "batch": 32, "share": 1.0})
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 200, "clip_norm": 1.0}
    )
    return recipe


MODELS = {"llada": llada, "dream": dream, "a2d": a2d, "tiny": tiny}
