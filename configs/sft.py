"""Supervised fine-tuning on your own chats: the supervised phase alone, no rounds.

python launch/main.py --config=configs/sft.py:llada,init_from=DIR,data_file=chats.jsonl
    LLaDA-8B, LoRA of rank 128
python launch/main.py --config=configs/sft.py:dream,init_from=DIR,data_file=chats.jsonl
    Dream-7B, the same
python launch/main.py --config=configs/sft.py:a2d,init_from=DIR,data_file=chats.jsonl
    on a denoiser that configs/opdlm.py made
python launch/main.py --config=configs/sft.py:tiny,data_file=chats.jsonl
    a model of 0.4 M parameters from nothing, to try a file: any machine, minutes on 2 cores
...:MODEL,lora_rank=0
    full fine-tuning
...:MODEL,columns.messages=NAME
    where the file calls the turns otherwise

chats.jsonl has {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content":
"..."}]} a line, or is in ShareGPT's layout. The last turn is learnt, behind the turns before it.
Without heldout_file a tenth of the chats is held out, and its loss stands beside the training's.
sft.steps times sft.batch are the chats that are gone through. The learning rates are our own, from
no publication.
"""

from ml_collections import ConfigDict

from configs import common, published


def get_config(arg: str | None = None) -> ConfigDict:
    model, overrides = common.parse(arg, MODELS)
    recipe = MODELS[model]()
    recipe.name, recipe.task = f"sft-{model}", "chats"
    recipe.greeting = f"supervised fine-tuning on chats, model {model}"
    recipe.rounds = 0
    # what a few answers at the end are written with
    recipe.prompts_per_round, recipe.group_size, recipe.slices = 8, 2, 1
    recipe.eval_problems = 16
    return common.config(recipe, overrides)


def released(recipe: ConfigDict) -> ConfigDict:
    """A recipe of released weights for the supervised phase."""
    recipe.prompt_length = 512
    recipe.sft = ConfigDict(
        {
            "steps": 1000,
            "batch": 32,
            "weighting": "elbo",
            "share": 1.0,
            "log_every": 20,
            "heldout_problems": 256,
        }
    )
    recipe.sft_optimizer = ConfigDict(
        {
            "learning_rate": 2e-5,
            "warmup_steps": 50,
            "decay_steps": 1000,
            "final_share": 0.1,
            "clip_norm": 1.0,
        }
    )
    return recipe


def llada() -> ConfigDict:
    """LLaDA-8B; answers of up to 256 tokens."""
    recipe = released(published.llada())
    recipe.sampler.reference_quirks = False
    return recipe


def dream() -> ConfigDict:
    """Dream-7B; answers of up to 256 tokens."""
    return released(published.dream())


def a2d() -> ConfigDict:
    """A converted model; answers of up to 256 tokens."""
    recipe = released(published.a2d())
    recipe.sampler.reference_quirks = False
    return recipe


def tiny() -> ConfigDict:
    """A LLaDA-shaped denoiser of 0.4 M parameters; answers of up to 64 tokens."""
    recipe = ConfigDict()
    recipe.model = "llada_tiny"
    recipe.prompt_length = 64
    recipe.sampler = ConfigDict({"gen_length": 64, "block_length": 8, "steps": 32})
    recipe.sft = ConfigDict(
        {"steps": 600, "batch": 32, "share": 1.0, "log_every": 50, "heldout_problems": 64}
    )
    recipe.sft_optimizer = ConfigDict(
        {"learning_rate": 3e-3, "warmup_steps": 40, "decay_steps": 600, "clip_norm": 1.0}
    )
    return recipe


MODELS = {"llada": llada, "dream": dream, "a2d": a2d, "tiny": tiny}
