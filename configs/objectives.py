"""What each objective is set to, and its published recipe on LLaDA-8B (specs/gdsd.md sections 6 and
9).

The comments name the source; what a publication leaves open for coding is taken from its other
tasks. G completions a prompt, mu inner iterations, K mask draws; a round is B completions x slices
x 8 devices.
"""

from ml_collections import ConfigDict

SECTIONS = {  # the fields of each objective's config in gdsd_jax/objectives, for the embedded task
    "gdsd": dict(
        psi=10.0,
        weighting="uniform",
        centring="none",
        centring_k=64,
        detach_centre=False,
        trust=(0.02, 0.02),
        trust_sides="two",
        beta=1e-3,
        count="full",
        masks="block_confidence",
        mask_block=8,
        preset=None,
    ),
    "espo": dict(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, weighting="elbo", count="full"),
    "spg": dict(
        estimate="mix",
        mix=0.5,
        beta_eubo=1.5,
        forward="block_random",
        block_length=8,
        min_share=0.0,
        max_share=1.0,
        mask_prompt=0.15,
    ),
    "diffu_grpo": dict(
        epsilon_low=0.5, epsilon_high=0.5, beta=0.04, mask_prompt=0.15, count="answer"
    ),
    "coupled_grpo": dict(
        epsilon_low=0.5, epsilon_high=0.5, beta=0.01, ratio_low=0.2, ratio_high=0.8, count="answer"
    ),
    "wd1": dict(psi=1.0, negative=1.0, mask_prompt=0.15, count="answer", softmax_over="group"),
    "dmpo": dict(alpha=0.04, sharpness=1.0, centring=1.0, mask_low=0.1, count="full"),
}

D1 = {  # diffu-GRPO's own recipe, B 6, 2 slices; wd1 took it over
    "baseline": "mean",
    "prompts_per_round": 16,
    "group_size": 6,
    "slices": 2,
    "inner_iterations": 12,
    "mask_draws": 1,
    "sampler.steps": 128,
    "temperature": 0.9,
    "prompt_length": 200,
    "optimizer.learning_rate": 3e-6,
    "optimizer.weight_decay": 0.1,
}

PUBLISHED = {  # what differs from the GDSD recipe on coding, which configs/coding.py writes out
    "gdsd": {
        "gdsd.weighting": "elbo",
        "gdsd.beta": 5e-2,
        "gdsd.masks": "uniform",
        "gdsd.mask_block": 32,
    },
    "espo": {  # its recipe on code: full fine-tuning, B 1
        "prompts_per_round": 16,
        "group_size": 10,
        "slices": 20,
        "mask_draws": 2,
        "lora_rank": 0,
        "optimizer.clip_norm": 0.8,
        "espo.epsilon_low": 4e-4,
        "espo.epsilon_high": 4e-4,
        "espo.beta": 1e-2,
    },
    "spg": {  # on GSM8K; K views, B 6
        "baseline": "mean",
        "prompts_per_round": 16,
        "group_size": 6,
        "slices": 2,
        "inner_iterations": 4,
        "mask_draws": 2,
        "sampler.steps": 128,
        "temperature": 0.9,
        "optimizer.learning_rate": 3e-6,
        "optimizer.weight_decay": 0.1,
        "spg.block_length": 32,
    },
    "diffu_grpo": D1,
    "wd1": D1 | {"inner_iterations": 8},
    "dmpo": {  # B 8; K pairs are its 4 replicates
        "baseline": "mean",
        "prompts_per_round": 8,
        "group_size": 16,
        "slices": 2,
        "mask_draws": 2,
        "sampler.steps": 128,
        "temperature": 0.2,
        "optimizer.learning_rate": 1e-6,
        "optimizer.weight_decay": 0.1,
    },
    "coupled_grpo": {  # DiffuCoder, full fine-tuning, B 5; each draw adds the fully masked view
        "prompts_per_round": 8,
        "group_size": 10,
        "slices": 2,
        "inner_iterations": 2,
        "mask_draws": 1,
        "lora_rank": 0,
        "prompt_length": 200,
        "optimizer.learning_rate": 1e-6,
        "optimizer.weight_decay": 0.1,
    },
}

EMBEDDED = {  # what differs between objectives on the embedded task: nothing of the budget
    "spg": {"baseline": "mean", "mask_draws": 2},
    "diffu_grpo": {"baseline": "mean"},
    "wd1": {"baseline": "mean"},
    "dmpo": {"baseline": "mean"},
}


def select(config: ConfigDict, name: str, recipes: dict[str, dict]) -> None:
    """Adds every objective's section and makes `name` the objective, with its recipe.

    Raises:
      ValueError: unknown name.
    """
    if name not in SECTIONS:
        raise ValueError(f"unknown objective {name!r}, known: {', '.join(SECTIONS)}")
    for section, fields in SECTIONS.items():
        config[section] = ConfigDict(fields)
    config.objective = name
    if name != "gdsd":
        config.name += f"-{name}"
    config.update_from_flattened_dict(recipes.get(name, {}))
