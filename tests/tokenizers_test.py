"""Tokenizers: text comes back unchanged, special ids stay apart, arrays are padded on the right
side."""

import json

from etils import epath
import numpy as np
import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import hf_tokenizer, tokenizers

TEXTS = [
    f"Write f(x): add {i} to x\n```python\ndef f(x):\n    return x + {i}\n```" for i in range(200)
]
ODD = [
    "",
    " x ",
    "\n\n",
    "a\tb\r\n  c",
    "\u00e9\u00e9 \u65e5\u672c \U0001f600",
    "\u2581 \u2581\u2581",
    "\x00",
    "e\u0301",
    "<|mask|><|endoftext|>",
]
TEMPLATE = """{{ bos_token }}{% for message in messages %}
    {% if message['role'] not in ('system', 'user') %}
        {{ raise_exception('no such role: ' + message['role']) }}
    {% endif %}
<|{{ message.role }}|>
{{ message.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{{ thinking | default('') }}{% endif %}"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("sp") / "tokenizer.model"
    tokenizers.train_sentencepiece(TEXTS, path, 320, symbols=("```python\n", "\n    ", "\n```"))
    return tokenizers.load(path.parent)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder with a byte-level BPE and a chat template."""
    path = tmp_path_factory.mktemp("hf")
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
    tokenizer.normalizer = hf_tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = hf_tokenizers.pre_tokenizers.Sequence(
        [
            hf_tokenizers.pre_tokenizers.Split(
                hf_tokenizers.Regex(hf_tokenizer.QWEN2_WORDS), behavior="isolated"
            ),
            hf_tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = hf_tokenizers.decoders.ByteLevel()
    trainer = hf_tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=hf_tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    size = tokenizer.get_vocab_size()
    special = ["<|endoftext|>", "<|mask|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]
    tokenizer.model.save(str(path))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path / "tokenizer.json"))
    added = {str(size + i): {"content": token, "special": True} for i, token in enumerate(special)}
    config = {
        "bos_token": {"content": "<|endoftext|>"},
        "chat_template": TEMPLATE,
        "added_tokens_decoder": added,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path, {"pad_id": size, "mask_id": size + 1, "stop_ids": (size, size + 2)}


def test_sentencepiece_text_comes_back(small):
    for text in TEXTS[:5] + ODD:
        ids = small.encode(text)
        assert small.decode(ids) == text
        assert all(0 <= i < small.vocab_size for i in ids)
        assert not {small.pad_id, small.mask_id, *small.stop_ids} & set(ids)


def test_sentencepiece_special_ids(small):
    assert small.stop_ids == (small.pad_id,) and small.bos_id is None
    assert (
        len({small.pad_id, small.mask_id}) == 2
        and max(small.pad_id, small.mask_id) < small.vocab_size
    )
    assert len(small.encode("```python\n")) == len(small.encode("\n    ")) == 1
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add 1."}]
    ids = small.apply_chat(chat)
    assert ids[:-1] == small.encode("Be brief.\nAdd 1.") and ids[-1] not in small.encode(
        "<|answer|>"
    )


def test_decode_ends_at_a_stop_and_skips_what_is_no_text(small):
    ids = small.encode("add 1")
    stop = small.stop_ids[0]
    assert small.decode(np.asarray([small.mask_id, *ids, stop, *ids])) == "add 1"
    assert small.decode([ids[0], -1, 10**6, small.mask_id, *ids[1:]]) == "add 1"


def test_sentencepiece_training_is_deterministic_and_atomic(small, tmp_path):
    for name in "ab":
        tokenizers.train_sentencepiece(TEXTS, tmp_path / name, 320)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="100000"):
        tokenizers.train_sentencepiece(TEXTS, tmp_path / "c", 100000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("only_merges", [False, True])
def test_hugging_face_folder(folder, tmp_path, only_merges):
    path, special = folder
    if only_merges:  # as Dream's folder, which has no tokenizer.json
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (tmp_path / name).write_text((path / name).read_text())
    tokenizer = tokenizers.load(
        tmp_path if only_merges else path, **special, template_arguments={"thinking": "hm"}
    )
    assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.stop_ids) == tuple(special.values())
    assert tokenizer.bos_id == special["pad_id"]
    for text in [*TEXTS[:3], " x ", "\n\n a", "\u65e5\u672c"]:
        assert tokenizer.decode([*tokenizer.encode(text), special["pad_id"], 5]) == text
    assert tokenizer.decode([10**6, -1, *tokenizer.encode("x"), special["mask_id"]]) == "x"
    ids = tokenizer.apply_chat([{"role": "user", "content": " add 1 \n"}])
    # Blocks are trimmed, so the lines that hold only template tags leave nothing behind.
    expected = "<|endoftext|><|user|>\nadd 1<|end|>\n<|assistant|>hm"
    assert (
        ids == hf_tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")).encode(expected).ids
    )
    with pytest.raises(ValueError, match="no such role: tool"):
        tokenizer.apply_chat([{"role": "tool", "content": ""}])


def test_chat_template_of_its_own_file_and_none(folder, tmp_path):
    path, special = folder
    (tmp_path / "tokenizer.json").write_text((path / "tokenizer.json").read_text())
    tokenizer = tokenizers.load(tmp_path, **special)
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.apply_chat([{"role": "user", "content": "x"}])
    (tmp_path / "chat_template.jinja").write_text("<|user|>{{ messages[0]['content'] }}")
    chat = tokenizers.load(tmp_path, **special).apply_chat([{"role": "user", "content": "x"}])
    assert chat == [special["pad_id"] + 3, *tokenizer.encode("x")]


def test_added_tokens_keep_their_ids(folder, tmp_path):
    """A model's ids are fixed: a list that cannot be had is refused, and an id beyond a gap is not
    lost in decode."""
    path, special = folder
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    size = special["pad_id"]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": size, "<b>": size + 1}))
    tokenizer = tokenizers.load(tmp_path, **special)
    assert tokenizer.encode("<b>x<a>")[::2] == [size + 1, size] and tokenizer.vocab_size == size + 2
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": size, "<b>": size + 2}))
    with pytest.raises(ValueError, match=f"'<b>' at id {size + 2}"):
        tokenizers.load(tmp_path, **special)
    words = {**json.loads((path / "vocab.json").read_text()), "<far>": 5000}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "added_tokens.json").unlink()
    gap = tokenizers.load(tmp_path, **special)
    assert gap.vocab_size == 5001 and gap.decode([5000, 4000]) == "<far>"


def test_only_qwen2s_vocabulary_is_read_without_its_rules(folder, tmp_path):
    """vocab.json and merges.txt do not say how words are split."""
    path, special = folder
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    wanted = tokenizers.load(tmp_path, **special).encode("a 12")
    for cls in ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls}))
        assert tokenizers.load(tmp_path, **special).encode("a 12") == wanted
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(ValueError, match="tokenizer_class='GPT2Tokenizer' .* add tokenizer.json"):
        tokenizers.load(tmp_path, **special)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type='llama' .* add tokenizer.json"):
        tokenizers.load(tmp_path, **special)


def test_templates_run_in_a_sandbox(folder, tmp_path):
    path, special = folder
    (tmp_path / "tokenizer.json").write_text((path / "tokenizer.json").read_text())
    (tmp_path / "chat_template.jinja").write_text(
        "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    )
    with pytest.raises(ValueError, match="refuses"):
        tokenizers.load(tmp_path, **special).apply_chat([{"role": "user", "content": "x"}])


def test_what_cannot_be_loaded_is_named_in_one_line(folder, tmp_path):
    def message(**ids):
        with pytest.raises(ValueError) as error:
            tokenizers.load(tmp_path, **ids)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"no tokenizer in {tmp_path}" in message()
    (tmp_path / "tokenizer.model").write_bytes(b"rubbish")
    assert "tokenizer.model is not a readable" in message()
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json is not a readable" in message(**folder[1])
    (tmp_path / "tokenizer.json").write_text((folder[0] / "tokenizer.json").read_text())
    assert "needs mask_id and stop_ids" in message(pad_id=0)
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json: not readable JSON" in message(**folder[1])


def test_prompts_are_padded_left(small):
    texts = ["add 1", [{"role": "user", "content": "add 1 to x"}]]
    encoded = tokenizers.encode_prompts(small, texts, 12)
    assert (
        encoded.tokens.dtype == np.int32
        and encoded.valid.dtype == bool
        and encoded.tokens.shape == (2, 12)
    )
    for row, text in enumerate(["add 1", "add 1 to x"]):
        ids = small.apply_chat([{"role": "user", "content": text}])
        assert encoded.tokens[row].tolist() == [small.pad_id] * (12 - len(ids)) + ids
        assert encoded.valid[row].tolist() == [False] * (12 - len(ids)) + [True] * len(ids)


def test_prompts_over_the_limit(small):
    texts = ["add 1", "add 12345678 to x and subtract 87654321", "x"]
    with pytest.raises(ValueError, match="prompt 1 has"):
        tokenizers.encode_prompts(small, texts, 10)
    dropped = tokenizers.encode_prompts(small, texts, 10, too_long="drop")
    assert (
        dropped.index.tolist() == [0, 2]
        and dropped.too_long.tolist() == [1]
        and len(dropped.tokens) == 2
    )
    cut = tokenizers.encode_prompts(small, texts, 10, too_long="cut")
    assert cut.index.tolist() == [0, 1, 2] and cut.too_long.tolist() == [1]
    assert cut.tokens[1].tolist() == small.apply_chat([{"role": "user", "content": texts[1]}])[-10:]
    assert tokenizers.encode_prompts(small, [], 10).tokens.shape == (0, 10)
    with pytest.raises(ValueError, match="too_long"):
        tokenizers.encode_prompts(small, texts, 10, too_long="keep")


def test_batches_of_prompts_come_in_few_widths():
    assert [tokenizers.bucket(length) for length in (0, 1, 32, 33)] == [32, 32, 32, 64]
    assert tokenizers.bucket(5, 4) == 8
    tokens, valid = tokenizers.pad_left([[3, 4], [], [5, 6, 7, 8]], 4, 9)
    assert tokens.tolist() == [[9, 9, 3, 4], [9, 9, 9, 9], [5, 6, 7, 8]]
    assert valid.tolist() == [[False, False, True, True], [False] * 4, [True] * 4]


def test_completions_end_with_a_stop_and_are_padded_right(small):
    ids = small.encode("add 1")
    tokens, lengths = tokenizers.encode_completions(small, ["add 1", ""], 10)
    assert tokens.dtype == lengths.dtype == np.int32
    assert lengths.tolist() == [len(ids) + 1, 1]
    assert tokens[0].tolist() == ids + [small.stop_ids[0]] + [small.pad_id] * (9 - len(ids))
    assert small.decode(tokens[0]) == "add 1"
    with pytest.raises(ValueError, match="completion 1 has"):
        tokenizers.encode_completions(small, ["add 1", "1234567890"], 10)


# ---------------------------------------------------------------- prefills, bytes, folders


def test_a_prefill_stays_open(small, folder):
    """It follows what asks for the answer, as it is: spaces, a special spelling, and no end of
    turn."""
    asked = [{"role": "user", "content": "add 1"}]
    path, special = folder
    theirs = tokenizers.load(path, **special)
    for text in ("", "def f", " x + 1 \n", "```python\n", "\u2581"):
        ids = small.apply_chat([*asked, {"role": "assistant", "content": text}])
        assert ids == small.apply_chat(asked) + small.encode(text)
        ids = theirs.apply_chat([*asked, {"role": "assistant", "content": text}])
        rendered = f"<|endoftext|><|user|>\nadd 1<|end|>\n<|assistant|>{text}"
        assert ids == theirs.encode(rendered)


def test_the_prefill_is_encoded_with_what_comes_before(folder):
    """One text: a word may begin in the template and end in the prefill."""
    path, special = folder
    tokenizer = tokenizers.load(path, **special, template_arguments={"thinking": " re"})
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "turn x"}]
    assert tokenizer.encode(" return x")[0] == tokenizer.apply_chat(chat)[-2]
    assert tokenizer.encode(" re") + tokenizer.encode("turn x") != tokenizer.encode(" return x")


def test_earlier_answers_are_closed_turns(small):
    """Only a last turn by the assistant is open."""
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    chat = [{"role": role, "content": content} for role, content in turns]
    (answer,) = small.apply_chat([])
    assert small.apply_chat(chat) == [*small.encode("a\nb\nc"), answer]


def test_a_model_is_bytes_or_a_file(small, tmp_path):
    data = tokenizers.train_sentencepiece_model(TEXTS, 320, ("```python\n", "\n    ", "\n```"))
    made = tokenizers.SentencePiece(data)
    assert made.encode(TEXTS[0]) == small.encode(TEXTS[0]) and made.mask_id == small.mask_id
    assert made.files() == small.files() == {"tokenizer.model": data}
    with pytest.raises(ValueError, match="the model given as bytes is not a readable"):
        tokenizers.SentencePiece(b"rubbish")


def test_a_soft_vocabulary_takes_what_the_texts_have():
    """As many pieces as there are, at most the limit; each of the bytes and special pieces is one
    of them."""
    few = [f"{i} {i}" for i in range(10)]
    with pytest.raises(ValueError, match="1000"):
        tokenizers.train_sentencepiece_model(few, 1000)
    small = tokenizers.SentencePiece(tokenizers.train_sentencepiece_model(few, 1000, soft=True))
    assert 260 < small.vocab_size < 300
    exact = tokenizers.train_sentencepiece_model(few, small.vocab_size)
    assert tokenizers.SentencePiece(exact).encode("7 7 1") == small.encode("7 7 1")
    limited = tokenizers.train_sentencepiece_model(TEXTS, 300, soft=True)
    assert tokenizers.SentencePiece(limited).vocab_size == 300
    with pytest.raises(ValueError, match="a vocabulary of 100 pieces does not fit"):
        tokenizers.train_sentencepiece_model(few, 100, soft=True)


def test_texts_without_a_space_teach_one():
    """A space that is in no text comes back as a space."""
    data = tokenizers.train_sentencepiece_model(["0123", "3210"], 300, soft=True)
    tokenizer = tokenizers.SentencePiece(data)
    for text in ("01 23", " ", " \u2581 ", "a  b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_texts_are_learned_from():
    """The trainer leaves out what is longer than 4192 bytes; it gets them in parts."""
    data = tokenizers.train_sentencepiece_model(["abc " * 3000], 300, soft=True)
    assert len(tokenizers.SentencePiece(data).encode("abc abc ")) <= 2


def test_saved_tokenizers_are_the_same(small, folder, tmp_path):
    tokenizers.save(small, tmp_path / "sp")
    assert [path.name for path in (tmp_path / "sp").iterdir()] == ["tokenizer.model"]
    assert tokenizers.load(tmp_path / "sp").encode(TEXTS[0]) == small.encode(TEXTS[0])
    path, special = folder
    (tmp_path / "hf").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "hf" / name).write_bytes((path / name).read_bytes())
    (tmp_path / "hf" / "weights.bin").write_bytes(b"")
    for source in (path, tmp_path / "hf"):
        first = tokenizers.load(source, **special)
        tokenizers.save(first, tmp_path / "again" / source.name)
        again = tokenizers.load(tmp_path / "again" / source.name, **special)
        chat = [{"role": "user", "content": TEXTS[0]}]
        assert again.apply_chat(chat) == first.apply_chat(chat)
        assert again.files() == first.files() and "weights.bin" not in first.files()


def test_settings_that_end_in_token_are_no_tokens(folder, tmp_path):
    path, special = folder
    (tmp_path / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": True, "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizers.load(tmp_path, **special)
    assert tokenizer.bos_id == special["pad_id"]
    assert tokenizer.apply_chat([{"role": "user", "content": "x"}])[0] == special["pad_id"]


def test_all_kinds_are_read_from_a_bucket(bucket, small, folder):
    path, special = folder
    tokenizers.save(small, "gs://bucket/sp")
    tokenizers.save(tokenizers.load(path, **special), "gs://bucket/fast")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        epath.Path(path / name).copy(f"gs://bucket/slow/{name}")
    (epath.Path("gs://bucket/slow") / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert tokenizers.load("gs://bucket/sp").encode(TEXTS[0]) == small.encode(TEXTS[0])
    fast, slow = (tokenizers.load(f"gs://bucket/{kind}", **special) for kind in ("fast", "slow"))
    assert fast.encode(TEXTS[0]) == slow.encode(TEXTS[0])
    assert slow.apply_chat([{"role": "user", "content": TEXTS[0]}]) == slow.encode(TEXTS[0])
    tokenizers.train_sentencepiece(TEXTS, "gs://bucket/new/tokenizer.model", 320)
    assert tokenizers.load("gs://bucket/new").vocab_size == 320
    with pytest.raises(ValueError, match="no tokenizer in gs://bucket/none"):
        tokenizers.load("gs://bucket/none")


def test_a_chat_as_a_text_gives_the_same_ids(small, folder):
    """What the harness passes on as a text, with what begins an answer spelled out."""
    path, special = folder
    user = {"role": "user", "content": TEXTS[0]}
    prefill = {"role": "assistant", "content": TEXTS[-1]}
    for tokenizer in (small, tokenizers.load(path, **special)):
        for chat in ([user], [user, prefill]):
            text = tokenizer.chat_text(chat)
            assert tokenizer.encode_spelled(text) == tokenizer.apply_chat(chat)
        assert tokenizer.encode_spelled(TEXTS[0]) == tokenizer.encode(TEXTS[0])
