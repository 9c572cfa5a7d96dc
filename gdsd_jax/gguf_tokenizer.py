"""The tokenizer in a GGUF file's metadata, as the files of a Hugging Face tokenizer.

The file names the rule by which text is split into words, without giving it. The rules below are
those that the models' own tokenizer.json files have; llama.cpp lists which name means which.
"""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gdsd_jax import json_files
from gdsd_jax.hf_tokenizer import QWEN2_WORDS
from gdsd_jax.mistakes import one_line, prefixed

# what a token is, in tokenizer.ggml.token_type
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
ROLES = {  # of tokenizer_config.json -> the id's key
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
# Words as published with Llama 3, DeepSeek Coder, DeepSeek V3 and Mistral Nemo.
LLAMA3_WORDS = QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEEPSEEK_V3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Rule(NamedTuple):
    """How a text is split before its words are merged from bytes."""

    splits: tuple[str, ...] = ()  # patterns, one after another
    digits: bool = False  # whether each digit is a word
    gpt2: bool = False  # whether GPT-2's pattern comes last
    nfc: bool = False  # whether characters are composed first
    ignore_merges: bool = False  # whether a word that is a token is taken whole
    bos: bool = False  # whether a text begins with that token where the file does not say


LLAMA3 = Rule((LLAMA3_WORDS,), ignore_merges=True, bos=True)
QWEN2 = Rule((QWEN2_WORDS,), nfc=True)
DIGITS = Rule(digits=True, gpt2=True)
RULES = {  # tokenizer.ggml.pre -> rule
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "falcon3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2._replace(nfc=False),
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "gpt-2": Rule(gpt2=True),
    "tekken": Rule((TEKKEN_WORDS,), ignore_merges=True, bos=True),
    "deepseek-coder": Rule(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        digits=True,
    ),
    "deepseek-v3": Rule(
        (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK_V3_WORDS)
    ),
}


def files_of(metadata: Mapping[str, Any], source) -> dict[str, str]:
    """{file name: its text} of the tokenizer.

    Args:
      metadata: the file's, by key.
      source: the file, for errors.

    Raises:
      ValueError: metadata is missing, or names a tokenizer that cannot be rebuilt; one line.
    """
    rule = rule_of(metadata, source)
    tokens = required(metadata, "tokenizer.ggml.tokens", source, list)
    required(metadata, "tokenizer.ggml.merges", source, list)
    types = metadata.get("tokenizer.ggml.token_type")
    types = dict(enumerate(types if isinstance(types, list) else ()))
    with prefixed(f"{source}: ", "; download it again"):
        ids = {
            role: json_files.entry(metadata, key, "whole number", -1) for role, key in ROLES.items()
        }
    roles = {  # a token with a role is a special one, which a comma that begins no text is not
        role: tokens[i]
        for role, i in ids.items()
        if i in range(len(tokens)) and types.get(i) != NORMAL
    }
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", rule.bos)) and "bos_token" in roles
    try:
        tokenizer = byte_level_bpe(metadata, rule)
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{source}: its tokenizer cannot be rebuilt ({one_line(error)})") from None
    if add_bos:
        bos = roles["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, ids["bos_token"])],
        )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False),
    }
    if "tokenizer.chat_template" in metadata:
        template = required(metadata, "tokenizer.chat_template", source, str)
        files["chat_template.jinja"] = template
    return files


def rule_of(metadata: Mapping[str, Any], source) -> Rule:
    """How texts are split; ValueError where that is not known here."""
    kind = required(metadata, "tokenizer.ggml.model", source)
    if kind != "gpt2":
        raise ValueError(
            f"{source}: tokenizer.ggml.model={kind!r} is not supported, only 'gpt2' (byte-level "
            "BPE): convert the Hugging Face folder of this model instead"
        )
    name = required(metadata, "tokenizer.ggml.pre", source, str)
    if name not in RULES:
        raise ValueError(
            f"{source}: tokenizer.ggml.pre={name!r}: how it splits text is not known here, known: "
            f"{', '.join(RULES)}"
        )
    return RULES[name]


def required(metadata: Mapping[str, Any], key: str, source, kind: type = object) -> Any:
    """The value of a key; ValueError where it is missing or not of the kind."""
    if key not in metadata:
        raise ValueError(f"{source}: {key} is missing in its metadata")
    value = metadata[key]
    if not isinstance(value, kind):
        wanted = {str: "a text", list: "a list"}[kind]
        raise ValueError(f"{source}: {key}={value!r:.60} is not {wanted}: download it again")
    return value


def byte_level_bpe(metadata: Mapping[str, Any], rule: Rule) -> tokenizers.Tokenizer:
    """The tokenizer; control and user-defined tokens are found whole in a text, as ids stand.

    Rows that no text uses are left out, so that they stay free.
    """
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, types)) if kind != UNUSED}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, pairs, ignore_merges=rule.ignore_merges)
    )
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        for pattern in rule.splits
    ]
    if rule.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.gpt2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if rule.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for kind, add in (
        (CONTROL, tokenizer.add_special_tokens),
        (USER_DEFINED, tokenizer.add_tokens),
    ):
        special = kind == CONTROL
        add(
            [
                tokenizers.AddedToken(token, special=special, normalized=False)
                for token, found in zip(tokens, types)
                if found == kind
            ]
        )
    return tokenizer
