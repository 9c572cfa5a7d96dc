"""Reads the files of a Hugging Face tokenizer: its vocabulary, its settings, its added tokens."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import tokenizers

from gdsd_jax import json_files
from gdsd_jax.mistakes import one_line, prefixed

ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Qwen2's split into words, as published with its tokenizer (Apache 2.0); Dream uses the same.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file.

    Raises:
      ValueError: it is not readable JSON; one line names it.
    """
    return json_files.read_object(path) if path.is_file() else {}


def read_tokenizer(folder: epath.Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder without its special ids; `config` is of tokenizer_config.json.

    Raises:
      ValueError: a file cannot be read, or the added tokens do not fit; one line names it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return byte_level_bpe(folder, config)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{path} is not a readable tokenizer ({one_line(error)}): copy it again"
        ) from None
    add_tokens(tokenizer, folder, config)
    return tokenizer


def read_bpe(folder: epath.Path) -> tokenizers.models.BPE:
    """The vocabulary and merges of a folder's vocab.json and merges.txt."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
        lines = [line for line in lines if line and not line.startswith("#version")]
        pairs = [tuple(line.split(" ")) for line in lines]
        return tokenizers.models.BPE(json_files.parse(vocab.read_bytes()), pairs)
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{vocab} and {merges} are not readable ({one_line(error)}): copy both again"
        ) from None


def byte_level_bpe(folder: epath.Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder with Qwen2's vocab.json and merges.txt but no tokenizer.json, as
    Dream's.

    Raises:
      ValueError: files that cannot be read, or of a tokenizer that splits text otherwise.
    """
    check_words(folder, config)
    tokenizer = tokenizers.Tokenizer(read_bpe(folder))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    add_tokens(tokenizer, folder, config)
    begin = special_tokens(config).get("bos_token")
    with prefixed(f"{folder / 'tokenizer_config.json'}: "):
        has_begin = json_files.entry(config, "add_bos_token", "flag", False)
    if has_begin and begin is not None:  # tokenizer.json would say it in a post-processor
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=[begin, "$A"], special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return tokenizer


def check_words(folder: epath.Path, config: Mapping[str, Any]) -> None:
    """ValueError where a folder says that its vocab.json is of another tokenizer than Qwen2's.

    The files do not hold how words are split: the tokenizer's class says it, else the model's type.
    """
    name, known = "tokenizer_class", ("qwen2", "dream")
    said = json_files.entry(config, name, "text", None)
    if said is None:
        name, known = "model_type", ("qwen", "a2d-qwen", "dream", "sdar")
        said = json_files.entry(read_json(folder / "config.json"), name, "text", None)
    if said is not None and not said.lower().startswith(known):
        raise ValueError(
            f"{folder}: how {name}={said!r:.60} splits words is not known from vocab.json: add "
            "tokenizer.json, which transformers' AutoTokenizer writes by save_pretrained"
        )


def add_tokens(
    tokenizer: tokenizers.Tokenizer, folder: epath.Path, config: Mapping[str, Any]
) -> None:
    """Adds what the settings know beside the vocabulary, as transformers does: tokens with an id,
    then those with a role that are not among them.

    Raises:
      ValueError: a token that would get another id than the stated one; one line names it.
    """
    stated = dict(added_tokens(folder, config))
    if config.get("added_tokens_decoder") is None:  # the file's own go before added_tokens.json's
        stated |= tokenizer.get_added_tokens_decoder()
    with_role = set(special_tokens(config).values())
    for token in stated.values():
        token.special = token.special or token.content in with_role
    tokenizer.add_tokens([token for _, token in sorted(stated.items(), key=lambda one: one[0])])
    for i, token in stated.items():
        if tokenizer.token_to_id(token.content) != i:
            raise ValueError(
                f"{folder} wants {token.content!r} at id {i}, which is taken or leaves a gap: "
                "copy it again"
            )
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    others = {}
    for token in tokens_with_role(config):
        if token.content not in known:
            others.setdefault(token.content, token)
    tokenizer.add_tokens(list(others.values()))


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """The entries of tokenizer_config.json; those of special_tokens_map.json go before them where
    the former lists no added tokens, as in transformers.

    Raises:
      ValueError: a file cannot be read, or names a token by something else than a text; one line.
    """
    path = folder / "tokenizer_config.json"
    found = read_json(path)
    if found.get("added_tokens_decoder") is None:
        roles = folder / "special_tokens_map.json"
        found |= read_json(roles)
        path = roles if roles.is_file() else path
    with prefixed(f"{path}: "):
        tokens_with_role(found)
        added_tokens(folder, found)
    return found


def added_tokens(
    folder: epath.Path, config: Mapping[str, Any]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """(id, token) of what is known beside vocab.json, by id: from tokenizer_config.json, else
    added_tokens.json. ValueError for an entry that is no token."""
    listed = json_files.entry(config, "added_tokens_decoder", "object", None)
    if listed is not None:
        entries = {id_of(i): json_files.entry(listed, i, "object") for i in listed}
    else:  # its tokens are ordinary text but for those with a role
        special = set(special_tokens(config).values())
        for name in ("additional_special_tokens", "extra_special_tokens"):
            others = config.get(name)
            if not isinstance(others, Mapping):  # those have names of their own
                others = json_files.entry(config, name, "list", ())
                special |= {content_of(name, token) for token in others}
        ids = read_json(folder / "added_tokens.json")
        entries = {
            json_files.entry(ids, token, "id"): {"content": token, "special": token in special}
            for token in ids
        }
    return [(i, token_of(entry)) for i, entry in sorted(entries.items())]


def token_of(entry: Mapping[str, Any]) -> tokenizers.AddedToken:
    """The token of an entry with its flags; a special one is by default found before the text is
    normalised."""
    special = json_files.entry(entry, "special", "flag", False)
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False) | {"normalized": not special}
    chosen = {flag: json_files.entry(entry, flag, "flag", flags[flag]) for flag in flags}
    content = json_files.entry(entry, "content", "text")
    return tokenizers.AddedToken(content, special=special, **chosen)


def id_of(text: str) -> int:
    """The id that is the name of an entry."""
    if not text.isdecimal() or len(text) > 10:
        raise ValueError(f"added_tokens_decoder has the entry {text[:40]!r}: name it by an id")
    return int(text)


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """{"bos_token": its spelling, ...} of the tokens that have a role, also those of a model's own.

    A setting such as "add_bos_token" is none: it holds no spelling.
    """
    found = {name: content_of(name, token) for name, token in named_tokens(config).items()}
    return {name: text for name, text in found.items() if text is not None}


def named_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"bos_token": what the settings give for it, ...}, the roles that all models know first."""
    own = config.get("extra_special_tokens")
    own = own if isinstance(own, Mapping) else {}
    named = {name: config[name] for name in ROLES if name in config}
    others = {name: token for name, token in config.items() if name.endswith("_token")} | dict(own)
    return named | {name: token for name, token in others.items() if is_token(token)}


def tokens_with_role(config: Mapping[str, Any]) -> list[tokenizers.AddedToken]:
    """The special tokens that the settings know by a role or in a list of further ones."""
    listed = [(name, token) for name, token in named_tokens(config).items()]
    further = "extra_special_tokens"
    if isinstance(config.get(further), Mapping) or not config.get(further):
        further = "additional_special_tokens"  # transformers 4's name of the list
    listed += [(further, token) for token in json_files.entry(config, further, "list", ())]
    found = []
    for name, token in listed:
        text = content_of(name, token)
        if text:
            flags = token if isinstance(token, Mapping) else {}
            found.append(token_of({**flags, "content": text, "special": True}))
    return found


def is_token(value: Any) -> bool:
    """Whether a value spells a token, with its flags or without."""
    return isinstance(value, str) or (
        isinstance(value, Mapping) and isinstance(value.get("content"), str)
    )


def content_of(name: str, token: Any) -> str | None:
    """The spelling of a token, which a config gives with or without its flags; None for null.

    Raises:
      ValueError: it is neither; `name` tells which.
    """
    if token is None or isinstance(token, str):
        return token
    if not is_token(token):
        raise ValueError(f'{name}={token!r:.60}: give a text or {{"content": "..."}}')
    return token["content"]
