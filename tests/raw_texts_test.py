"""What stands before a text that is no chat, as transformers puts it there, and behind an answer
that is taught."""

import argparse
import json

import pytest
import tokenizers as hf_tokenizers
from tokenizers import processors

from gdsd_jax import gguf_tokenizer, tokenizers
from launch import generate as launch_generate

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "<|eot|>", "<pad>"]
BEGIN, END, TURN = 1, 2, 6
IDS = {"pad_id": 7, "mask_id": -1, "stop_ids": (END, 5, TURN)}
ROUND = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
)
BYTES = processors.ByteLevel(trim_offsets=False)
PROCESSORS = {  # of tokenizer.json, and whether a begin is put before a text
    "none": (None, False),
    "bytes": (BYTES, False),
    "begin": (
        processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)]),
        True,
    ),
    "begin and end": (ROUND, True),
    "as Llama 3": (processors.Sequence([BYTES, ROUND]), True),
}


def write(folder, processor=None, *, whole=True, **settings):
    """The files of a byte-level BPE of letters; `whole` as tokenizer.json."""
    model = hf_tokenizers.models.BPE({word: i for i, word in enumerate(WORDS)}, [])
    tokenizer = hf_tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf_tokenizers.decoders.ByteLevel()
    if processor is not None:
        tokenizer.post_processor = processor
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | settings
    listed = {str(i): {"content": WORDS[i], "special": True} for i in (1, 2, 6, 7)}
    roles["added_tokens_decoder"] = listed
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    if whole:
        tokenizer.add_special_tokens([WORDS[int(i)] for i in listed])
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer.model.save(str(folder))


def raw_ids(folder, text: str) -> list[int]:
    """The prompt of generate.py --raw."""
    asked = argparse.Namespace(prompt=text, raw=True, prompt_length=99, too_long="error")
    (row,) = launch_generate.read_prompts(asked, tokenizers.load(folder, **IDS))
    return row.ids


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_raw_text_begins_as_tokenizer_json_says(tmp_path, name):
    """And ends with itself: it is to be continued."""
    processor, begins = PROCESSORS[name]
    write(tmp_path, processor)
    before = [BEGIN] if begins else []
    assert raw_ids(tmp_path, "abc") == [*before, 3, 4, 5]
    assert raw_ids(tmp_path, "<s>a</s>") == [*before, BEGIN, 3, END]
    assert tokenizers.load(tmp_path, **IDS).encode("abc") == [3, 4, 5]
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in ("abc", "c", "a<|eot|>b"):
        ids = theirs(text)["input_ids"]
        is_ended = "end" in name or "Llama" in name
        assert raw_ids(tmp_path, text) == (ids[:-1] if is_ended else ids)


@pytest.mark.parametrize("adds", [True, False, None])
def test_without_tokenizer_json_the_settings_say_it(tmp_path, adds):
    settings = {} if adds is None else {"add_bos_token": adds}
    write(tmp_path, whole=False, tokenizer_class="Qwen2Tokenizer", **settings)
    assert raw_ids(tmp_path, "abc") == [*([BEGIN] if adds else []), 3, 4, 5]
    transformers = pytest.importorskip("transformers", "5")  # 4 does not read the setting
    theirs = transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    assert raw_ids(tmp_path, "ab") == theirs("ab")["input_ids"]


def test_a_setting_that_is_none_is_refused(tmp_path):
    write(tmp_path, whole=False, tokenizer_class="Qwen2Tokenizer", add_bos_token=3)
    with pytest.raises(ValueError, match="tokenizer_config.json: add_bos_token=3: give true"):
        raw_ids(tmp_path, "abc")


@pytest.mark.parametrize("adds", [True, False])
def test_a_gguf_files_begin_is_sent(tmp_path, adds):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1, 3, 3],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": adds,
    }
    for name, text in gguf_tokenizer.files_of(metadata, "model.gguf").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert raw_ids(tmp_path, "abc") == [*([BEGIN] if adds else []), 3, 4, 5]


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_taught_ends_as_the_templates_turns_do(tmp_path, whole):
    """Llama 3 Instruct's config.json lists three ids that stop, and that of its turns comes
    last."""
    write(tmp_path, whole=whole, tokenizer_class="Qwen2Tokenizer", eos_token="<|eot|>")
    tokenizer = tokenizers.load(tmp_path, **IDS)
    assert set(tokenizer.stop_ids) == set(IDS["stop_ids"])
    tokens, lengths = tokenizers.encode_completions(tokenizer, ["ab"], 5)
    assert tokens.tolist() == [[3, 4, TURN, 7, 7]] and lengths.tolist() == [3]
    # where the tokenizer's end stops no answer the first that does is taught
    for end in ("<pad>", None):
        write(tmp_path, whole=whole, tokenizer_class="Qwen2Tokenizer", eos_token=end)
        assert tokenizers.load(tmp_path, **IDS).stop_ids == IDS["stop_ids"]
