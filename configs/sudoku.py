"""GDSD on 4 by 4 Sudoku: one reward for each empty cell that is right.

python launch/main.py --config=configs/sudoku.py
    the embedded default: any machine, minutes on 2 cores, on generated puzzles
python launch/main.py --config=configs/sudoku.py:llada,init_from=DIR,data_file=FILE.csv
    LLaDA-8B, the mended recipe; about 29 hours of 8 v5p chips at best (launch/plan.py)
...:llada,gdsd.recipe=r2,init_from=DIR,data_file=FILE.csv
    the later release's, with token-logit centralisation (TLC), its prompts and rewards
    authors' figure: 92.0% of the empty cells; 89.8% without TLC, as under gdsd.recipe=r1
python launch/main.py --config=configs/sudoku.py:dream,init_from=DIR,data_file=FILE.csv
    Dream-7B; authors' figure under gdsd.recipe=r2: 91.7% of the empty cells, 82.3% without TLC
python launch/main.py --config=configs/sudoku.py:a2d,init_from=DIR,data_file=FILE.csv
    on from a denoiser that configs/opdlm.py made; authors' figure: none published
...:MODEL,reward.variant=released
    the released rule in place of ours, by which any solution counts and given cells count
...:MODEL,prompt=released
    the content of the released prompt in place of ours
...:llada,objective=espo
    another objective with its authors' recipe for this task (configs/objectives.py)

The authors train on 4x4_sudoku_unique_puzzles.csv and evaluate 256 puzzles of 4x4_test_sudoku.csv
(heldout_file=...), at temperature 0 with sampler.steps=gen_length/2. Their figures are the best of
several lengths, read off the bars of their repository's figure. Without data_file the puzzles are
generated.
"""

from ml_collections import ConfigDict

from configs import common, objectives, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.task = "sudoku"
    recipes = EMBEDDED
    if model != "tiny":
        name = published.choose(recipe, overrides)
        recipes = objectives.published("sudoku", published.gdsd(name, **GDSD[model]), model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def embedded() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters learns generated puzzles from nothing."""
    recipe = ConfigDict()
    recipe.name = "sudoku-tiny"
    recipe.greeting = (
        "embedded default: a tiny denoiser on generated 4 by 4 Sudoku; configs/sudoku.py names "
        "the full recipes"
    )
    recipe.model = "llada_tiny"
    recipe.prompt_length = 20
    recipe.sampler = ConfigDict({"gen_length": 24, "block_length": 24, "steps": 24})
    recipe.rounds = 45
    recipe.prompts_per_round, recipe.group_size = 32, 8
    recipe.inner_iterations = 2
    # without the decay some runs fall at their end
    recipe.optimizer = ConfigDict(
        {
            "learning_rate": 4e-4,
            "warmup_steps": 10,
            "decay_steps": 90,
            "final_share": 0.05,
            "clip_norm": 1.0,
        }
    )
    recipe.sft = ConfigDict({"steps": 800, "noise": 0.4})
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 800, "clip_norm": 1.0}
    )
    recipe.eval_every = 15
    return recipe


def llada() -> ConfigDict:
    """LLaDA-8B by the script of the later release."""
    recipe = published.llada()
    recipe.name, recipe.greeting = "sudoku-llada", "LLaDA-8B on Sudoku"
    return recipe


def dream() -> ConfigDict:
    """Dream-7B by the newest script of the release: one update a round, half the passes, and under
    gdsd.recipe=r2 masks at random positions of a block.

    The script is scripts/run_gdsd_dream_sudoku.sh of commit 782a103; its "remasking" says how the
    views of the loss are drawn, Dream's sampler has no such setting.
    """
    recipe = published.dream()
    recipe.name, recipe.greeting = "sudoku-dream", "Dream-7B on Sudoku"
    recipe.inner_iterations = 1
    recipe.sampler.steps = 128
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.name, recipe.greeting = "sudoku-a2d", "Sudoku, on from a converted denoiser"
    return recipe


MODELS = {"tiny": embedded, "llada": llada, "dream": dream, "a2d": a2d}
LLADA = {"psi": 10.0, "beta": 1e-3, "top_k": 64}
DREAM = {"psi": 1.0, "beta": 1e-3, "top_k": 8, "epsilon": 0.2, "masks": "block_random"}
GDSD = {"llada": LLADA, "a2d": LLADA, "dream": DREAM}
# the completion is one block
EMBEDDED = (objectives.EMBEDDED, {"gdsd": {"gdsd": {"mask_block": 24}}})
