"""Presets have the released sizes and ids; config.json is read, refused by name, written back."""

import dataclasses
import json

import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import hf, models, sampling
from gdsd_jax.models import families

# of the released checkpoints: parameters (a tied head counted once), tensors, mask, pad, stops
RELEASED = {
    "llada_8b": (8_015_581_184, 291, 126_336, 126_081, (126_081, 126_348)),
    "dream_7b": (7_615_616_512, 339, 151_666, 151_643, (151_643, 151_645)),
    "qwen3_0p6b": (596_049_920, 310, 151_669, 151_643, (151_645, 151_643)),
    "qwen3_1p7b": (1_720_574_976, 310, 151_669, 151_643, (151_645, 151_643)),
    "qwen3_4b": (4_022_468_096, 398, 151_669, 151_643, (151_645, 151_643)),
    "qwen3_8b": (8_190_735_360, 399, 151_669, 151_643, (151_645, 151_643)),
    "qwen2p5_0p5b": (494_032_768, 290, 151_665, 151_643, (151_645, 151_643)),
    "qwen2p5_1p5b": (1_543_714_304, 338, 151_665, 151_643, (151_645, 151_643)),
    "qwen2p5_7b": (7_615_616_512, 339, 151_665, 151_643, (151_645, 151_643)),
}
RELEASED |= {
    f"a2d_{name}": numbers for name, numbers in RELEASED.items() if name.startswith("qwen")
}
LLAMA_3_ENDS = (128_001, 128_008, 128_009)
RELEASED |= {
    "llada_1p5": RELEASED["llada_8b"],
    "diffucoder_7b": RELEASED["dream_7b"],
    "dream_coder_7b": RELEASED["dream_7b"],
    "smollm2_135m": (134_515_008, 272, None, 2, (2,)),
    # 128 rows of 576 more
    "a2d_smollm2_135m": (134_588_736, 272, 49_152, 2, (2,)),
    "llama3p2_1b": (1_235_814_400, 146, None, 128_001, LLAMA_3_ENDS),
    "a2d_llama3p2_1b": (1_235_814_400, 146, 128_002, 128_001, LLAMA_3_ENDS),
    "llama3p1_8b": (8_030_261_248, 291, None, 128_001, LLAMA_3_ENDS),
    "a2d_llama3p1_8b": (8_030_261_248, 291, 128_002, 128_001, LLAMA_3_ENDS),
    # the head is not tied: 151,936 rows more than Qwen3's
    "sdar_1p7b": (2_031_739_904, 311, 151_669, 151_643, (151_643, 151_645)),
    "sdar_4b": (4_411_424_256, 399, 151_669, 151_643, (151_643, 151_645)),
    "sdar_8b": (8_190_735_360, 399, 151_669, 151_643, (151_643, 151_645)),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_have_the_released_sizes(name):
    config, (parameters, tensors, mask_id, pad_id, stop_ids) = models.MODELS[name], RELEASED[name]
    shapes = hf.paths_of(models.param_shapes(config))  # abstract: nothing is allocated
    assert sum(leaf.size for leaf in shapes.values()) == parameters
    assert sum(len(hf.tensor_names(path, config)) for path in shapes) == tensors
    assert (config.mask_id, config.pad_id, config.stop_ids) == (mask_id, pad_id, stop_ids)


@pytest.mark.parametrize("name", ["dream_7b", "qwen3_4b", "a2d_qwen3_8b"])
def test_shapes_that_are_easily_confused(name):
    leaves = hf.paths_of(models.param_shapes(models.MODELS[name]))
    shapes = {path: leaf.shape[1:] for path, leaf in leaves.items()}
    if name == "dream_7b":
        assert shapes["layers.q.kernel"] == (3584, 3584) and shapes["layers.k.bias"] == (512,)
        assert "layers.o.bias" not in shapes and "layers.q_norm.scale" not in shapes
    if name == "qwen3_4b":  # heads x head_dim is not the width
        assert shapes["layers.q.kernel"] == (2560, 4096)
        assert shapes["layers.o.kernel"] == (4096, 2560)
        assert shapes["layers.q_norm.scale"] == (128,) and "lm_head.kernel" not in shapes
    if name == "a2d_qwen3_8b":
        assert "lm_head.kernel" in shapes and "layers.q.bias" not in shapes


@pytest.mark.parametrize("name", RELEASED)
def test_config_json_leads_back(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(models.config_to_hf(models.MODELS[name])))
    assert models.config_from_hf(tmp_path) == models.MODELS[name]


@pytest.mark.parametrize("model_type", models.FAMILIES)
def test_all_ids_that_stop_are_in_config_json(model_type, tmp_path):
    """Also those that no family knows."""
    (one, *_) = [config for config in models.MODELS.values() if config.family == model_type]
    for ends in ((7,), (7, 3, 5)):
        config = dataclasses.replace(one, vocab_size=100, mask_id=9, pad_id=2, stop_ids=ends)
        (tmp_path / "config.json").write_text(json.dumps(models.config_to_hf(config)))
        assert models.config_from_hf(tmp_path).stop_ids == ends


def test_generation_config_names_further_ends(tmp_path):
    """After those of config.json, which decides what pads."""
    entries = LLAMA | {"eos_token_id": 7, "pad_token_id": None}
    further = {"eos_token_id": [3, 7], "pad_token_id": 5}

    def found(**changes):
        (tmp_path / "config.json").write_text(json.dumps(entries | changes))
        config = models.config_from_hf(tmp_path)
        return config.stop_ids, config.pad_id

    (tmp_path / "generation_config.json").write_text("{}")
    assert found() == ((7,), 7)
    (tmp_path / "generation_config.json").write_text(json.dumps(further))
    assert found() == ((7, 3), 5) and found(pad_token_id=6) == ((7, 3), 6)
    assert found(eos_token_id=None) == ((3, 7), 5)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id='</s>': give an id"):
        found()


def test_who_attends_and_who_shifts():
    """By the model type alone."""
    ways = {name: (config.attention, config.shift) for name, config in models.MODELS.items()}
    assert ways["llada_8b"] == ways["a2d_qwen3_8b"] == ("full", False)
    assert ways["dream_7b"] == ("full", True) and ways["qwen3_8b"] == ("causal", True)
    assert ways["llama3p2_1b"] == ways["qwen2p5_7b"] == ("causal", True)
    assert ways["a2d_llama3p2_1b"] == ways["a2d_qwen2p5_7b"] == ways["sdar_4b"] == ("full", False)


QWEN3 = models.config_to_hf(models.MODELS["qwen3_0p6b"])
DREAM = models.config_to_hf(models.MODELS["dream_7b"])
LLADA = models.config_to_hf(models.MODELS["llada_8b"])
LLAMA = models.config_to_hf(models.MODELS["llama3p2_1b"])
QWEN2 = models.config_to_hf(models.MODELS["qwen2p5_7b"])


def test_both_spellings_of_the_rotation_are_read(tmp_path):
    entries = dict(QWEN3)
    del entries["rope_theta"], entries["rope_scaling"]
    # as transformers 5 writes it
    entries["rope_parameters"] = {"rope_type": "default", "rope_theta": 1_000_000}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    assert models.config_from_hf(tmp_path) == models.MODELS["qwen3_0p6b"]


def test_what_older_llamas_leave_out_is_transformers_default(tmp_path):
    """Llama 2's config.json has no rope_theta, and those before it no key heads of their own."""
    entries = LLAMA | {"model_type": "llama", "rope_scaling": None}
    for name in ("rope_theta", "num_key_value_heads", "tie_word_embeddings", "head_dim"):
        del entries[name]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    config = models.config_from_hf(tmp_path)
    assert (config.rope_theta, config.kv_heads, config.tied) == (10_000.0, config.heads, False)
    assert config.head_dim == config.d_model // config.heads and config.rope_scaling is None


def test_entries_of_what_is_computed_anyway_are_read_over(tmp_path):
    """Also the wider attention of a model that is no autoregressive one."""
    for entries in (
        LLAMA | {"partial_rotary_factor": 1.0, "is_causal": True},
        QWEN2 | {"partial_rotary_factor": None, "is_causal": None},
        DREAM | {"is_causal": False},
    ):
        (tmp_path / "config.json").write_text(json.dumps(entries))
        assert models.config_from_hf(tmp_path).family == entries["model_type"]


def test_an_activation_has_two_names(tmp_path):
    for entries in (QWEN2 | {"hidden_act": "swish"}, LLADA | {"activation_type": "swish"}):
        (tmp_path / "config.json").write_text(json.dumps(entries))
        assert models.config_from_hf(tmp_path).family == entries["model_type"]


def test_ids_of_another_vocabulary(tmp_path):
    """The released ids stand in only where the vocabulary has them."""
    entries = QWEN3 | {
        "vocab_size": 100,
        "eos_token_id": [7, 3],
        "mask_token_id": None,
        "pad_token_id": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(entries))
    config = models.config_from_hf(tmp_path)
    assert (config.mask_id, config.pad_id, config.stop_ids) == (None, 7, (7, 3))


RELEASED_TOKENS = {"w": 0, "<|endoftext|>": 151_643, "<|im_end|>": 151_645}
OTHER_TOKENS = {"w": 0, "<EOS>": 151_643, "<Assistant>": 151_645, "<think>": 151_665}


@pytest.mark.parametrize(
    "tokens, changes, wanted",
    [
        (RELEASED_TOKENS, {}, (None, 151_643, (151_645, 151_643))),
        (OTHER_TOKENS, {}, (None, 151_645, (151_645,))),
        (OTHER_TOKENS, {"eos_token_id": 151_643}, (None, 151_643, (151_643,))),
        (OTHER_TOKENS, {"pad_token_id": 3}, (None, 3, (151_645,))),
        (None, {}, (None, 151_643, (151_645, 151_643))),
        (RELEASED_TOKENS, {"model_type": "a2d-qwen2"}, (151_665, 151_643, (151_645, 151_643))),
        (
            RELEASED_TOKENS | {"<|MASK|>": 151_665},
            {"model_type": "a2d-qwen2", "eos_token_id": 151_643},
            (151_665, 151_643, (151_643, 151_645)),
        ),
        (OTHER_TOKENS, {"model_type": "a2d-qwen2", "mask_token_id": 9}, (9, 151_645, (151_645,))),
        (OTHER_TOKENS, {"model_type": "a2d-qwen2"}, None),
    ],
)
def test_released_ids_stand_in_where_the_tokenizer_spells_them_so(
    tmp_path, tokens, changes, wanted
):
    """An autoregressive model has no mask, and none is a token that means something else."""
    entries = QWEN2 | {"eos_token_id": 151_645, "mask_token_id": None, "pad_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(entries | changes))
    if tokens is not None:
        model = hf_tokenizers.models.WordLevel(tokens, unk_token="w")
        hf_tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    if wanted is None:
        with pytest.raises(ValueError, match="'mask_token_id' is missing; add the mask token's id"):
            models.config_from_hf(tmp_path)
        return
    config = models.config_from_hf(tmp_path)
    assert (config.mask_id, config.pad_id, config.stop_ids) == wanted


@pytest.mark.parametrize(
    "entries, word",
    [
        (QWEN3 | {"model_type": "gpt2"}, "gpt2.*llada, Dream, qwen3, a2d-qwen3"),
        # LLaDA-MoE has LLaDA's model type
        ({"model_type": "llada", "num_experts": 64}, "num_experts=64.*mixture of experts"),
        ({"model_type": "llada2_moe"}, "'llada2_moe' is not supported: a mixture of experts"),
        ({"model_type": "diffusion_gemma"}, "its noise is random tokens instead of masks"),
        ({"model_type": "Fast_dLLM_Qwen"}, "sub-blocks of 8 inside of blocks of 32"),
        (LLAMA | {"attention_bias": True}, "attention_bias"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias"),
        (
            LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.*linear.*llama3",
        ),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        (QWEN2 | {"is_causal": False}, "is_causal=False is not supported, only True"),
        (DREAM | {"partial_rotary_factor": 0.25}, "partial_rotary_factor=0.25 is not supported"),
        (LLAMA | {"model_type": "a2d-llama"}, "'mask_token_id' is missing"),
        (QWEN2 | {"use_sliding_window": True}, "use_sliding_window"),
        (QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.*yarn"),
        (LLADA | {"block_type": "sequential"}, "block_type"),
        (LLADA | {"activation_type": "swiglu"}, "activation_type"),
        (LLADA | {"multi_query_attention": True}, "multi_query_attention"),
        (
            {key: value for key, value in LLADA.items() if key != "mlp_hidden_size"},
            "mlp_hidden_size",
        ),
        (DREAM | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.*yarn"),
        (DREAM | {"hidden_act": "gelu"}, "hidden_act"),
        (
            QWEN3 | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}},
            "rope_scaling.*lin",
        ),
        (QWEN3 | {"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window"),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        (QWEN3 | {"attention_bias": True}, "attention_bias"),
        (LLAMA | {"pad_token_id": 128_256}, "pad_token_id=128256 lies outside the vocabulary"),
        (DREAM | {"eos_token_id": [3, 152_064]}, "eos_token_id=152064 lies outside the vocab"),
        (QWEN3 | {"num_attention_heads": 7}, "kv_heads=8"),
        ("{", "not readable JSON"),
        (None, "no config.json"),
    ],
)
def test_configs_that_cannot_run_are_refused(tmp_path, entries, word):
    if entries:
        (tmp_path / "config.json").write_text(
            entries if isinstance(entries, str) else json.dumps(entries)
        )
    with pytest.raises(ValueError, match=word) as error:
        models.config_from_hf(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("llada_8b", {"kind": "llada"}),
        ("dream_7b", {"kind": "dream"}),
        ("a2d_qwen3_4b", {"kind": "block", "block_length": 4}),
        ("a2d_qwen2p5_7b", {"kind": "block", "block_length": 4}),
        ("a2d_llama3p2_1b", {"kind": "block", "block_length": 4}),
        ("sdar_4b", {"kind": "block", "block_length": 4}),
        ("llama3p1_8b", {"kind": "block", "block_length": 1}),  # one token after another
        ("qwen3_4b", {"kind": "block", "block_length": 1}),
    ],
)
def test_a_model_type_has_a_default_sampler(name, wanted):
    fields = models.default_sampler(models.MODELS[name])
    assert fields == wanted
    sampling.SamplerConfig(gen_length=16, **fields)  # they are its fields
    fields["kind"] = "other"  # a copy
    assert models.default_sampler(models.MODELS[name]) == wanted


@pytest.mark.parametrize("family", families.MODULES, ids=lambda family: family.DIFFUSION)
def test_a_family_states_its_types_and_their_samplers(family):
    """Every diffusion type has a sampler of its own, so that a converted folder names it."""
    types = [one for one in (family.AUTOREGRESSIVE, family.DIFFUSION) if one]
    assert set(types) == set(family.MODEL_TYPES) == set(family.CONVENTIONS)
    assert set(family.SAMPLERS) == {family.DIFFUSION}
    for one in types:
        assert families.FAMILIES[one] is family and family.CONVENTIONS[one]["family"] == one
    assert {config.family for config in family.PRESETS.values()} == set(types)


def test_an_autoregressive_model_becomes_a_denoiser_and_back():
    """Nothing changes but its type, who attends to whom and the shift."""
    qwen3, denoiser = models.MODELS["qwen3_4b"], models.MODELS["a2d_qwen3_4b"]
    assert models.to_denoiser(qwen3) == models.to_denoiser(denoiser) == denoiser
    assert models.to_autoregressive(denoiser) == models.to_autoregressive(qwen3) == qwen3
    moved = dataclasses.replace(qwen3, d_ff=7, lora_rank=2)
    there = models.to_denoiser(moved)
    assert (there.d_ff, there.lora_rank, there.shift, there.attention) == (7, 2, False, "full")
    assert models.to_autoregressive(there) == moved


@pytest.mark.parametrize(
    "name, family", [("llada_8b", "llada"), ("dream_7b", "Dream"), ("sdar_4b", "sdar")]
)
def test_families_without_both_models_are_refused(name, family):
    for convert, target in (
        (models.to_denoiser, "a denoiser of another type"),
        (models.to_autoregressive, "autoregressive"),
    ):
        said = f"a {family} model cannot become {target}: only qwen3 and a2d-qwen3; qwen2 and "
        with pytest.raises(ValueError, match=said):
            convert(models.MODELS[name])


OWN = """
import dataclasses
from gdsd_jax import models

PRESET = dataclasses.replace(models.MODELS["llada_tiny"], layers=5)
"""


def test_a_model_is_a_preset_or_a_users_file(tmp_path):
    assert models.preset("llada_8b") == models.MODELS["llada_8b"]
    (tmp_path / "own.py").write_text(OWN)
    own = models.preset(str(tmp_path / "own.py"))
    assert own == dataclasses.replace(models.MODELS["llada_tiny"], layers=5)
    assert models.default_sampler(own) == {"kind": "llada"}


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "unknown model 'gpt2', known: llada_8b, "),
        ("X = 1", "own.py: the file defines no PRESET"),
        ("PRESET = {}", "own.py: PRESET is a dict, give a models.ModelConfig"),
        (OWN.replace("layers=5", "family='gpt2'"), "own.py: unknown family 'gpt2', known: llada"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, text, said):
    name = "gpt2"
    if text is not None:
        name = str(tmp_path / "own.py")
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        models.preset(name)
    assert "\n" not in str(error.value)
