"""GDSD on instructions that a program can check, such as a number of words or no commas.

python launch/main.py --config=configs/instructions.py
    the embedded default: any machine, minutes on 2 cores, on generated problems of short texts
python launch/main.py --config=configs/instructions.py:smollm2_135m,init_from=WORKDIR
    SmolLM2-135M, on from the denoiser that configs/opdlm.py:smollm2_135m made, short texts
python launch/main.py --config=configs/instructions.py:llada,init_from=DIR
    LLaDA-8B, on generated problems
python launch/main.py --config=configs/instructions.py:dream,init_from=DIR
    Dream-7B, the same
python launch/main.py --config=configs/instructions.py:a2d,init_from=DIR
    on from a denoiser that configs/opdlm.py made
...:MODEL,data_file=FILE.jsonl,heldout_file=input_data.jsonl
    rows of your own, evaluated on the public prompts of IFEval (arXiv 2311.07911), as they are
...:MODEL,reward.variant=released
    the paper's loose form in place of the strict one
"...:MODEL,options.constraints=(2,5),options.words=80"
    more of them in a prompt, and longer texts

GDSD's authors publish nothing on this task: the values are those of its other tasks.
"""

from ml_collections import ConfigDict

from configs import common, objectives, published

# that fit into a few words
SHORT = (
    "keywords:existence",
    "keywords:forbidden_words",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "detectable_format:title",
    "startend:end_checker",
    "startend:quotation",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
)
# of these, what SmolLM2-135M follows now and then after its conversion: the rest it never does, so
# that no group of answers says which way is better
NOW_AND_THEN = (
    "keywords:existence",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "punctuation:no_comma",
)
# a block sees clean blocks before it whatever is masked there, and answers end with the block that
# holds their end: what is behind it is never sampled
# trust: an update moves even what it does not train on by 0.05 nats a token
# by_length: else the short answers to "at least 10 words" teach it never to end
CONVERTED = {
    "gdsd": {
        "gdsd": {
            "beta": 0.0,
            "masks": "uniform",
            "count": "answer",
            "by_length": True,
            "trust": (0.2, 0.2),
        },
    }
}


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.name, recipe.task = f"instructions-{model}", "instructions"
    recipes = (objectives.EMBEDDED,)
    if model == "smollm2_135m":
        recipes += (CONVERTED,)
    elif model != "tiny":
        # the authors' prompts and rewards are of other tasks
        recipes = objectives.published("instructions", {"gdsd": {"beta": 1e-3}}, model)
    objectives.select(recipe, overrides, recipes)
    published.quicken(recipe, overrides)
    return common.config(recipe, overrides)


def embedded() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters learns generated problems from nothing."""
    recipe = ConfigDict()
    recipe.greeting = (
        "embedded default: a tiny denoiser on short texts under constraints; "
        "configs/instructions.py names the full recipes"
    )
    recipe.model = "llada_tiny"
    recipe.options = ConfigDict({"constraints": (1, 2), "words": 12, "kinds": SHORT})
    recipe.prompt_length = 40
    recipe.sampler = ConfigDict({"gen_length": 32, "block_length": 8, "steps": 16})
    recipe.rounds = 40
    recipe.prompts_per_round, recipe.group_size = 32, 8
    recipe.inner_iterations = 2
    recipe.optimizer = ConfigDict({"learning_rate": 2e-4, "warmup_steps": 10, "clip_norm": 1.0})
    recipe.sft = ConfigDict({"steps": 600, "noise": 0.4})
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 600, "clip_norm": 1.0}
    )
    recipe.eval_every = 20
    return recipe


def smollm2() -> ConfigDict:
    """A block-causal SmolLM2-135M by adapters, one constraint a prompt, in float32 on two cores."""
    recipe = embedded()
    recipe.greeting = "SmolLM2-135M as a denoiser, on short texts under constraints"
    recipe.model = "a2d_smollm2_135m"
    recipe.require_init = True
    recipe.options.update(constraints=(1, 1), kinds=NOW_AND_THEN)
    recipe.prompt_length = 48
    recipe.sampler = ConfigDict({"kind": "block", "gen_length": 32, "block_length": 4, "steps": 32})
    recipe.threshold = 0.9
    recipe.rounds = 30
    recipe.prompts_per_round, recipe.group_size = 8, 8
    recipe.inner_iterations, recipe.minibatches, recipe.slices = 2, 2, 4  # one pass over a round
    recipe.optimizer.update(learning_rate=2e-4, warmup_steps=4)
    recipe.lora_rank, recipe.lora_alpha = 32, 64.0
    recipe.sft.steps = 0
    recipe.eval_every, recipe.eval_problems = 10, 128
    return recipe


def llada() -> ConfigDict:
    """LLaDA-8B with the values of the later release."""
    recipe = published.llada()
    recipe.greeting = "LLaDA-8B on instructions, with the values of other tasks"
    return recipe


def dream() -> ConfigDict:
    """Dream-7B with the values of the later release."""
    recipe = published.dream()
    recipe.greeting = "Dream-7B on instructions, with the values of other tasks"
    return recipe


def a2d() -> ConfigDict:
    """A converted model with LLaDA's values."""
    recipe = published.a2d()
    recipe.greeting = "instructions, on from a converted denoiser, with the values of other tasks"
    return recipe


MODELS = {
    "tiny": embedded,
    "smollm2_135m": smollm2,
    "llada": llada,
    "dream": dream,
    "a2d": a2d,
}
