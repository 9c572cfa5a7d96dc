"""What is set differently for each objective: on embedded tasks, and as published for LLaDA-8B.

What stands nowhere here is GDSD's recipe for the task, or the default of the objective's own file
in gdsd_jax/objectives. The values are those of the released scripts; what a publication leaves open
for a task is taken from its others. Prompts and rules of rewards stay GDSD's. Two differences are
no settings: adapters have dropout there, and those of d1, wd1, SPG and DMPO lie over weights of 4
bits.

G completions a prompt, mu inner iterations, K mask draws; a round is B completions x slices x 8
devices, of wd1 x 4.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

Recipes = dict[str, dict]  # objective -> what it changes

D1 = {  # diffu-GRPO's own recipe (arXiv 2504.12216), B 6, 2 slices
    "baseline": "mean",
    "prompts_per_round": 16,
    "group_size": 6,
    "slices": 2,
    "inner_iterations": 12,
    "mask_draws": 1,
    "prompt_length": 200,
    "temperature": 0.9,
    "sampler": {"steps": 128},
    "optimizer": {"learning_rate": 3e-6, "weight_decay": 0.1},
}
# TRL's sync_ref_model. Other scripts ask for it too, but with adapters nothing moves there.
MOVING = {"every": 64, "mix": 0.6}

BASELINES: Recipes = {  # on every task
    "espo": {  # B 3
        "prompts_per_round": 16,
        "group_size": 6,
        "slices": 4,
        "inner_iterations": 8,
        "mask_draws": 2,
        "optimizer": {"learning_rate": 3e-6, "weight_decay": 0.01},
        "espo": {"beta": 1e-3},
    },
    "spg": D1 | {"inner_iterations": 4, "mask_draws": 2, "prompt_length": 400},  # K views
    "diffu_grpo": D1,
    "wd1": D1 | {"prompts_per_round": 8},
    "dmpo": {  # B 4; K pairs are its 4 replicates; its Fast-dLLM sampler without a threshold
        "baseline": "mean",
        "prompts_per_round": 4,
        "group_size": 16,
        "slices": 2,
        "inner_iterations": 8,
        "mask_draws": 2,
        "prompt_length": 200,
        "temperature": 0.2,
        "sampler": {"steps": 128, "cache": "prefix"},
        "optimizer": {"learning_rate": 1e-6, "weight_decay": 0.1},
    },
    "gdpo": D1,  # its own scripts were not found; it compares itself with diffu-GRPO
    "trajectory": {  # nothing is published for these models: GDSD's budget, T 1 without top-p
        "score_masks": "shared",
        "sampler": {"top_p": 1.0, "reference_quirks": False},
        "trajectory": {"groups": 32},
    },
    "just_grpo": {  # full fine-tuning on GSM8K, B 8; 125 steps
        "baseline": "mean",
        "scale_rewards": True,
        "prompts_per_round": 64,
        "group_size": 16,
        "slices": 16,
        "inner_iterations": 1,
        "mask_draws": 1,
        "lora_rank": 0,
        "sampler": {"block_length": 1, "steps": 256, "top_p": 1.0, "reference_quirks": False},
        "optimizer": {"learning_rate": 5e-6, "weight_decay": 0.0, "clip_norm": 1.0},
    },
    "coupled_grpo": {  # DiffuCoder, full fine-tuning, B 5; each draw adds the fully masked view
        "prompts_per_round": 8,
        "group_size": 10,
        "slices": 2,
        "inner_iterations": 2,
        "mask_draws": 1,
        "lora_rank": 0,
        "prompt_length": 200,
        "optimizer": {"learning_rate": 1e-6, "weight_decay": 0.1},
        "reference_sync": MOVING,
    },
    "rft": {},  # nothing is published for diffusion models: GDSD's own budget
}

TASKS: dict[str, Recipes] = {  # and then on one
    "coding": {
        "espo": {  # full fine-tuning, B 1
            "group_size": 10,
            "slices": 20,
            "lora_rank": 0,
            "optimizer": {"learning_rate": 1e-6, "weight_decay": 0.1, "clip_norm": 0.8},
            "espo": {"beta": 1e-2},
            "reference_sync": MOVING,
        },
        "coupled_grpo": {
            # a cosine over the recipe's 1,000 rounds of 2 steps
            "optimizer": {"decay_steps": 2000, "final_share": 0.1},
            "reward": {"weights": {"tests": 2.0, "format": 0.5}},
        },
    },
    "sudoku": {
        "espo": {
            # its prompt has an example without steps; ours has them and takes more than 400 tokens
            "options": {"shots": 1},
            "prompt_length": 512,
            "sampler": {"steps": 128},
            "espo": {"beta": 1e-2},
        },
        "spg": {  # B 3
            "slices": 4,
            "options": {"shots": 3},
            "prompt_length": 1500,
            "temperature": 0.3,
            "spg": {"beta_eubo": 1.0},
        },
        "diffu_grpo": {"inner_iterations": 8},
        "wd1": {"inner_iterations": 8},
    },
    "countdown": {
        "espo": {
            "sampler": {"steps": 128},
            "espo": {"epsilon_low": 0.0, "epsilon_high": 0.0, "beta": 3e-3},
        },
    },
    "math": {
        "espo": {"group_size": 16, "slices": 16},  # B 2
    },
}

LEFT_TO_RIGHT: Recipes = {  # one token a pass, in blocks as they are
    "just_grpo": {"sampler": {"remasking": "left_to_right", "steps": None}},
}

EMBEDDED: Recipes = {  # nothing of the budget differs between objectives on the embedded tasks
    "gdsd": {
        "gdsd": {
            "weighting": "uniform",
            "beta": 1e-3,
            "masks": "block_confidence",
            "mask_block": 8,
        },
    },
    # GDSD's own states and weights: only what is done with rewards differs
    "rft": {"rft": {"weighting": "uniform", "masks": "block_confidence", "mask_block": 8}},
    "spg": {"baseline": "mean", "mask_draws": 2, "spg": {"block_length": 8}},
    "diffu_grpo": {"baseline": "mean"},
    "wd1": {"baseline": "mean"},
    "dmpo": {"baseline": "mean"},
} | LEFT_TO_RIGHT


def published(task: str, gdsd: dict, model: str) -> tuple[Recipes, ...]:
    """The recipes for a task at full size; `gdsd` is what GDSD itself sets.

    Of the baselines nothing is published for a converted model.
    """
    own = {"gdsd": gdsd}
    if model == "a2d":
        return own, LEFT_TO_RIGHT
    return BASELINES, TASKS.get(task, {}), own


# a target within reach of a round's updates, which they regress on; psi 10 asks for ten times that
REGRESSION: Recipes = {"gdsd": {"gdsd": {"psi": 1.0}}}


def select(recipe: ConfigDict, overrides: dict[str, str], recipes: Iterable[Recipes]) -> None:
    """Takes `objective` out of the overrides, by default "gdsd", and makes it the recipe's, with
    what each of `recipes` says of it, one over the other; with `gdsd.recipe=regression`, which is
    taken out too, `REGRESSION` over all.

    Raises:
      ValueError: that recipe with another objective.
    """
    name = overrides.pop("objective", "gdsd")
    if overrides.get("gdsd.recipe") == "regression":
        if name != "gdsd":
            raise ValueError(
                f"gdsd.recipe=regression is a target of objective gdsd: leave it out with {name}"
            )
        del overrides["gdsd.recipe"]
        recipes = (*recipes, REGRESSION)
    recipe.objective = name
    if name != "gdsd":
        recipe.name += f"-{name.rpartition('/')[2].removesuffix('.py')}"
    for one in recipes:
        recipe.update(ConfigDict(one.get(name, {})))
