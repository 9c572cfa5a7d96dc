"""GGUF files: the weights they stand for, the config and the tokenizer, and one line for those that
cannot be read."""

import dataclasses
import functools
import json
import sys

import ml_dtypes
import numpy as np
import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import checkpoint, gguf_file, gguf_tokenizer, hf, models, tokenizers
from launch import convert
from tests import folders
from tests.reference import tiny
from tests.strings import strings

gguf = pytest.importorskip("gguf")

NAMES = {  # of the file, by Hugging Face's
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Widths of a quantised row are multiples of 32.
SIZES = dict(d_model=32, heads=4, kv_heads=2, head_dim=8, d_ff=64, vocab_size=64)
IDS = dict(mask_id=None, pad_id=2, stop_ids=(2,), rope_theta=1e5, norm_eps=1e-5)


def config_of(architecture: str, **changes):
    conventions = models.FAMILIES[architecture].CONVENTIONS[architecture]
    return tiny(**{**SIZES, **IDS, **conventions, **changes})


def interleaved(x, heads: int):
    """A head's rows 0, 1, 2, ... d/2, d/2 + 1, ... as 0, d/2, 1, d/2 + 1, ..."""
    half = len(x) // heads // 2
    order = [
        head * 2 * half + row + part * half
        for head in range(heads)
        for row in range(half)
        for part in (0, 1)
    ]
    return x[order]


def rounded(x):
    """The values that Q8_0 stores: 32 at a time, by a scale in float16 and 255 steps."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    steps = np.round(blocks / scale)
    return (steps * scale.astype(np.float16).astype(np.float32)).reshape(x.shape)


METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
}


def vocabulary(size: int) -> dict:
    """Three control tokens, letters, two merges, and what no text uses."""
    tokens = ["<unk>", "<s>", "</s>", *"abcdefgh0123456789", "\u0120", "ab", "\u0120a"]
    used = len(tokens)
    tokens += [f"[PAD{i}]" for i in range(used, size)]
    types = [3] * 3 + [1] * (used - 3) + [5] * (size - used)
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b", "\u0120 a"],
    }


def sizes_of(config) -> dict:
    """The metadata of a config, without the architecture's name."""
    return {
        "block_count": config.layers,
        "context_length": 128,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": config.rope_theta,
    }


def add(writer, key: str, value) -> None:
    """A key of the type that its value has."""
    kinds = {str: "string", bool: "bool", int: "uint32", float: "float32", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def write(path, config, tensors=None, **changes) -> dict:
    """The file of a model with random weights, and the values that it stands for by Hugging Face's
    names. Of `changes` those of None are left out."""
    architecture = config.family
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {f"{architecture}.{key}": value for key, value in sizes_of(config).items()}
    for key, value in {**sizes, **METADATA, **vocabulary(config.vocab_size), **changes}.items():
        if value is not None:
            add(writer, key, value)
    meant = {}
    for name, x in folders.random_tensors(config).items():
        stem, kind = name.rsplit(".", 1)
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else None
        stem = stem.split(".", 3)[3] if layer else stem
        here = f"{f'blk.{layer}.' if layer else ''}{NAMES[stem]}.{kind}"
        quantised = x.ndim == 2 and stem != "mlp.down_proj"
        meant[name] = rounded(x) if quantised else x
        if stem == "mlp.down_proj":
            meant[name] = x.astype(np.float16).astype(np.float32)
        heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.kv_heads}.get(stem)
        if heads and architecture == "llama":
            x = interleaved(x, heads)
        if quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(here, gguf.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(here, x.astype(np.float16) if stem == "mlp.down_proj" else x)
    for name, x in (tensors or {}).items():
        writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "architecture, tied", [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]
)
def test_a_file_is_the_folder_it_was_made_from(tmp_path, architecture, tied):
    """Its config and weights are those of a Hugging Face folder with the same values, and there the
    tokenizer's files, the template and the ids are."""
    config = config_of(architecture, tied=tied)
    meant = write(tmp_path / "model.gguf", config)
    assert run(f"--from_gguf={tmp_path / 'model.gguf'}", f"--to_orbax={tmp_path / 'out'}") == 0
    manifest = checkpoint.read_manifest(tmp_path / "out")
    assert models.config_from_json(manifest["model"]) == config
    assert manifest["dtype"] == ["float32"] and list(manifest["sha256"]) == ["model.gguf"]
    folders.write(tmp_path / "same", config, meant)
    wanted = hf.paths_of(hf.open_folder(tmp_path / "same", config))
    params = hf.paths_of(checkpoint.lazy_params(tmp_path / "out" / "params"))
    assert params.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(params[path].read(), leaf.read(), rtol=1e-6, err_msg=path)
    tokenizer = tokenizers.load(tmp_path / "out", pad_id=2, mask_id=-1, stop_ids=(2,))
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (24, 1)
    assert tokenizer.encode("ab a<s>1") == [22, 23, 1, 12]
    assert tokenizer.chat_text([{"role": "user", "content": "ab"}]) == "<s>ab"
    assert run(f"--from_orbax={tmp_path / 'out'}", f"--to_hf={tmp_path / 'hf'}") == 0
    assert models.config_from_hf(tmp_path / "hf") == config


def test_a_part_of_a_tensor_is_that_of_the_whole(tmp_path, monkeypatch):
    """Rows of queries and keys in Hugging Face's order, whatever is read at a time."""
    meant = write(tmp_path / "model.gguf", config_of("llama"))
    monkeypatch.setattr(gguf_file, "BLOCK_BYTES", 4 * 32 * 3)
    tensors = gguf_file.tensors_of(gguf_file.open_file(tmp_path / "model.gguf"))
    assert tensors.keys() == meant.keys()
    for name, lazy in tensors.items():
        for index in ((slice(3, 11), slice(5, 30)), (slice(0, 1), slice(None))):
            index = index[: len(lazy.shape)]
            np.testing.assert_allclose(lazy.read(index), meant[name][index], rtol=1e-6)


def test_every_width_of_numbers_is_read(tmp_path):
    """Of vectors too, whose data are bytes where numpy has no such numbers."""
    types = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    writer, meant = gguf.GGUFWriter(tmp_path / "x.gguf", "llama"), {}
    for code, dtype in types.items():
        for shape in ((5,), (64,), (6, 32)):
            x = np.random.default_rng(len(meant)).standard_normal(shape).astype(dtype)
            name, kind = f"{code}.{shape}", gguf.GGMLQuantizationType[code]
            data = x.view(np.uint8) if code == "BF16" else x
            writer.add_tensor(name, data, raw_dtype=kind)
            meant[name] = x.astype(np.float32)
    for write_part in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write_part}_to_file")()
    writer.close()
    for stored in gguf.GGUFReader(tmp_path / "x.gguf").tensors:
        gguf_file.check_type(gguf_file.GgufFile(tmp_path, {}, {}), stored)
        wanted, lazy = meant[stored.name], gguf_file.lazy_tensor(stored)
        assert lazy.shape == wanted.shape and lazy.read().dtype == np.float32
        np.testing.assert_array_equal(lazy.read(), wanted)
        index = (slice(2, 5),) * wanted.ndim
        np.testing.assert_array_equal(lazy.read(index), wanted[index])
        order = np.arange(len(wanted))[::-1]
        np.testing.assert_array_equal(gguf_file.lazy_tensor(stored, order).read(), wanted[::-1])


def test_a_mask_row_is_added_and_the_dtype_chosen(tmp_path):
    """--a2d takes the first row that no text uses."""
    write(tmp_path / "model.gguf", config_of("llama"))
    flags = f"--to_orbax={tmp_path / 'o'}", "--a2d", "--dtype=bfloat16"
    assert run(f"--from_gguf={tmp_path / 'model.gguf'}", *flags) == 0
    manifest = checkpoint.read_manifest(tmp_path / "o")
    assert manifest["model"]["family"] == "a2d-llama" and manifest["dtype"] == ["bfloat16"]
    assert (manifest["model"]["mask_id"], manifest["model"]["vocab_size"]) == (24, 64)


def llama3_frequencies(config, factor: float):
    """What llama.cpp's converter writes for Llama 3's scaling, one number after another."""
    found = []
    for i in range(config.head_dim // 2):
        wavelength = 2 * np.pi * config.rope_theta ** (2 * i / config.head_dim)
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192 / 1:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def test_llama3s_scaling_is_told_from_its_tensor(tmp_path):
    config = config_of("llama", head_dim=64, rope_theta=500_000.0)
    frequencies = llama3_frequencies(config, 8.0)
    assert len({*frequencies.tolist()}) > 3  # both ends and what is between
    write(tmp_path / "model.gguf", config, {"rope_freqs.weight": frequencies})
    entries = gguf_file.entries_of(gguf_file.open_file(tmp_path / "model.gguf"))
    assert models.FAMILIES["llama"].config_from_hf(entries) == dataclasses.replace(
        config, rope_scaling=(8.0, 1.0, 4.0, 8192.0)
    )
    frequencies[-3] *= 1.01
    write(tmp_path / "other.gguf", config, {"rope_freqs.weight": frequencies})
    with pytest.raises(ValueError, match="rope_freqs.weight is not Llama 3's scaling"):
        gguf_file.entries_of(gguf_file.open_file(tmp_path / "other.gguf"))


# ---------------------------------------------------------------- words

# The models' own patterns, one after another. llama.cpp writes contractions out, so that it misses
# the long s, and leaves out that Qwen2's tokenizer composes characters.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
MODERN = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS = {
    "smollm": [r"\p{N}", GPT2],
    "gpt-2": [GPT2],
    "qwen2": [MODERN % ""],
    "llama-bpe": [MODERN % "{1,3}"],
    "deepseek-coder": [
        *(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        r"\p{N}",
    ],
}


def words_of(text: str, patterns) -> list[str]:
    """The text, cut around every match of each pattern."""
    import regex

    words = [text]
    for pattern in patterns:
        parts = []
        for word in words:
            end = 0
            for match in regex.finditer(pattern, word):
                parts += [word[end : match.start()], match.group()]
                end = match.end()
            parts.append(word[end:])
        words = [part for part in parts if part]
    return words


@functools.cache
def byte_letters() -> dict[int, str]:
    """GPT-2's letter of each byte: printable ones are themselves, others come after all."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def merged(word: str, rank: dict) -> list[str]:
    """The earliest learned pair is joined, again and again."""
    pieces = [byte_letters()[byte] for byte in word.encode()]
    while True:
        pairs = [pair for pair in zip(pieces, pieces[1:]) if pair in rank]
        if not pairs:
            return pieces
        best, joined, i = min(pairs, key=rank.get), [], 0
        while i < len(pieces):
            if tuple(pieces[i : i + 2]) == best:
                joined.append("".join(best))
                i += 2
            else:
                joined.append(pieces[i])
                i += 1
        pieces = joined


@pytest.fixture(scope="module")
def learned():
    """(tokens, merges) of a byte-level vocabulary, learned over the words' borders too, so that a
    wrong split shows."""
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
    tokenizer.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False)
    alphabet = hf_tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf_tokenizers.trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(strings(300), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(pair) for pair in model["merges"]]


@pytest.mark.parametrize("pre", SPLITS)
def test_texts_are_split_as_the_name_says(tmp_path, learned, pre):
    """Against plain Python, by patterns that are written out here; added tokens stay whole."""
    import unicodedata

    pytest.importorskip("regex")  # comes with transformers
    tokens, merges = learned
    added = ["<|end|>", "<think>"]
    metadata = METADATA | {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *added],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 4],
        "tokenizer.ggml.merges": merges,
    }
    for name, text in gguf_tokenizer.files_of(metadata, "model.gguf").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer = tokenizers.load(tmp_path, pad_id=2, mask_id=-1, stop_ids=(2,))
    ids = {token: i for i, token in enumerate([*tokens, *added])}
    rank = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
    whole = gguf_tokenizer.RULES[pre].ignore_merges
    for text in [*strings(300), "a<|end|>b <think>1"]:
        wanted = []
        import regex

        for part in regex.split(r"(<\|end\|>|<think>)", text):
            if part in added:
                wanted.append(ids[part])
                continue
            part = unicodedata.normalize("NFC", part) if pre == "qwen2" else part
            for word in words_of(part, SPLITS[pre]):
                spelled = "".join(byte_letters()[byte] for byte in word.encode())
                pieces = [spelled] if whole and spelled in ids else merged(word, rank)
                wanted += [ids[piece] for piece in pieces]
        assert tokenizer.encode(text) == wanted, repr(text)


def test_an_ordinary_token_is_made_special_by_no_role(tmp_path):
    """Files of Qwens name a comma as what begins texts."""
    letters = {"tokenizer.ggml.bos_token_id": 3, "tokenizer.chat_template": None}
    write(tmp_path / "in.gguf", config_of("llama"), **letters)
    assert run(f"--from_gguf={tmp_path / 'in.gguf'}", f"--to_orbax={tmp_path / 'out'}") == 0
    tokenizer = tokenizers.load(tmp_path / "out", pad_id=2, mask_id=-1, stop_ids=(2,))
    assert tokenizer.bos_id is None
    assert tokenizer.encode("ab") == [22] and tokenizer.decode([3, 4]) == "ab"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("share", [0.0, 0.002, 0.02, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut_short_is_refused(tmp_path, capsys, share):
    write(tmp_path / "whole.gguf", config_of("llama"))
    data = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "in.gguf").write_bytes(data[: int(share * len(data))])
    refused(tmp_path, capsys, "in.gguf is not a whole GGUF file")


def refused(folder, capsys, words: str) -> None:
    """Exit code 2, one line with these words, and nothing written."""
    before = sorted(folder.iterdir())
    assert run(f"--from_gguf={folder / 'in.gguf'}", f"--to_orbax={folder / 'out'}") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], lines
    assert sorted(folder.iterdir()) == before


def test_files_that_are_none_are_refused(tmp_path, capsys):
    refused(tmp_path, capsys, "no such file; give a GGUF file")
    (tmp_path / "in.gguf").write_bytes(b"{}" * 500)
    refused(tmp_path, capsys, "is not a whole GGUF file")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.eos_token_id": None}, "tokenizer.ggml.eos_token_id is missing"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model='llama' is not supported"),
        ({"tokenizer.ggml.pre": "mine"}, "tokenizer.ggml.pre='mine': how it splits text"),
        ({"tokenizer.ggml.merges": ["a z"]}, "its tokenizer cannot be rebuilt"),
        ({"general.architecture": "gemma"}, "architecture 'gemma' is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "rope_scaling"),
        ({"llama.expert_count": 8}, "num_experts=8 is not supported"),
        ({"llama.feed_forward_length": 65}, "has shape"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"split.count": "3"}, "split.count='3': give a whole number"),
        ({"general.type": "adapter"}, "general.type='adapter' is not supported"),
        ({"tokenizer.chat_template": 5}, "tokenizer.chat_template=5 is not a text"),
        ({"tokenizer.ggml.pre": 5}, "tokenizer.ggml.pre=5 is not a text"),
        ({"llama.rope.freq_base": "x"}, "llama.rope.freq_base='x': give a finite number"),
        ({"llama.rope.scaling.factor": 4.0}, "rope_scaling={'rope_type': 'linear', 'factor': 4.0"),
        ({"llama.rope.scale_linear": 2.0}, "rope_scaling={'rope_type': 'linear', 'factor': 2.0"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count=4 is not supported, only 8"),
        ({"llama.attention.causal": False}, "attention.causal=False is not supported, only True"),
        ({"llama.attention.sliding_window": 127}, "attention.sliding_window=127 is not supported"),
        ({"llama.attention.scale": 0.5}, "attention.scale=0.5 is not supported, only 0.35"),
        ({"llama.attention.clamp_kqv": 8.0}, "attention.clamp_kqv=8.0 is not supported"),
        ({"llama.logit_scale": 0.5}, "logit_scale=0.5 is not supported, only 1"),
        ({"llama.residual_scale": 0.22}, "residual_scale=0.22 is not supported"),
        ({"llama.embedding_scale": 12.0}, "embedding_scale=12.0 is not supported"),
        ({"tokenizer.ggml.eos_token_id": ["a"]}, "eos_token_id=['a']: give an id, a whole number"),
        ({"tokenizer.ggml.eot_token_id": "x"}, "tokenizer.ggml.eot_token_id='x': give an id"),
        ({"tokenizer.ggml.bos_token_id": ["a"]}, "bos_token_id=['a']: give a whole number"),
        ({"tokenizer.ggml.unknown_token_id": 1.0}, "unknown_token_id=1.0: give a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_metadata_that_cannot_be_used_is_refused(tmp_path, capsys, changes, words):
    write(tmp_path / "in.gguf", config_of("llama"), **changes)
    refused(tmp_path, capsys, words)


def test_keys_that_change_nothing_are_read_over(tmp_path):
    """What llama.cpp's converter states of models that are computed as ever."""
    neutral = {
        "general.type": "model",
        "split.count": 1,
        "llama.rope.dimension_count": 8,
        "llama.rope.scaling.factor": 1.0,
        "llama.attention.causal": True,
        "llama.attention.sliding_window": 128,
        "llama.attention.scale": 8**-0.5,
        "llama.attention.clamp_kqv": 0.0,
        "llama.logit_scale": 1.0,
        "llama.residual_scale": 0.0,
    }
    plain = config_of("llama")
    write(tmp_path / "in.gguf", plain, **neutral)
    assert run(f"--from_gguf={tmp_path / 'in.gguf'}", f"--to_orbax={tmp_path / 'out'}") == 0
    manifest = checkpoint.read_manifest(tmp_path / "out")
    assert models.config_from_json(manifest["model"]) == plain
    scaling = {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}
    write(tmp_path / "none.gguf", plain, **scaling)
    assert gguf_file.entries_of(gguf_file.open_file(tmp_path / "none.gguf"))["rope_scaling"] is None


@pytest.mark.parametrize(
    "name, words", [("strange", "unknown strange"), ("rope_freqs.weight", "has shape [3]")]
)
def test_tensors_that_cannot_be_used_are_refused(tmp_path, capsys, name, words):
    write(tmp_path / "in.gguf", config_of("llama"), {name: np.ones(3, np.float32)})
    refused(tmp_path, capsys, words)


def test_a_file_of_other_machines_is_refused(tmp_path, capsys, monkeypatch):
    big = functools.partial(gguf.GGUFWriter, endianess=gguf.GGUFEndian.BIG)
    monkeypatch.setattr(gguf, "GGUFWriter", big)
    write(tmp_path / "in.gguf", config_of("llama"))
    refused(tmp_path, capsys, "the byte order of other machines (big-endian)")


def test_the_package_is_named_where_it_is_missing(tmp_path, capsys, monkeypatch):
    write(tmp_path / "in.gguf", config_of("llama"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(tmp_path, capsys, "to read GGUF files, `pip install gguf`")
