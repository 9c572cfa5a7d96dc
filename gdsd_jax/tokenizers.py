"""Text <-> token ids: sentencepiece models, and the tokenizers of Hugging Face folders with their
chat templates.

Both kinds have the same attributes and methods (`Tokenizer`). Special ids are given by the caller
or by pieces of our own models, never looked up by a model's name. N texts, P prompt columns, G
completion columns.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol
import uuid

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import sentencepiece
import tokenizers

Messages = Sequence[Mapping[str, str]]

_END, _UNKNOWN, _MASK, _ANSWER = "<|endoftext|>", "<unk>", "<|mask|>", "<|answer|>"
_SPACE = "\u2581"  # sentencepiece's spelling of a space inside a piece
# Qwen2's split into words, as published with its tokenizer (Apache 2.0); Dream uses the same.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer(Protocol):
    """What the rest of the package knows of a tokenizer.

    Attributes:
      vocab_size: one more than the largest id the tokenizer knows; a model's embedding may have
        more rows.
      pad_id: fills unused columns.
      mask_id: stands for a position not yet decided; encoded text holds it only where the text
        spells it out.
      stop_ids: any of these ends an answer; the first is the one we write ourselves.
      bos_id: begins a text, or None.
    """

    vocab_size: int
    pad_id: int
    mask_id: int
    stop_ids: tuple[int, ...]
    bos_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without special ids around it."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first stop id; padding, masks and ids without a meaning are left out."""

    def apply_chat(self, messages: Messages) -> list[int]:
        """Ids of a conversation ({"role", "content"} each) up to where the answer begins."""


class SentencePiece:
    """A sentencepiece `.model` file; see `Tokenizer`.

    Models of `train_sentencepiece` carry their special pieces. For any other the three ids must be
    given. A conversation is its contents on lines of their own, then the piece that begins the
    answer, if there is one. Any text survives encode and decode unchanged (the models of
    `train_sentencepiece` fall back to bytes).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        pad_id: int | None = None,
        mask_id: int | None = None,
        stop_ids: Sequence[int] | None = None,
    ):
        """Raises ValueError, in one line, where the file cannot be read or an id is missing."""
        try:
            model = sentencepiece.SentencePieceProcessor(model_proto=Path(path).read_bytes())
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is not a readable sentencepiece model ({_line(error)}): copy it again"
            ) from None
        ids = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
        end = ids.get(_END)
        self._model = model
        self._answer = [ids[_ANSWER]] if _ANSWER in ids else []
        self._space_bytes = [ids.get(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        self.vocab_size = len(ids)
        self.bos_id = None if model.bos_id() < 0 else model.bos_id()
        self.pad_id, self.mask_id, self.stop_ids = _special_ids(
            path,
            pad_id=end if pad_id is None else pad_id,
            mask_id=ids.get(_MASK) if mask_id is None else mask_id,
            stop_ids=(end,) if stop_ids is None and end is not None else stop_ids,
        )

    def encode(self, text: str) -> list[int]:
        if _SPACE not in text or None in self._space_bytes:
            return self._model.encode(text)
        # The character that spells a space would come back as one, so it goes in as its bytes.
        parts = [self._model.encode(part) for part in text.split(_SPACE)]
        return parts[0] + list(
            itertools.chain.from_iterable(self._space_bytes + part for part in parts[1:])
        )

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode(_meaningful(ids, self))

    def apply_chat(self, messages: Messages) -> list[int]:
        return self.encode("\n".join(message["content"] for message in messages)) + self._answer


class HuggingFace:
    """A folder with tokenizer.json, or vocab.json and merges.txt (and added_tokens.json); see
    `Tokenizer`.

    The chat template comes from chat_template.jinja or tokenizer_config.json and is rendered in a
    sandbox with the helpers that templates expect of transformers.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        pad_id: int | None,
        mask_id: int | None,
        stop_ids: Sequence[int] | None,
        template_arguments: Mapping[str, Any] | None = None,
    ):
        """`template_arguments` go to the chat template, such as {"enable_thinking": False}.

        Raises ValueError, in one line, where a file cannot be read or an id is missing.
        """
        folder = Path(folder)
        config = {**_read_json(folder / "special_tokens_map.json", missing={})}
        config |= _read_json(folder / "tokenizer_config.json", missing={})
        self._tokenizer = _read_tokenizer(folder, config)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = 1 + max(
            self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1
        )
        self.pad_id, self.mask_id, self.stop_ids = _special_ids(
            folder, pad_id=pad_id, mask_id=mask_id, stop_ids=stop_ids
        )
        names = {
            name: _content(config[name])
            for name in config
            if name.endswith("_token") and config[name]
        }
        self.bos_id = (
            self._tokenizer.token_to_id(names["bos_token"]) if "bos_token" in names else None
        )
        self._folder = folder
        self._template = _read_template(folder, config)
        self._template_arguments = names | dict(template_arguments or {})

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(_meaningful(ids, self), skip_special_tokens=True)

    def apply_chat(self, messages: Messages) -> list[int]:
        if self._template is None:
            raise ValueError(
                f"{self._folder} has no chat template: "
                "add chat_template.jinja or tokenizer_config.json"
            )
        arguments = {
            "add_generation_prompt": True,
            "tools": None,
            "documents": None,
            **self._template_arguments,
        }
        try:
            text = self._template.render(
                messages=[dict(message) for message in messages], **arguments
            )
        except jinja2.TemplateError as error:
            raise ValueError(
                f"the chat template of {self._folder} refuses the conversation: {_line(error)}"
            ) from None
        return self.encode(text)


def load(
    folder: str | os.PathLike,
    *,
    pad_id: int | None = None,
    mask_id: int | None = None,
    stop_ids: Sequence[int] | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> SentencePiece | HuggingFace:
    """The tokenizer of a folder, by the files that are there; tokenizer.json goes before
    tokenizer.model.

    Raises ValueError, in one line with the mend, where there is none or it cannot be read.
    """
    folder = Path(folder)
    ids = {"pad_id": pad_id, "mask_id": mask_id, "stop_ids": stop_ids}
    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return HuggingFace(folder, template_arguments=template_arguments, **ids)
    if (folder / "tokenizer.model").is_file():
        return SentencePiece(folder / "tokenizer.model", **ids)
    raise ValueError(
        f"no tokenizer in {folder}: "
        "add tokenizer.json, tokenizer.model or vocab.json with merges.txt"
    )


def train_sentencepiece(
    texts: Iterable[str], path: str | os.PathLike, vocab_size: int, *, symbols: Sequence[str] = ()
) -> None:
    """Trains a BPE model with byte fallback and no normalisation, and moves it to `path` when
    complete.

    `symbols` are always pieces of their own and never part of a longer one. The end-of-text piece
    is padding and stop at once; the mask and the beginning of an answer are control pieces, which
    no text encodes to. The same texts give the same model. Raises ValueError where `vocab_size`
    does not fit the texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=[symbol.replace(" ", _SPACE) for symbol in symbols],
            control_symbols=[_MASK, _ANSWER],
            pad_id=0,
            pad_piece=_END,
            unk_id=1,
            unk_piece=_UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            byte_fallback=True,
            character_coverage=1.0,
            max_sentencepiece_length=32,
            # Pieces may span spaces, so that a line of code takes few; digits stay single.
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"a vocabulary of {vocab_size} pieces does not fit the texts: {_line(error)}"
        ) from None
    partial = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}")
    partial.write_bytes(model.getvalue())
    os.replace(partial, path)


class EncodedPrompts(NamedTuple):
    """Prompts as arrays, those over the limit dropped or cut.

    Attributes:
      tokens: int32 [M, P], left-padded.
      valid: bool [M, P], False on padding.
      index: int64 [M], the place of each row among the prompts given.
      too_long: int64, the places of the prompts that were dropped or cut.
    """

    tokens: np.ndarray
    valid: np.ndarray
    index: np.ndarray
    too_long: np.ndarray


def encode_prompts(
    tokenizer: Tokenizer, prompts: Iterable[str | Messages], length: int, *, too_long: str = "error"
) -> EncodedPrompts:
    """Prompts of P = `length` columns; a string is one user turn.

    `too_long` says what becomes of a prompt over the limit: "error" raises ValueError naming the
    first, "drop" leaves it out, "cut" keeps its last `length` tokens, since the answer is asked for
    at the end.
    """
    if too_long not in ("error", "drop", "cut"):
        raise ValueError(f"too_long is {too_long!r}: use 'error', 'drop' or 'cut'")
    rows, index, over = [], [], []
    for number, prompt in enumerate(prompts):
        ids = tokenizer.apply_chat(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )
        if len(ids) > length:
            if too_long == "error":
                raise ValueError(
                    f"prompt {number} has {len(ids)} tokens, over the limit of {length}: "
                    "raise the limit"
                )
            over.append(number)
        if len(ids) <= length or too_long == "cut":
            rows.append(ids[-length:])
            index.append(number)
    tokens, valid = pad_left(rows, length, tokenizer.pad_id)
    return EncodedPrompts(tokens, valid, np.asarray(index, np.int64), np.asarray(over, np.int64))


def pad_left(
    rows: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [N, length], valid bool [N, length]) of rows of at most `length` ids each."""
    tokens = np.full((len(rows), length), pad_id, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for row, ids in enumerate(rows):
        first = length - len(ids)
        tokens[row, first:], valid[row, first:] = ids, True
    return tokens, valid


def bucket(length: int, multiple: int = 32) -> int:
    """`length` rounded up, so that batches of prompts come in few shapes, each compiled once."""
    return max(1, -(-length // multiple)) * multiple


def encode_completions(
    tokenizer: Tokenizer, texts: Iterable[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [N, length], lengths int32 [N]): each text and the first stop id, right-padded.

    A length counts the stop id. Raises ValueError naming the first text that does not fit.
    """
    rows = [tokenizer.encode(text) + [tokenizer.stop_ids[0]] for text in texts]
    tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    for number, ids in enumerate(rows):
        if len(ids) > length:
            raise ValueError(
                f"completion {number} has {len(ids)} tokens with its stop id, over "
                f"the limit of {length}: raise gen_length or leave it out"
            )
        tokens[number, : len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in rows], np.int32)


def _meaningful(ids: Iterable[int], tokenizer: Tokenizer) -> list[int]:
    ids = itertools.takewhile(lambda i: i not in tokenizer.stop_ids, map(int, ids))
    return [
        i
        for i in ids
        if i not in (tokenizer.pad_id, tokenizer.mask_id) and 0 <= i < tokenizer.vocab_size
    ]


def _special_ids(
    source: str | os.PathLike,
    *,
    pad_id: int | None,
    mask_id: int | None,
    stop_ids: Sequence[int] | None,
) -> tuple[int, int, tuple[int, ...]]:
    given = {"pad_id": pad_id, "mask_id": mask_id, "stop_ids": stop_ids}
    absent = [name for name, value in given.items() if value is None or value == ()]
    if absent:
        raise ValueError(
            f"the tokenizer of {source} needs {' and '.join(absent)}: give them explicitly"
        )
    return int(pad_id), int(mask_id), tuple(int(i) for i in stop_ids)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _read_json(path: Path, *, missing: Any = None) -> Any:
    if missing is not None and not path.is_file():
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON ({_line(error)}): copy it again") from None


def _read_tokenizer(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _byte_level_bpe(folder, config)
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{path} is not a readable tokenizer ({_line(error)}): copy it again"
        ) from None


def _byte_level_bpe(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder with Qwen2's vocab.json and merges.txt but no tokenizer.json, as
    Dream's."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        model = tokenizers.models.BPE.from_file(str(vocab), str(merges))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"{vocab} and {merges} are not readable ({_line(error)}): copy both again"
        ) from None
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_QWEN2_WORDS), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    for i, token in _added_tokens(folder, config):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != i:
            raise ValueError(
                f"{folder} wants {token.content!r} at id {i}, which is taken or leaves a gap: "
                "copy it again"
            )
    return tokenizer


def _added_tokens(
    folder: Path, config: Mapping[str, Any]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """(id, token) of what is known beside vocab.json, by id: from tokenizer_config.json, else
    added_tokens.json."""
    if "added_tokens_decoder" in config:
        entries = {int(i): entry for i, entry in config["added_tokens_decoder"].items()}
    else:  # its tokens are ordinary text but for those with a role
        roles = [config[name] for name in config if name.endswith("_token") and config[name]]
        roles = {
            _content(token) for token in [*roles, *config.get("additional_special_tokens", [])]
        }
        ids = _read_json(folder / "added_tokens.json", missing={})
        entries = {
            i: {"content": content, "special": content in roles} for content, i in ids.items()
        }
    flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
    return [
        (
            i,
            tokenizers.AddedToken(
                entry["content"], **{flag: entry.get(flag, False) for flag in flags}
            ),
        )
        for i, entry in sorted(entries.items())
    ]


def _read_template(folder: Path, config: Mapping[str, Any]) -> jinja2.Template | None:
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
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, **{"ensure_ascii": False} | how
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the chat template of {folder} does not compile: {_line(error)}"
        ) from None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
