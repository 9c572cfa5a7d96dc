"""GDSD on a data set of reasoning-gym (pip install reasoning-gym), scored by the library itself.

python launch/main.py --config=configs/reasoning_gym.py:llada,init_from=DIR,\
options.dataset=zebra_puzzles
    LLaDA-8B
python launch/main.py --config=configs/reasoning_gym.py:dream,init_from=DIR,\
options.dataset=zebra_puzzles
    Dream-7B
python launch/main.py --config=configs/reasoning_gym.py:a2d,init_from=DIR,\
options.dataset=zebra_puzzles
    on from a denoiser that configs/opdlm.py made
"...:MODEL,options.dataset=(leg_counting,zebra_puzzles),options.size=5000"
    several data sets, as many problems of each
...:MODEL,options.dataset=leg_counting,options.config.max_animals=5
    settings of the data set, by the library's names

There is no embedded model: the problems are in words. GDSD's authors publish nothing on this task:
the values are those of its other tasks.
"""

from ml_collections import ConfigDict

from configs import common, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.name, recipe.task = f"reasoning-gym-{model}", "reasoning_gym"
    # the authors' prompts and rewards are of other tasks
    recipes = objectives.published("reasoning_gym", {"gdsd": {"beta": 1e-3}}, model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def llada() -> ConfigDict:
    """LLaDA-8B with the values of the later release."""
    recipe = published.llada()
    recipe.greeting = "LLaDA-8B on reasoning-gym, with the values of other tasks"
    return recipe


def dream() -> ConfigDict:
    """Dream-7B with the values of the later release."""
    recipe = published.dream()
    recipe.greeting = "Dream-7B on reasoning-gym, with the values of other tasks"
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.greeting = "reasoning-gym, on from a converted denoiser, with the values of other tasks"
    return recipe


MODELS = {"llada": llada, "dream": dream, "a2d": a2d}
