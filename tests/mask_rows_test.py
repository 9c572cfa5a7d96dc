"""A mask for models that have none: new rows, a token of the tokenizer, the files that say so, and
rows that no sampler commits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import checkpoint, mask_rows, models, sampling, tokenizers
from gdsd_jax.types import LazyArray, Prompts
from launch import convert
from tests import folders
from tests.reference import constant_denoiser, tiny

LLAMA = {
    tied: tiny(
        **models.FAMILIES["llama"].CONVENTIONS["llama"],
        mask_id=None,
        pad_id=2,
        stop_ids=(2,),
        tied=tied,
    )
    for tied in (True, False)
}


def write(folder, config) -> dict:
    """A folder whose tokenizer uses every row of the embedding; w1 to w3 are special."""
    tensors = folders.write(folder, config, dtype=ml_dtypes.bfloat16)
    words = {f"w{i}": i for i in range(config.vocab_size)}
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.add_special_tokens(["w1", "w2", "w3"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}, "bos_token": "w1"}')
    return tensors


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("tied", [True, False])
def test_a_full_vocabulary_grows_by_the_mean_of_its_rows(tmp_path, tied):
    """The old rows stay byte for byte, in the converted folder and exported; both agree in config
    and tokenizer, and the teacher reads the same weights."""
    config = LLAMA[tied]
    tensors = write(tmp_path / "in", config)
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}", "--a2d") == 0
    assert run(f"--from_orbax={tmp_path / 'out'}", f"--to_hf={tmp_path / 'hf'}") == 0
    found = folders.read(tmp_path / "hf")
    assert found.keys() == tensors.keys()
    grown = {"model.embed_tokens.weight", "lm_head.weight"} & tensors.keys()
    assert len(grown) == 2 - tied
    for name, old in tensors.items():
        assert found[name][: len(old)].tobytes() == old.tobytes(), name
        if name not in grown:
            continue
        assert found[name].shape == (128, old.shape[1])
        mean = np.mean(old.astype(np.float64), axis=0).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(found[name][40:], np.broadcast_to(mean, (88, len(mean))))
    wanted = dataclasses.replace(models.to_denoiser(config), mask_id=40, vocab_size=128)
    assert models.config_from_json(checkpoint.read_manifest(tmp_path / "out")["model"]) == wanted
    assert models.config_from_hf(tmp_path / "hf") == wanted
    teacher = models.to_autoregressive(wanted)
    assert teacher.attention == "causal" and teacher.vocab_size == 128
    assert models.param_shapes(teacher) == models.param_shapes(wanted)
    for folder in ("out", "hf"):
        tokenizer = tokenizers.load(tmp_path / folder, pad_id=2, mask_id=40, stop_ids=(2,))
        assert tokenizer.vocab_size == 41 and tokenizer.encode("<|mask|>") == [40]


def test_a_token_of_the_tokenizer_becomes_the_mask(tmp_path):
    """No row is added, no id moves, and every file calls it the mask."""
    tensors = write(tmp_path / "in", LLAMA[True])
    flags = "--a2d", "--mask_token=w3"
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}", *flags) == 0
    assert run(f"--from_orbax={tmp_path / 'out'}", f"--to_hf={tmp_path / 'hf'}") == 0
    config = models.config_from_hf(tmp_path / "hf")
    assert (config.mask_id, config.vocab_size) == (3, 40)
    found = folders.read(tmp_path / "hf")
    assert all(found[name].tobytes() == old.tobytes() for name, old in tensors.items())
    before = hf_tokenizers.Tokenizer.from_file(str(tmp_path / "in" / "tokenizer.json"))
    after = hf_tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert after.get_vocab() == before.get_vocab()
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == settings["added_tokens_decoder"]["3"]["content"] == "w3"


@pytest.mark.parametrize("listed", [True, False])
def test_a_token_that_only_the_settings_know_keeps_its_id(tmp_path, listed):
    """The mask takes the next one, also in what is written."""
    write(tmp_path / "in", LLAMA[True])
    entries = {"added_tokens_decoder": {"40": {"content": "<pad>", "special": True}}}
    roles = {"pad_token": "<pad>", "image_token": "<image>"}
    text = json.dumps(roles | (entries if listed else {}))
    (tmp_path / "in" / "tokenizer_config.json").write_text(text)
    config = dataclasses.replace(LLAMA[True], vocab_size=48)
    folders.write(tmp_path / "in", config)
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}", "--a2d") == 0
    found = checkpoint.read_manifest(tmp_path / "out")["model"]
    assert (found["mask_id"], found["vocab_size"]) == (42, 48)
    tokenizer = tokenizers.load(tmp_path / "out", pad_id=2, mask_id=42, stop_ids=(2,))
    assert tokenizer.encode("<pad><image><|mask|>") == [40, 41, 42] and tokenizer.vocab_size == 43


@pytest.mark.parametrize(
    "token, words",
    [
        ("w1 w3", "no single token"),
        ("<|no|>", "no single token"),
        ("w1", "begins"),
        ("w2", "ends"),
        ("w5", "texts use it, it is not special"),
        ("<turn>", "the chat template writes it"),
        ("<unk>", "the chat template writes it"),
    ],
)
def test_a_token_that_cannot_be_the_mask_is_refused(tmp_path, capsys, token, words):
    write(tmp_path / "in", dataclasses.replace(LLAMA[True], vocab_size=48))
    settings = {
        "added_tokens_decoder": {},
        "bos_token": "w1",
        "unk_token": "<unk>",
        "additional_special_tokens": ["<turn>"],
        "chat_template": "<turn>{{ unk_token }}",
    }
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path / "out"
    flags = "--a2d", f"--mask_token={token}"
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={out}", *flags) == 2
    assert words in capsys.readouterr().err and not out.exists()
    with pytest.raises(SystemExit):
        run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={out}", "--mask_token=w3")


def test_the_mask_is_no_id_that_only_config_json_knows(tmp_path):
    """What pads and ends there need not be a token; the mask comes behind."""
    config = dataclasses.replace(LLAMA[True], vocab_size=43, pad_id=40, stop_ids=(2, 41))
    write(tmp_path / "in", config)
    words = hf_tokenizers.models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0")
    hf_tokenizers.Tokenizer(words).save(str(tmp_path / "in" / "tokenizer.json"))
    (tmp_path / "in" / "tokenizer_config.json").write_text("{}")
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}", "--a2d") == 0
    assert checkpoint.read_manifest(tmp_path / "out")["model"]["mask_id"] == 42
    tokenizer = tokenizers.load(tmp_path / "out", pad_id=40, mask_id=42, stop_ids=(2, 41))
    assert tokenizer.encode("<|mask|>") == [42] and tokenizer.vocab_size == 43


def test_a_tokenizer_with_gaps_in_its_ids_gets_no_other_mask(tmp_path, capsys):
    """The library counts on from the number of tokens, where another has its row."""
    write(tmp_path / "in", LLAMA[True])
    words = hf_tokenizers.models.WordLevel({"w0": 0, "w1": 1, "far": 30}, unk_token="w0")
    hf_tokenizers.Tokenizer(words).save(str(tmp_path / "in" / "tokenizer.json"))
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}", "--a2d") == 2
    said = "<|mask|> cannot be added to the tokenizer at id 31: its ids have gaps; name"
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_a_grown_matrix_are_those_of_the_whole(axis):
    rng = np.random.default_rng(axis)
    old = rng.standard_normal((5, 7)).astype(np.float32)
    lazy = mask_rows.longer(LazyArray(old.shape, old.dtype, lambda index=...: old[index]), 9, axis)
    whole = lazy.read()
    assert whole.shape == lazy.shape and whole.shape[axis] == 9
    for rows in (slice(0, 9), slice(2, 6), slice(7, 9), slice(0, 3)):
        for others in (slice(None), slice(1, 4)):
            index = (rows, others) if axis == 0 else (others, rows)
            np.testing.assert_array_equal(lazy.read(index), whole[index])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_no_sampler_commits_what_the_tokenizer_does_not_know(temperature, top_p):
    """Eight rows that would take all of the probability lie behind the tokenizer's."""
    logits = np.where(np.arange(16) < 8, 0.0, 20.0)
    config = sampling.SamplerConfig(gen_length=8, block_length=4, steps=4, top_p=top_p)
    tokens = jnp.full((4, 3), 2, jnp.int32)
    prompts = Prompts(tokens, jnp.ones((4, 3), bool), jnp.full((4,), temperature))
    rng = jax.random.split(jax.random.key(0), 4)

    def committed(size):
        rollout_fn = sampling.make_rollout_fn(constant_denoiser(logits, size), config)
        return np.asarray(rollout_fn({}, prompts, rng).tokens_BxG)

    assert committed(None).min() >= 8
    assert committed(8).max() < 8
