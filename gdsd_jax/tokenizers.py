"""Text <-> token ids: sentencepiece models, and Hugging Face tokenizers with chat templates.

Both kinds have the same attributes and methods (`Tokenizer`). Special ids are given by the caller
or by pieces of our own models, never looked up by a model's name. Paths are local or addresses of
an object store. N texts, M prompts that fit, P prompt columns.
"""

from collections.abc import Iterable, Mapping, Sequence
import io
import itertools
import os
from typing import Any, NamedTuple, Protocol

from etils import epath
import numpy as np
import sentencepiece
import tokenizers

from gdsd_jax import chat_templates, hf_tokenizer, paths
from gdsd_jax.mistakes import one_line

Messages = Sequence[Mapping[str, str]]

_END, _UNKNOWN, _MASK, _ANSWER = "<|endoftext|>", "<unk>", "<|mask|>", "<|answer|>"
_SPACE = "\u2581"  # sentencepiece's spelling of a space inside a piece
_LONGEST_BYTES = 4192  # sentencepiece's trainer leaves longer texts out
# What sentencepiece's trainer is told in every case.
_TRAINING = {
    "control_symbols": [_MASK, _ANSWER],
    "pad_id": 0,
    "pad_piece": _END,
    "unk_id": 1,
    "unk_piece": _UNKNOWN,
    "bos_id": -1,
    "eos_id": -1,
    "byte_fallback": True,
    "character_coverage": 1.0,
    "max_sentencepiece_length": 32,
    # Pieces may span spaces, so that a line of code takes few; digits stay single.
    "split_by_whitespace": False,
    "split_by_unicode_script": False,
    "split_by_number": False,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "num_threads": 1,
    "minloglevel": 2,
}
# Files of a Hugging Face tokenizer. The last ones are those that `load` looks for, so that a copy
# that was cut short does not look like a tokenizer without a chat template.
_FILES = (
    *("special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja"),
    *("added_tokens.json", "merges.txt", "vocab.json", "tokenizer.json"),
)


class Tokenizer(Protocol):
    """What the rest of the package knows of a tokenizer.

    Attributes:
      vocab_size: one more than the largest id the tokenizer knows; a model's embedding may have
        more rows.
      pad_id: fills unused columns.
      mask_id: stands for a position not yet decided; encoded text holds it only where the text
        spells it out. -1: an autoregressive model's tokenizer has none.
      stop_ids: any of these ends an answer; the first is the one we write ourselves, the
        tokenizer's own end where it is among them.
      bos_id: begins a text, or None.
    """

    vocab_size: int
    pad_id: int
    mask_id: int
    stop_ids: tuple[int, ...]
    bos_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without special ids around it."""

    def encode_raw(self, text: str) -> list[int]:
        """Like `encode`, after the special ids that the tokenizer begins a text with that is no
        chat."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first stop id; padding, masks and ids without a meaning are left out."""

    def apply_chat(self, messages: Messages) -> list[int]:
        """Ids of a conversation ({"role", "content"} each) up to where the answer goes on.

        If the last turn is the assistant's, the answer begins with its content, which is a prefill:
        it follows what asks for the answer, as it is, and the turn stays open.
        """

    def chat_text(self, messages: Messages) -> str:
        """The conversation as a text, special pieces spelled out; `encode_spelled` gives the ids of
        `apply_chat`."""

    def encode_spelled(self, text: str) -> list[int]:
        """Like `encode`, but what begins an answer may be spelled out in the text."""

    def files(self) -> dict[str, bytes]:
        """What `save` writes, by file name."""


class SentencePiece:
    """A sentencepiece `.model` file, or its bytes; see `Tokenizer`.

    Models of `train_sentencepiece` carry their special pieces. For any other the three ids must be
    given. A conversation is its contents on lines of their own, then the piece that begins the
    answer, if there is one, then the prefill, if there is one. Any text survives encode and decode
    unchanged (the models of `train_sentencepiece` fall back to bytes).
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        *,
        pad_id: int | None = None,
        mask_id: int | None = None,
        stop_ids: Sequence[int] | None = None,
    ):
        """Raises ValueError, in one line, where the file cannot be read or an id is missing."""
        source = "the model given as bytes" if isinstance(model, bytes) else model
        try:
            self._bytes = model if isinstance(model, bytes) else epath.Path(model).read_bytes()
            self._model = sentencepiece.SentencePieceProcessor(model_proto=self._bytes)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{source} is not a readable sentencepiece model ({one_line(error)}): copy it again"
            ) from None
        ids = {self._model.id_to_piece(i): i for i in range(self._model.get_piece_size())}
        end = ids.get(_END)
        self._answer = [ids[_ANSWER]] if _ANSWER in ids else []
        self._space_bytes = [ids.get(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        self.vocab_size = len(ids)
        self.bos_id = None if self._model.bos_id() < 0 else self._model.bos_id()
        self.pad_id, self.mask_id, self.stop_ids = _special_ids(
            source,
            pad_id=end if pad_id is None else pad_id,
            mask_id=ids.get(_MASK) if mask_id is None else mask_id,
            stop_ids=(end,) if stop_ids is None and end is not None else stop_ids,
        )

    def encode(self, text: str) -> list[int]:
        if _SPACE not in text or None in self._space_bytes:
            return self._model.encode(text)
        # The character that spells a space would come back as one, so it goes in as its bytes.
        first, *others = [self._model.encode(part) for part in text.split(_SPACE)]
        return first + [i for part in others for i in (*self._space_bytes, *part)]

    def encode_raw(self, text: str) -> list[int]:
        return self.encode(text)  # a model file does not say whether texts begin with a special id

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode(_meaningful(ids, self))

    def apply_chat(self, messages: Messages) -> list[int]:
        turns, prefill = _split_prefill(messages)
        text = "\n".join(turn["content"] for turn in turns)
        return self.encode(text) + self._answer + self.encode(prefill)

    def chat_text(self, messages: Messages) -> str:
        turns, prefill = _split_prefill(messages)
        text = "\n".join(turn["content"] for turn in turns)
        return text + (_ANSWER if self._answer else "") + prefill

    def encode_spelled(self, text: str) -> list[int]:
        if not self._answer:
            return self.encode(text)
        first, *others = [self.encode(part) for part in text.split(_ANSWER)]
        return first + [i for part in others for i in (*self._answer, *part)]

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._bytes}


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
        folder = epath.Path(folder)
        config = hf_tokenizer.read_settings(folder)
        self._tokenizer = hf_tokenizer.read_tokenizer(folder, config)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = 1 + max(ids, default=-1)
        self.pad_id, self.mask_id, self.stop_ids = _special_ids(
            folder, pad_id=pad_id, mask_id=mask_id, stop_ids=stop_ids
        )
        names = hf_tokenizer.special_tokens(config)
        self.bos_id, end = (
            self._tokenizer.token_to_id(names[role]) if role in names else None
            for role in ("bos_token", "eos_token")
        )
        if end in self.stop_ids:  # the one that ends turns in the chat template
            self.stop_ids = (end, *(i for i in self.stop_ids if i != end))
        self._folder = folder
        self._template = chat_templates.read(folder, config)
        self._template_arguments = names | dict(template_arguments or {})

    def encode(self, text: str) -> list[int]:
        return self._encoding(text, with_special=False).ids

    def encode_raw(self, text: str) -> list[int]:
        encoding = self._encoding(text, with_special=True)
        # what stands around a text belongs to no sequence; behind it that would be an end
        places = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
        return encoding.ids[: places[-1] + 1] if places else []

    def _encoding(self, text: str, *, with_special: bool) -> tokenizers.Encoding:
        """What the library makes of a text, by the post-processor or without."""
        try:
            return self._tokenizer.encode(text, add_special_tokens=with_special)
        except Exception as error:  # the library raises no narrower class
            raise ValueError(
                f"the tokenizer of {self._folder} cannot read {text[:40]!r} ({one_line(error)})"
            ) from None

    def id_of(self, token: str) -> int | None:
        """The id of a token by its spelling, None where there is no such token."""
        return self._tokenizer.token_to_id(token)

    def is_special(self, i: int) -> bool:
        """Whether an id stands for a special token, which no ordinary text spells."""
        token = self._tokenizer.get_added_tokens_decoder().get(i)
        return token is not None and token.special

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(_meaningful(ids, self), skip_special_tokens=True)

    def apply_chat(self, messages: Messages) -> list[int]:
        return self.encode(self.chat_text(messages))

    def encode_spelled(self, text: str) -> list[int]:
        return self.encode(text)

    def chat_text(self, messages: Messages) -> str:
        if self._template is None:
            raise ValueError(
                f"{self._folder} has no chat template: "
                "add chat_template.jinja or tokenizer_config.json"
            )
        turns, prefill = _split_prefill(messages)
        arguments = {"add_generation_prompt": True, "tools": None, "documents": None}
        arguments |= self._template_arguments
        try:
            text = chat_templates.render(self._template, turns, arguments)
        except ValueError as error:
            raise ValueError(
                f"the chat template of {self._folder} refuses the conversation: {error}"
            ) from None
        return text + prefill

    def files(self) -> dict[str, bytes]:
        present = [name for name in _FILES if (self._folder / name).is_file()]
        return {name: (self._folder / name).read_bytes() for name in present}


def load(
    folder: str | os.PathLike,
    *,
    pad_id: int | None = None,
    mask_id: int | None = None,
    stop_ids: Sequence[int] | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> SentencePiece | HuggingFace:
    """The tokenizer of a folder, by the files that are there: tokenizer.json before
    tokenizer.model.

    Raises ValueError, in one line with the mend, where there is none or it cannot be read.
    """
    folder = epath.Path(folder)
    ids = {"pad_id": pad_id, "mask_id": mask_id, "stop_ids": stop_ids}
    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return HuggingFace(folder, template_arguments=template_arguments, **ids)
    if (folder / "tokenizer.model").is_file():
        return SentencePiece(folder / "tokenizer.model", **ids)
    raise ValueError(
        f"no tokenizer in {folder}: "
        "add tokenizer.json, tokenizer.model or vocab.json with merges.txt"
    )


def save(tokenizer: Tokenizer, folder: str | os.PathLike) -> None:
    """Writes the files from which `load` makes the same tokenizer. Ids that were given to `load`
    are not in them."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tokenizer.files().items():
        paths.write_whole(folder / name, data)


def train_sentencepiece(
    texts: Iterable[str], path: str | os.PathLike, vocab_size: int, *, symbols: Sequence[str] = ()
) -> None:
    """Writes the model of `train_sentencepiece_model` to `path`, visible when it is complete."""
    paths.write_whole(path, train_sentencepiece_model(texts, vocab_size, symbols))


def train_sentencepiece_model(
    texts: Iterable[str], vocab_size: int, symbols: Sequence[str] = (), *, soft: bool = False
) -> bytes:
    """A BPE model with byte fallback and no normalisation, as the bytes of a `.model` file.

    The end-of-text piece is padding and stop at once; the mask and the beginning of an answer are
    control pieces, which no text encodes to. The same texts give the same model.

    Args:
      texts: what it learns from.
      vocab_size: pieces, the special ones and the 256 bytes among them.
      symbols: always pieces of their own and never part of a longer one.
      soft: `vocab_size` is a limit, of which texts that have fewer pieces use a part.

    Raises:
      ValueError: `vocab_size` is too small for the texts, or without `soft` too large.
    """
    texts = list(itertools.chain.from_iterable(map(_parts, texts)))
    choices = {"hard_vocab_limit": False} if soft else {}
    if not any(" " in text for text in texts):  # else a space would come back as its spelling
        choices["required_chars"] = _SPACE
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=[symbol.replace(" ", _SPACE) for symbol in symbols],
            **_TRAINING,
            **choices,
        )
    except RuntimeError as error:
        raise ValueError(
            f"a vocabulary of {vocab_size} pieces does not fit the texts: {one_line(error)}"
        ) from None
    return model.getvalue()


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
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat(prompt)
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
        tokens[row, first:] = ids
        valid[row, first:] = True
    return tokens, valid


def check_rows(tokenizer: Tokenizer, rows: int, source) -> None:
    """ValueError where a tokenizer has more ids than the model of that source has rows."""
    if tokenizer.vocab_size > rows:
        raise ValueError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} ids, the model only {rows}; copy "
            "the model's own tokenizer there"
        )


def bucket(length: int, multiple: int = 32) -> int:
    """`length` rounded up, so that batches of prompts come in few shapes, each compiled once."""
    return max(1, -(-length // multiple)) * multiple


def encode_completions(
    tokenizer: Tokenizer, texts: Iterable[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [N, length], lengths int32 [N]): each text and the first stop id, right-padded.

    A length counts the stop id. Raises ValueError naming the first text that does not fit.
    """
    return pad_completions(tokenizer, map(tokenizer.encode, texts), length)


def pad_completions(
    tokenizer: Tokenizer, encoded: Iterable[list[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """`encode_completions` of texts that are ids already, without a stop id."""
    rows = [[*ids, tokenizer.stop_ids[0]] for ids in encoded]
    tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    for number, ids in enumerate(rows):
        if len(ids) > length:
            raise ValueError(
                f"completion {number} has {len(ids)} tokens with its stop id, over the limit of "
                f"{length}: raise gen_length or leave it out"
            )
        tokens[number, : len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in rows], np.int32)


def _split_prefill(messages: Messages) -> tuple[Messages, str]:
    """(the turns before a last turn by the assistant, its content), or (all turns, "")."""
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, ""


def _meaningful(ids: Iterable[int], tokenizer: Tokenizer) -> list[int]:
    """The ids before the first stop id that stand for text."""
    ids = itertools.takewhile(lambda i: i not in tokenizer.stop_ids, map(int, ids))
    silent = (tokenizer.pad_id, tokenizer.mask_id)
    return [i for i in ids if i not in silent and 0 <= i < tokenizer.vocab_size]


def _parts(text: str) -> list[str]:
    """The text, cut where it is longer than the trainer reads."""
    if len(text.encode()) <= _LONGEST_BYTES:
        return [text]
    size = _LONGEST_BYTES // 4  # characters, of at most four bytes
    return [text[start : start + size] for start in range(0, len(text), size)]


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
