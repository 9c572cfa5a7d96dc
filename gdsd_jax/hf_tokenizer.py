"""Reads the files of a Hugging Face tokenizer: its vocabulary, its settings, its chat template."""

from collections.abc import Mapping
import datetime
import json
from typing import Any

from etils import epath
import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

# Qwen2's split into words, as published with its tokenizer (Apache 2.0); Dream uses the same.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def one_line(error: Exception) -> str:
    """An error's message as a part of a line."""
    return " ".join(str(error).split())[:200]


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file.

    Raises:
      ValueError: it is not readable JSON; one line names it.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({one_line(error)}): copy it again"
        ) from None


def read_tokenizer(folder: epath.Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder without its special ids; `config` is of tokenizer_config.json.

    Raises:
      ValueError: a file cannot be read, or the added tokens do not fit; one line names it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return byte_level_bpe(folder, config)
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{path} is not a readable tokenizer ({one_line(error)}): copy it again"
        ) from None


def read_bpe(folder: epath.Path) -> tokenizers.models.BPE:
    """The vocabulary and merges of a folder's vocab.json and merges.txt."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
        lines = [line for line in lines if line and not line.startswith("#version")]
        pairs = [tuple(line.split(" ")) for line in lines]
        return tokenizers.models.BPE(json.loads(vocab.read_text(encoding="utf-8")), pairs)
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{vocab} and {merges} are not readable ({one_line(error)}): copy both again"
        ) from None


def byte_level_bpe(folder: epath.Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder with Qwen2's vocab.json and merges.txt but no tokenizer.json, as
    Dream's."""
    tokenizer = tokenizers.Tokenizer(read_bpe(folder))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    for i, token in added_tokens(folder, config):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != i:
            raise ValueError(
                f"{folder} wants {token.content!r} at id {i}, which is taken or leaves a gap: "
                "copy it again"
            )
    return tokenizer


def added_tokens(
    folder: epath.Path, config: Mapping[str, Any]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """(id, token) of what is known beside vocab.json, by id: from tokenizer_config.json, else
    added_tokens.json."""
    if "added_tokens_decoder" in config:
        entries = {int(i): entry for i, entry in config["added_tokens_decoder"].items()}
    else:  # its tokens are ordinary text but for those with a role
        special = set(special_tokens(config).values())
        special |= {content_of(token) for token in config.get("additional_special_tokens", [])}
        ids = read_json(folder / "added_tokens.json")
        entries = {i: {"content": token, "special": token in special} for token, i in ids.items()}
    flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
    found = []
    for i, entry in sorted(entries.items()):
        chosen = {flag: entry.get(flag, False) for flag in flags}
        found.append((i, tokenizers.AddedToken(entry["content"], **chosen)))
    return found


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """{"bos_token": its spelling, ...}. Settings such as "add_bos_token" are no tokens."""
    names = [name for name in config if name.endswith("_token")]
    tokens = {name: config[name] for name in names if isinstance(config[name], str | Mapping)}
    return {name: content_of(token) for name, token in tokens.items() if token}


def content_of(token: str | Mapping[str, Any]) -> str:
    """The spelling of a token, which a config gives with or without its flags."""
    return token if isinstance(token, str) else token["content"]


def read_template(folder: epath.Path, config: Mapping[str, Any]) -> jinja2.Template | None:
    """The chat template, compiled as transformers does: trimmed blocks, loop controls,
    `raise_exception`."""
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    if source is None:
        return None
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the chat template of {folder} does not compile: {one_line(error)}"
        ) from None


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def strftime_now(form: str) -> str:
    """The present date as templates write it."""
    return datetime.datetime.now().strftime(form)


def to_json(value: Any, **settings) -> str:
    """JSON as transformers writes it into a prompt: letters as they are, no HTML escapes."""
    return json.dumps(value, **{"ensure_ascii": False} | settings)
