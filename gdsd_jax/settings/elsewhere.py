"""What other trainers (TRL, verl, OpenRLHF) call the settings that there are here too."""

from collections.abc import Collection, Iterator

WORKDIR = "the flag --workdir=DIR"
CONFIG = "the flag --config=FILE.py"
TASK = "task=FILE.py (its grade gives the reward)"
RATES = ("optimizer.learning_rate", "sft_optimizer.learning_rate")
# name, of dotted ones the last part or the last two -> our keys, or what is there in place of one
NAMES: dict[str, tuple[str, ...]] = {
    # the optimizer
    **dict.fromkeys(("lr", "learning_rate"), RATES),
    "optim.lr": RATES[:1],
    "max_grad_norm": ("optimizer.clip_norm",),
    "grad_clip": ("optimizer.clip_norm",),
    "warmup_ratio": ("optimizer.warmup_steps",),
    "lr_warmup_steps": ("optimizer.warmup_steps",),
    "adam_beta1": ("optimizer.b1",),
    "adam_beta2": ("optimizer.b2",),
    # a round
    "num_generations": ("group_size",),
    "rollout_n": ("group_size",),
    "rollout.n": ("group_size",),
    "n_samples_per_prompt": ("group_size",),
    "batch": ("prompts_per_round", "sft.batch"),
    "batch_size": ("prompts_per_round",),
    "train_batch_size": ("prompts_per_round",),
    "rollout_batch_size": ("prompts_per_round",),
    "per_device_train_batch_size": ("prompts_per_round",),
    "gradient_accumulation_steps": ("slices",),
    "micro_batch_size": ("slices",),
    "micro_train_batch_size": ("slices",),
    "ppo_micro_batch_size": ("slices",),
    "ppo_micro_batch_size_per_gpu": ("slices",),
    "mini_batch_size": ("minibatches",),
    "ppo_mini_batch_size": ("minibatches",),
    "num_mini_batches": ("minibatches",),
    "num_iterations": ("inner_iterations",),
    "ppo_epochs": ("inner_iterations",),
    "num_mc_samples": ("mask_draws",),
    "mc_num": ("mask_draws",),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "num_episodes"), ("rounds",)),
    **dict.fromkeys(("num_train_epochs", "total_epochs", "max_steps"), ("rounds",)),
    "total_training_steps": ("rounds",),
    # prompts and answers
    "max_prompt_length": ("prompt_length",),
    "prompt_max_len": ("prompt_length",),
    **dict.fromkeys(("max_new_tokens", "max_tokens", "max_length"), ("sampler.gen_length",)),
    **dict.fromkeys(("max_completion_length", "max_response_length"), ("sampler.gen_length",)),
    "generate_max_len": ("sampler.gen_length",),
    "diffusion_steps": ("sampler.steps",),
    "block_size": ("sampler.block_length",),
    "remasking_strategy": ("sampler.remasking",),
    # files
    "model_name_or_path": ("init_from",),
    "model_path": ("init_from",),
    "model.path": ("init_from",),
    "pretrain": ("init_from",),
    "dataset": ("data_file",),
    "dataset_name": ("data_file",),
    "train_file": ("data_file",),
    "train_files": ("data_file",),
    "val_files": ("heldout_file",),
    "eval_dataset": ("heldout_file",),
    **dict.fromkeys(("output_dir", "workdir", "default_local_dir", "save_path"), (WORKDIR,)),
    "config": (CONFIG,),
    "run_name": ("name",),
    "experiment_name": ("name",),
    # what is learnt
    **dict.fromkeys(("loss_type", "algorithm", "algo", "adv_estimator"), ("objective",)),
    **dict.fromkeys(("reward_funcs", "reward_fn", "reward_func", "reward_function"), (TASK,)),
    "reward_weights": ("reward.weights",),
    "sync_ref_model": ("reference_sync.every",),
    "ref_model_sync_steps": ("reference_sync.every",),
    "ref_model_mixup_alpha": ("reference_sync.mix",),
    # the model and the devices
    **dict.fromkeys(("use_lora", "use_peft", "peft", "lora_r", "lora.r"), ("lora_rank",)),
    "target_modules": ("lora_targets",),
    "gradient_checkpointing": ("remat",),
    "enable_gradient_checkpointing": ("remat",),
    "bf16": ("dtype",),
    "tensor_model_parallel_size": ("mesh.tensor",),
    "tensor_parallel_size": ("mesh.tensor",),
    "fsdp_size": ("mesh.fsdp",),
    # what a run writes
    "logging_steps": ("sft.log_every",),
    "save_steps": ("checkpoint_every",),
    "save_freq": ("checkpoint_every",),
    "save_total_limit": ("keep_checkpoints",),
    "max_ckpt_to_keep": ("keep_checkpoints",),
    "eval_steps": ("eval_every",),
    "test_freq": ("eval_every",),
    "report_to": ("sinks",),
    "logger": ("sinks",),
}
# name -> fields that an objective may have of its own: its trust region, its pull to the reference
CLIP = ("trust", "epsilon_low", "epsilon_high")
OWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epsilon", "eps_clip", "clip_eps", "clip_ratio", "cliprange"), CLIP),
    "clip_range": CLIP,
    "p_mask_prompt": ("mask_prompt",),
    "clip_ratio_low": ("trust", "epsilon_low"),
    "clip_ratio_high": ("trust", "epsilon_high"),
    **dict.fromkeys(("beta", "kl_coef", "kl_loss_coef", "init_kl_coef", "use_kl_loss"), ("beta",)),
}


def meant(key: str, known: Collection[str], own: str | None) -> list[str]:
    """What a key of another trainer is called here; nothing where it is none.

    Args:
      key: as it was given, with dots or without.
      known: the keys that there are.
      own: what the objective's own keys begin with; None: that is not known.
    """
    names = list(names_of(key))
    found = next((NAMES[name] for name in names if name in NAMES), ())
    found = [one for one in found if one in known or one in (WORKDIR, CONFIG, TASK)]
    fields = next((OWN[name] for name in names if name in OWN), ())
    found += [f"{own}.{field}" for field in fields if f"{own}.{field}" in known]
    section = key.rpartition(".")[0]
    beside = [one for one in found if section and one.rpartition(".")[0] == section]
    return beside or found  # optimizer.lr is that section's


def names_of(key: str) -> Iterator[str]:
    """A key, its last two parts and its last one."""
    parts = key.lower().replace("-", "_").split(".")
    for count in (len(parts), 2, 1):
        yield ".".join(parts[-count:])
