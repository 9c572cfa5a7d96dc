"""What GDSD's released scripts have in common, for the full-size recipes.

arXiv 2605.29398 and its repository, scripts of the later release over train_gdsd.yaml: 8 devices,
groups of 16, completions of 256 tokens. The released prompts and reward rules come with it.

What a run of `gdsd.recipe=r2` still does otherwise than the released one: adapters have no dropout
(0.05 there, in rollouts too). Masks and noise come from folded keys; there one of 4,096 seeds, set
globally at each loss, fixes them, and seeds repeat after some dozens of rounds. The shares of
masked tokens are spread evenly over the rows of a slice; there over those of one device. Prompts'
padding is never attended to; their loss passes no attention mask. Probabilities, confidences and
noise are float32 with the noise cut where theirs ends; there they are bfloat16. Text behind a stop
token is cut before it is graded. Masks go block by block as in the trainer without TLC; that of TLC
could not be read, nor whether its centre passes a gradient, which it does here. Warm-up is 8 steps,
a thousandth of a run there; rounds are as many as their figures show.
"""

from ml_collections import ConfigDict

# Under the released names of the projections these four are all that adapters find in a LLaDA.
LLADA_TARGETS = ("q", "k", "v", "up")


def llada() -> ConfigDict:
    """LLaDA-8B: 320 completions a round, 10 a device and slice."""
    recipe = shared()
    recipe.model = "llada_8b"
    recipe.prompts_per_round, recipe.inner_iterations = 20, 8
    recipe.lora_targets = LLADA_TARGETS
    # The quirks are the point: the released rollouts' noise ends at 5.5 nats, which makes their
    # temperature of 1 much colder than it says.
    recipe.sampler = ConfigDict(
        {"gen_length": 256, "block_length": 32, "steps": 256, "reference_quirks": True}
    )
    return recipe


def dream() -> ConfigDict:
    """Dream-7B: 256 completions a round, 8 a device and slice."""
    recipe = shared()
    recipe.model = "dream_7b"
    recipe.prompts_per_round, recipe.inner_iterations = 16, 8
    recipe.sampler = ConfigDict(
        {"kind": "dream", "gen_length": 256, "steps": 256, "alg": "entropy", "top_p": 0.95}
    )
    return recipe


def a2d() -> ConfigDict:
    """A block-causal model that configs/opdlm.py made, with LLaDA's values: nothing is published
    for it."""
    recipe = llada()
    recipe.model = None  # whichever init_from holds
    recipe.lora_targets = (*LLADA_TARGETS, "o", "gate", "down")
    recipe.sampler = ConfigDict(
        {"kind": "block", "gen_length": 256, "block_length": 4, "steps": 256}
    )
    return recipe


def shared() -> ConfigDict:
    """What the scripts of both models say."""
    recipe = ConfigDict()
    recipe.require_init = True
    recipe.seed = 42
    recipe.prompt_length, recipe.too_long = 400, "cut"
    recipe.prompt_multiple = 64
    recipe.rounds = 300  # 2,400 updates of 8 a round, as far as the reward figures go
    recipe.group_size, recipe.slices, recipe.mask_draws = 16, 4, 2
    recipe.optimizer = ConfigDict(
        {"learning_rate": 1e-5, "warmup_steps": 8, "weight_decay": 0.01, "clip_norm": 0.2}
    )
    recipe.lora_rank, recipe.lora_alpha = 128, 64.0
    recipe.dtype, recipe.remat = "bfloat16", "full"
    # fsdp as far as a slice's completions go round
    recipe.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": -1})
    recipe.eval_every, recipe.eval_problems, recipe.checkpoint_every = 25, 256, 5
    recipe.probe_tokens = 16  # of 256: each is a forward that collects all weights
    return recipe


# What no publication has, and makes rounds faster: rollouts in int8, whose drift some tokens of a
# row a chip tell, and masks that all updates of a round share, so that they are scored once.
SHARED = {"score_masks": "shared"}
FAST = SHARED | {"rollout_quant": "int8", "drift_share": 0.034, "drift_tokens": 64}
# where the sampler has none of the released quirks; the keys and values take memory, which parts
# of a rollout, at most so many, take one after the other
CACHED, PARTS = {"sampler": {"cache": "prefix"}}, 5
EXACT = ("trajectory", "just_grpo")  # learn from the law of exact rollouts alone


def quicken(recipe: ConfigDict, overrides: dict[str, str]) -> None:
    """Takes `fast` out of the overrides of a full-size recipe, whose objective is chosen already;
    with `fast=true` it gets `FAST`, as far as the objective allows.

    Raises:
      ValueError: it is neither true nor false.
    """
    if not recipe.get("require_init", False):
        return
    said = overrides.pop("fast", "false").lower()
    if said not in ("true", "false"):
        raise ValueError(f"fast={said}: choose true or false")
    if said == "false":
        return
    if recipe.objective in EXACT:
        recipe.update(ConfigDict(SHARED))
        return
    recipe.update(ConfigDict(FAST))
    quirks = chosen(recipe, overrides, "sampler.reference_quirks", "false").lower() == "true"
    if quirks or chosen(recipe, overrides, "sampler.kind", "llada") != "llada":
        return
    recipe.update(ConfigDict(CACHED))
    sizes = [chosen(recipe, overrides, key) for key in ("prompts_per_round", "group_size")]
    if all(text.isdecimal() for text in sizes):  # else the settings say what is wrong
        rows = int(sizes[0]) * int(sizes[1])
        recipe.rollout_parts = max(parts for parts in range(1, PARTS + 1) if rows % parts == 0)


def chosen(recipe: ConfigDict, overrides: dict[str, str], key: str, default: str = "") -> str:
    """The text of a key's value: the override's, else the recipe's, else the default."""
    if key in overrides:
        return overrides[key].strip()
    *folders, name = key.split(".")
    for folder in folders:
        recipe = recipe.get(folder, {})
    return str(recipe.get(name, default))


NAMES = ("mended", "r1", "r2", "regression")


def choose(recipe: ConfigDict, overrides: dict[str, str]) -> str:
    """Takes `gdsd.recipe` out of the overrides, by default "mended", and sets the prompts and the
    rule of rewards that come with it, whatever the objective.

    "regression" is "mended" with another target: it stays there for `objectives.select`.

    Raises:
      ValueError: there is no recipe of that name.
    """
    said = overrides.get("gdsd.recipe", "mended")
    if said not in NAMES:
        raise ValueError(f"gdsd.recipe={said}: choose one of {', '.join(NAMES)}")
    recipe.greeting += f", {said} recipe"
    name = "mended" if said == "regression" else overrides.pop("gdsd.recipe", "mended")
    recipe.prompt = "full" if name == "mended" else "released"
    recipe.reward = ConfigDict({"variant": "mended" if name == "mended" else "released"})
    recipe.slices_apart = name != "mended"
    if name == "mended":
        return name
    recipe.prompt_multiple = 0  # all rows are as wide, as theirs
    if "fast" in overrides:
        raise ValueError(f"gdsd.recipe={name} is a released one: leave fast= out")
    return name


def gdsd(
    name: str,
    *,
    psi: float,
    beta: float,
    top_k: int | None = None,
    epsilon: float = 4e-4,
    masks: str = "block_confidence",
) -> dict:
    """GDSD's own settings for a task in the recipe of that name.

    "mended": the formula of the paper, psi in sequence units, a trust region of 0.02 nats a token.
    "r1": the first release's formula, in which psi is per token and tokens weigh alike. "r2": the
    later one's, under ELBO weights and masks that go block by block, with token-logit
    centralisation where its script for the task has it.

    Args:
      name: of `NAMES`.
      psi: guidance of the released forms, nats per unit of advantage and token.
      beta: weight of the KL to the reference.
      top_k: best tokens in the mean of the centralisation; None = the task's script has none.
      epsilon: the ratio bound of r2; of r1 it is 4e-4.
      masks: of r2, by its script's "remasking"; those of r1 are uniform.
    """
    if name == "mended":
        return {"gdsd": {"beta": beta}}
    chosen = {"preset": name, "psi": psi, "beta": beta, "trust": (4e-4, 4e-4)}
    if name == "r1":
        chosen["weighting"] = "uniform"
    else:
        chosen |= {"trust": (epsilon, epsilon), "masks": masks, "mask_block": 32}
        if top_k is not None:
            chosen |= {"centring": "top_k", "centring_k": top_k}
    return {"gdsd": chosen}
