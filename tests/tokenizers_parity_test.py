"""Tokenizers of Hugging Face folders against transformers' own classes, and against a plain-Python
byte-level BPE.

The vocabulary is small and learned here, so all parties read the same files. Everything is compared
exactly.
"""

import functools
import json
import random
import unicodedata

import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import hf_tokenizer, tokenizers
from tests.strings import CHATML_SPECIAL, LLADA_SPECIAL, ORDINARY, strings

regex = pytest.importorskip("regex")  # comes with transformers
transformers = pytest.importorskip("transformers")

VOCAB = 1200  # before the special tokens
# Templates that behave as the families' own.
LLADA_TEMPLATE = (
    "{% for turn in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' }}"
    "{{ turn['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
DREAM_TEMPLATE = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
    {{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN3_TEMPLATE = """{%- set last = namespace(user=-1) %}
{%- for turn in messages %}
    {%- if turn.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
    {%- if turn.role not in ('system', 'user', 'assistant') %}
        {{- raise_exception('a turn of ' ~ turn.role | tojson) }}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set text = turn.content %}
    {%- if turn.role == 'assistant' and '</think>' in text and loop.index0 < last.user %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + turn.role + '\\n' + text + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if tools %}
    {{- tools | tojson(indent=1) }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TEXTS = strings(700)
CONVERSATIONS = [
    [("user", "Write f(x).")],
    [("user", "  \n padded \t ")],
    [("system", "Be brief."), ("user", "\u00e9e\u0301 \U0001f600")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c <|im_end|> d")],
    [
        ("system", ""),
        ("user", "{{ messages }} {% raw %} <|mask|>"),
        ("assistant", "x"),
        ("user", '"q" & <b>'),
    ],
]


def turns(conversation):
    return [{"role": role, "content": content} for role, content in conversation]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """Folder with vocab.json and merges.txt, learned from ordinary strings."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
    tokenizer.normalizer = hf_tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = hf_tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB,
        initial_alphabet=hf_tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(strings(400, ("code", "words", "emoji", "marks")) * 2, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    tokenizer.model.save(str(folder))
    return folder


def ids_of(special):
    return {token: VOCAB + i for i, token in enumerate([*special, *ORDINARY])}


def write_config(folder, special, template, cls, *, listed=True):
    """tokenizer_config.json with the added tokens in it, or added_tokens.json and
    special_tokens_map.json beside it."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    ids = ids_of(special)
    config = {
        "tokenizer_class": cls,
        "chat_template": template,
        "bos_token": special[0] if "startof" in special[0] else None,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": special,
        "add_prefix_space": False,
    }
    if listed:
        config["added_tokens_decoder"] = {
            str(i): {"content": token, "special": token in special, **flags}
            for token, i in ids.items()
        }
    else:
        (folder / "added_tokens.json").write_text(json.dumps(ids))
        roles = {
            key: config.pop(key) for key in ("eos_token", "pad_token", "additional_special_tokens")
        }
        (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def as_fast(bpe, folder, special):
    """tokenizer.json of the same vocabulary, with the words split as Qwen2 does and special tokens
    put around a text."""
    tokenizer = hf_tokenizers.Tokenizer(
        hf_tokenizers.models.BPE.from_file(str(bpe / "vocab.json"), str(bpe / "merges.txt"))
    )
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
    tokenizer.add_special_tokens(
        [hf_tokenizers.AddedToken(token, normalized=False) for token in special]
    )
    tokenizer.add_tokens([hf_tokenizers.AddedToken(token, normalized=False) for token in ORDINARY])
    tokenizer.post_processor = hf_tokenizers.processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], VOCAB)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


# special tokens, template, class in transformers, tokenizer.json?, where added tokens are listed
FAMILIES = {
    "llada": (LLADA_SPECIAL, LLADA_TEMPLATE, "PreTrainedTokenizerFast", True, True),
    "qwen3": (CHATML_SPECIAL, QWEN3_TEMPLATE, "Qwen2Tokenizer", True, True),
    "dream": (CHATML_SPECIAL, DREAM_TEMPLATE, "Qwen2Tokenizer", False, True),
    "dream-added-tokens": (CHATML_SPECIAL, DREAM_TEMPLATE, "Qwen2Tokenizer", False, False),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, bpe, tmp_path_factory):
    """(name, our tokenizer, {name: theirs}) of a family's folder."""
    special, template, cls, fast, listed = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write_config(folder, special, template, cls, listed=listed)
    if fast:
        as_fast(bpe, folder, special)
    if not fast or request.param == "qwen3":
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((bpe / name).read_bytes())
    ids = ids_of(special)
    ours = tokenizers.load(
        folder,
        pad_id=ids["<|endoftext|>"],
        mask_id=ids[next(token for token in special if "mask" in token)],
        stop_ids=(
            ids["<|endoftext|>"],
            ids[special[2] if cls != "PreTrainedTokenizerFast" else "<|eot_id|>"],
        ),
    )
    # transformers 5 has one class where 4 has a slow one, in Python, and a fast one.
    classes = ["PreTrainedTokenizerFast"] if fast else ["Qwen2Tokenizer"]
    classes += ["Qwen2TokenizerFast"] * (request.param != "llada")
    theirs = {name: getattr(transformers, name).from_pretrained(folder) for name in classes}
    return request.param, ours, theirs


def test_encode_and_decode_agree_with_transformers(pair):
    _, ours, theirs = pair
    assert len(TEXTS) >= 500
    end = {*ours.stop_ids, ours.pad_id, ours.mask_id}
    for name, tokenizer in theirs.items():
        for text in TEXTS:
            ids = ours.encode(text)
            assert ids == tokenizer.encode(text, add_special_tokens=False), (name, text)
            ids = [i for i in ids if i not in end]
            assert ours.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True), (name, text)


def test_decode_agrees_on_ids_that_spell_no_text(pair):
    """Broken UTF-8, special tokens in the middle, ids that nobody has."""
    _, ours, theirs = pair
    rng = random.Random(1)
    end = {*ours.stop_ids, ours.pad_id, ours.mask_id}
    for _ in range(300):
        ids = [
            i
            for i in (rng.randrange(ours.vocab_size) for _ in range(rng.randint(1, 30)))
            if i not in end
        ]
        for name, tokenizer in theirs.items():
            assert ours.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True), (name, ids)
        unknown = [i for pair in zip(ids, [ours.vocab_size, 152_063, -1] * 10) for i in pair]
        assert ours.decode(unknown) == ours.decode(ids)


def test_chats_agree_with_transformers(pair):
    _, ours, theirs = pair
    for conversation in map(turns, CONVERSATIONS):
        ids = ours.apply_chat(conversation)
        for name, tokenizer in theirs.items():
            text = tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
            assert ids == tokenizer.encode(text, add_special_tokens=False), (name, conversation)
            direct = tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
            assert ids == (direct if isinstance(direct, list) else direct["input_ids"]), (
                name,
                conversation,
            )


PREFILLS = ["def f(x):\n    return", "b <think>", "\u00e9e\u0301 \U0001f600", "1"]


def test_prefills_agree_with_transformers(pair):
    """Its `continue_final_message` renders the last turn and cuts its end off. It agrees where a
    template writes before an answer what it writes before a turn by the assistant, and where the
    content has no space around it."""
    _, ours, theirs = pair
    for conversation in CONVERSATIONS:
        for prefill in PREFILLS:
            chat = turns([*conversation, ("assistant", prefill)])
            ids = ours.apply_chat(chat)
            assert ids != ours.apply_chat(chat[:-1])
            for name, tokenizer in theirs.items():
                text = tokenizer.apply_chat_template(
                    chat, continue_final_message=True, tokenize=False
                )
                assert ids == tokenizer.encode(text, add_special_tokens=False), (name, chat)


def test_prefills_keep_what_templates_change(pair):
    """Spaces that LLaDA's template trims, and a thought that Qwen3's template would drop."""
    _, ours, theirs = pair
    tokenizer = next(iter(theirs.values()))
    for prefill in (" x ", "\n\n", "<think>\nhm\n</think>\n\nb"):
        for conversation in CONVERSATIONS:
            asked = tokenizer.apply_chat_template(
                turns(conversation), add_generation_prompt=True, tokenize=False
            )
            ids = ours.apply_chat(turns([*conversation, ("assistant", prefill)]))
            assert ids == ours.encode(asked + prefill)


def test_family_quirks(pair, bpe):
    """LLaDA's header comes uncalled; thinking is switched by the template's argument."""
    family, ours, theirs = pair
    tokenizer, ask = next(iter(theirs.values())), turns(CONVERSATIONS[0])
    if family == "llada":
        uncalled = tokenizer.apply_chat_template(ask, add_generation_prompt=False, tokenize=False)
        assert uncalled.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert (
            ours.apply_chat(ask) == ours.encode(uncalled) and ours.apply_chat(ask)[0] == ours.bos_id
        )
    if family == "qwen3":
        for thinking in (True, False):
            switched = tokenizers.load(
                ours._folder,
                pad_id=ours.pad_id,
                mask_id=ours.mask_id,
                stop_ids=ours.stop_ids,
                template_arguments={"enable_thinking": thinking},
            )
            text = tokenizer.apply_chat_template(
                ask, add_generation_prompt=True, tokenize=False, enable_thinking=thinking
            )
            assert text.endswith("</think>\n\n") != thinking
            assert switched.apply_chat(ask) == ours.encode(text)
        with pytest.raises(ValueError, match="tool"):
            ours.apply_chat([{"role": "tool", "content": "x"}])


def plain_bpe(folder):
    """`encode(text)` without special tokens: NFC, words, bytes as letters, then the earliest merge
    until none is left."""
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    ranks = {
        tuple(line.split(" ")): rank
        for rank, line in enumerate(lines)
        if line and not line.startswith("#version")
    }
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(shown, map(chr, shown))) | {
        byte: chr(256 + i)
        for i, byte in enumerate(byte for byte in range(256) if byte not in shown)
    }
    words = regex.compile(hf_tokenizer.QWEN2_WORDS)

    @functools.cache
    def spell(word):
        parts = [letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, place = min(
                (ranks.get(two, 10**9), i) for i, two in enumerate(zip(parts, parts[1:]))
            )
            if rank == 10**9:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return [vocab[part] for part in parts]

    return lambda text: [
        i for word in words.findall(unicodedata.normalize("NFC", text)) for i in spell(word)
    ]


def test_vocab_and_merges_agree_with_plain_python(bpe):
    """Another author's regular expressions, normalisation and merging: nothing of the tokenizers
    library."""
    ours, theirs = tokenizers.load(bpe, pad_id=0, mask_id=1, stop_ids=(0,)), plain_bpe(bpe)
    texts = {text for text in TEXTS if len(text) < 1000}
    assert len(texts) >= 500
    for text in texts:
        assert ours.encode(text) == theirs(text), text


# ---------------------------------------------------------------- beside tokenizer.json

BESIDE = {  # what a folder says of tokens that tokenizer.json does not know, or knows otherwise
    "roles": {"pad_token": "<pad>", "eos_token": "<end>", "mask_token": "<|mask|>"},
    "extra": {"eos_token": "<end>", "extra_special_tokens": ["<a>", "<b>"]},
    "additional": {"additional_special_tokens": ["<a>", "<end>"], "boi_token": "<image>"},
    "named": {"extra_special_tokens": {"boi_token": "<image>"}, "bos_token": "<s>"},
    "map": {
        "special_tokens_map.json": {
            "pad_token": {"content": "<pad>", "lstrip": True, "rstrip": False, "normalized": False}
        }
    },
    "ids": {"added_tokens.json": {"<a>": VOCAB + 4, "<e\u0301>": VOCAB + 5}, "eos_token": "<a>"},
    "flags": {
        "added_tokens_decoder": {
            str(VOCAB + 1): {"content": "<think>", "lstrip": True, "special": True},
            str(VOCAB + 4): {"content": "<a>", "rstrip": True, "normalized": False},
            str(VOCAB + 5): {"content": "<end>", "single_word": True, "special": False},
        },
        "eos_token": "<end>",
        "pad_token": "<pad>",
    },
}
SPOKEN = ["<s>", "<pad>", "<end>", "<a>", "<b>", "<image>", "<think>", "<e\u0301>", "<\u00e9>"]


def write_beside(bpe, folder, beside):
    """A folder whose tokenizer.json has four added tokens, and these settings."""
    as_fast(bpe, folder, ["<|endoftext|>"])
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["added_tokens"] = [
        {**token, "id": VOCAB + i, "content": text}
        for i, (token, text) in enumerate(
            zip(whole["added_tokens"] * 4, ["<|endoftext|>", "<think>", "</think>", "<|mask|>"])
        )
    ]
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    files = {name: value for name, value in beside.items() if name.endswith(".json")}
    settings = {name: value for name, value in beside.items() if name not in files}
    for name, value in (files | {"tokenizer_config.json": settings}).items():
        (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize("beside", BESIDE)
def test_tokens_that_only_the_settings_know_are_transformers(bpe, tmp_path, beside):
    write_beside(bpe, tmp_path, BESIDE[beside])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = tokenizers.load(tmp_path, pad_id=0, mask_id=-1, stop_ids=(VOCAB,))
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1 > VOCAB + 3
    for token in SPOKEN:
        for text in (f"x {token} y", f"{token}{token}", f"a{token}b "):
            ids = theirs.encode(text, add_special_tokens=False)
            assert ours.encode(text) == ids, text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_a_token_at_another_id_than_the_stated_one_is_refused(bpe, tmp_path):
    for name, i, value in (
        ("added_tokens.json", VOCAB + 5, {"<a>": VOCAB + 5}),
        ("added_tokens_decoder", VOCAB + 1, {str(VOCAB + 1): {"content": "<a>"}}),
    ):
        write_beside(bpe, tmp_path, {name: value})
        with pytest.raises(ValueError, match=f"wants '<a>' at id {i}"):
            tokenizers.load(tmp_path, pad_id=0, mask_id=-1, stop_ids=(0,))
        (tmp_path / "added_tokens.json").unlink(missing_ok=True)
