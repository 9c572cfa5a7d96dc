"""Unknown keys: the names of other trainers lead to ours, and nothing far is guessed."""

import pytest

from configs import coding, opdlm
from gdsd_jax import objectives, settings
from gdsd_jax.settings import elsewhere, keys

RATES = "optimizer.learning_rate, sft_optimizer.learning_rate"
TASK = "task=FILE.py (its grade gives the reward)"
NAMES = {
    "the flag --workdir=DIR": "output_dir workdir trainer.default_local_dir",
    "the flag --config=FILE.py": "config",
    "gdsd.trust": "epsilon clip_ratio cliprange actor_rollout_ref.actor.clip_ratio gdsd.epsilon",
    "gdsd.beta": "kl_coef beta kl_loss_coef algorithm.kl_ctrl.kl_coef",
    "objective": "loss_type algorithm algorithm.adv_estimator",
    TASK: "reward_funcs reward_fn",
    "lora_rank": "use_lora lora_r peft",
    "group_size": "num_generations rollout.n actor_rollout_ref.rollout.n",
    RATES: "lr learning_rate sft.learning_rate",
    "optimizer.learning_rate": "optimizer.lr actor.optim.lr actor_rollout_ref.actor.optim.lr",
    "rounds": "epochs total_epochs num_train_epochs max_epochs trainer.total_epochs",
    "prompts_per_round": "batch_size per_device_train_batch_size data.train_batch_size",
    "minibatches": "ppo_mini_batch_size",
    "mesh.tensor": "tensor_model_parallel_size",
    "mesh.fsdp": "fsdp_size fsdp_config.fsdp_size",
    "reference_sync.mix": "ref_model_mixup_alpha",
    "reference_sync.every": "sync_ref_model ref_model_sync_steps",
    "mask_draws": "num_mc_samples",
    "temperature": "rollout.temperature sampler.temperature",
    "sampler.gen_length": "max_completion_length max_tokens data.max_response_length Max-Tokens",
}
FAR = ("foo", "gamma", "use_vllm", "dataloader_num_workers", "entropy_coeff", "train_batch")


def line_of(key: str, others: str = "", get_config=coding.get_config) -> str:
    """What is said of one unknown key."""
    with pytest.raises(ValueError) as error:
        settings.parse(get_config(f"tiny,{others}{key}=1"))
    return str(error.value)


@pytest.mark.parametrize("ours", NAMES)
def test_the_names_of_other_trainers_lead_to_ours_alone(ours):
    for key in NAMES[ours].split():
        assert line_of(key) == f"unknown config key {key!r}; near it: {ours}"


def test_they_lead_to_keys_that_there_are():
    sections = keys.fixed_sections()
    known = {one.name for name in sections for one in keys.keys_of(name, sections[name], sections)}
    told = {one for found in elsewhere.NAMES.values() for one in found}
    assert told - known == {elsewhere.WORKDIR, elsewhere.CONFIG, elsewhere.TASK}
    assert not known & (elsewhere.NAMES.keys() | elsewhere.OWN.keys())
    configs = [one.config for one in objectives.OBJECTIVES.values()]
    fields = {name for config in configs for name in config.__dataclass_fields__}
    assert {name for names in elsewhere.OWN.values() for name in names} <= fields
    said = line_of("max_completion_length", get_config=opdlm.get_config)
    assert said.endswith("near it: sampler.gen_length")


def test_the_trust_region_is_that_of_the_objective():
    said = line_of("clip_ratio", "objective=espo,")
    assert said.endswith("near it: espo.epsilon_low, espo.epsilon_high")
    assert line_of("kl_coef", "objective=espo,").endswith("near it: espo.beta")
    assert "none is like it" in line_of("kl_coef", "objective=wd1,")  # which has no such term


@pytest.mark.parametrize("key", FAR)
def test_what_is_like_nothing_is_told_how_all_are_listed(key):
    told = "none is like it, `python launch/main.py --config=... --print_config` lists all"
    assert line_of(key) == f"unknown config key {key!r}; {told}"


def test_a_section_tells_its_keys():
    """Where none of them is near."""
    assert line_of("mesh.rows").endswith("; there are mesh.data, mesh.fsdp, mesh.tensor")
    assert "; there are opd.divergence, opd.weight, " in line_of(
        "opd.teacher", get_config=opdlm.get_config
    )
