"""What is set differently for each objective, on the embedded task and on LLaDA-8B.

What stands nowhere here is the default of the objective's own file in gdsd_jax/objectives. The
comments name the source; what a publication leaves open for coding is taken from its other tasks.
G completions a prompt, mu inner iterations, K mask draws; a round is B completions x slices x 8
devices.
"""

from ml_collections import ConfigDict

D1 = {  # diffu-GRPO's own recipe (arXiv 2504.12216), B 6, 2 slices; wd1 took it over
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

PUBLISHED = {  # what differs from the GDSD recipe on coding, which configs/coding.py writes out
    "gdsd": {"gdsd": {"beta": 5e-2}},
    "espo": {  # its recipe on code: full fine-tuning, B 1
        "prompts_per_round": 16,
        "group_size": 10,
        "slices": 20,
        "mask_draws": 2,
        "lora_rank": 0,
        "optimizer": {"clip_norm": 0.8},
        "espo": {"beta": 1e-2},
    },
    "spg": {  # on GSM8K; K views, B 6
        "baseline": "mean",
        "prompts_per_round": 16,
        "group_size": 6,
        "slices": 2,
        "inner_iterations": 4,
        "mask_draws": 2,
        "temperature": 0.9,
        "sampler": {"steps": 128},
        "optimizer": {"learning_rate": 3e-6, "weight_decay": 0.1},
    },
    "diffu_grpo": D1,
    "wd1": D1 | {"inner_iterations": 8},
    "dmpo": {  # B 8; K pairs are its 4 replicates
        "baseline": "mean",
        "prompts_per_round": 8,
        "group_size": 16,
        "slices": 2,
        "mask_draws": 2,
        "temperature": 0.2,
        "sampler": {"steps": 128},
        "optimizer": {"learning_rate": 1e-6, "weight_decay": 0.1},
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
    },
}

EMBEDDED = {  # nothing of the budget differs between objectives on the embedded task
    "gdsd": {
        "gdsd": {
            "weighting": "uniform",
            "beta": 1e-3,
            "masks": "block_confidence",
            "mask_block": 8,
        },
    },
    "espo": {"espo": {"epsilon_low": 0.2, "epsilon_high": 0.2}},
    "spg": {"baseline": "mean", "mask_draws": 2, "spg": {"block_length": 8}},
    "diffu_grpo": {"baseline": "mean"},
    "wd1": {"baseline": "mean"},
    "dmpo": {"baseline": "mean"},
}


def select(recipe: ConfigDict, name: str, recipes: dict[str, dict]) -> None:
    """Makes `name` the recipe's objective, with what `recipes` say of it."""
    recipe.objective = name
    if name != "gdsd":
        recipe.name += f"-{name.rpartition('/')[2].removesuffix('.py')}"
    recipe.update(ConfigDict(recipes.get(name, {})))
