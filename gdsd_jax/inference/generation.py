"""Answers to texts by a folder's sampler, in batches of few widths, as an evaluation asks for
them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np
from tqdm import tqdm

from gdsd_jax import experience, settings, sharding, tokenizers, weights
from gdsd_jax.sampling import SamplerConfig, attention_doubts, idle_doubts
from gdsd_jax.sharding import MeshConfig
from gdsd_jax.steps import make_sampler
from gdsd_jax.tokenizers import Tokenizer
from gdsd_jax.types import Denoiser, Prompts, PyTree

MULTIPLE = 32  # columns; short texts come in multiples of it, long ones in coarser steps
LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# of ways to draw tokens that our samplers do not have: the values that change nothing
NEUTRAL = {
    "top_p": (None, 1),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1),
}


class Generation(NamedTuple):
    """What a task asks of an answer."""

    until: tuple[str, ...]  # the text ends before the first of these
    max_length: int | None  # tokens; None: the sampler's
    temperature: float


class Model(NamedTuple):
    """What scores and answers."""

    denoiser: Denoiser
    params: PyTree
    tokenizer: Tokenizer
    sampler: SamplerConfig
    mesh: jax.sharding.Mesh


def load_model(checkpoint: str, sampler: str = "", mesh: str = "") -> Model:
    """The model of a converted folder or a workdir; warns of a sampler that is not its own kind's,
    and of settings that it does not read.

    Raises:
      ValueError: no model there, or settings that cannot work; one line.
    """
    devices = mesh_of(mesh)
    own = weights.settings_of(checkpoint).sampler
    chosen = settings.section("--sampler", sampler, SamplerConfig, own.given())
    denoiser, params, tokenizer = weights.load(checkpoint, devices)
    learnt = own.kind, denoiser.config.block_length
    for doubt in attention_doubts(chosen, *learnt, "these weights") + idle_doubts(chosen):
        warnings.warn(doubt, stacklevel=2)
    make_sampler(denoiser, chosen, devices)  # these two say here what cannot work
    sharding.by_vocabulary(devices, denoiser)
    return Model(denoiser, params, tokenizer, chosen, devices)


def mesh_of(text: str) -> jax.sharding.Mesh:
    """The mesh of `key=value,...`; without them all devices hold parts of the parameters.

    Raises:
      ValueError: sizes that cannot be; one line.
    """
    layout = settings.section("--mesh", text, MeshConfig, sharding.BY_FSDP)
    return sharding.make_mesh(vars(layout))


# ---------------------------------------------------------------- what a task asks


def generation_of(given: Mapping[str, Any], top_p: float = 1.0) -> Generation:
    """The generation keys of a task: greedy unless `do_sample` is true.

    Args:
      given: the keys.
      top_p: the sampler's own.

    Raises:
      ValueError: a value that cannot work, or a way of sampling that the sampler has not; one line.
    """
    until = given.get("until") or []
    until = [until] if isinstance(until, str) else until
    lengths = [given[key] for key in LENGTH_KEYS if given.get(key) is not None]
    max_length = int(lengths[0]) if lengths else None
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_gen_toks={max_length} must be at least 1")
    if not given.get("do_sample"):
        return Generation(tuple(until), max_length, 0.0)
    asked = {key: given[key] for key, neutral in NEUTRAL.items() if given.get(key) not in neutral}
    if asked.get("top_p") == top_p:
        del asked["top_p"]
    if asked:
        told = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise ValueError(
            f"the task samples with {told}: top_p is set by --sampler=top_p=..., the others are "
            "not there; override them with --gen_kwargs"
        )
    temperature = float(given.get("temperature", 1.0))
    if not temperature >= 0:  # nan is not, either
        raise ValueError(f"temperature={temperature} must be at least 0")
    return Generation(tuple(until), max_length, temperature)


def cut_at(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings; an empty one ends nothing."""
    ends = [text.find(end) for end in until if end]
    return text[: min((place for place in ends if place >= 0), default=len(text))]


# ---------------------------------------------------------------- batches


def prefix_id(tokenizer: Tokenizer) -> int:
    """What stands before a text without a context: the id that begins texts, or one that ends
    them."""
    return tokenizer.stop_ids[0] if tokenizer.bos_id is None else tokenizer.bos_id


def width_of(length: int, multiple: int = MULTIPLE) -> int:
    """Columns for a length: at most a quarter more than needed, or up to the next multiple.

    So texts of all lengths come in few widths, each compiled once.
    """
    step = 1 << max(0, (max(length, 1) - 1).bit_length() - 3)
    return tokenizers.bucket(length, multiple * max(1, step // multiple))


def batches_of(keys: Sequence[Hashable], size: int, what: str = "") -> Iterator[list[int]]:
    """Places of at most `size` equal keys; the keys in the order of their first place.

    A terminal shows how far they are, under the name `what`.
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    found = [
        same[start : start + size]
        for same in places.values()
        for start in range(0, len(same), size)
    ]
    yield from tqdm(found, what, disable=None)


def filled(places: Sequence[int], size: int) -> list[int]:
    """The places, repeated to `size`, so that a batch that is not full needs no other program."""
    return [places[number % len(places)] for number in range(size)]


def prompts_of(
    model: Model,
    ids: Sequence[Sequence[int]],
    lengths: Sequence[int],
    index: Sequence[int],
    width: int,
    **given,
) -> Prompts:
    """Prompts on the mesh, left-padded to `width` columns, for completions of at most `lengths`
    tokens; `given` is what `experience.prompts_of` takes besides."""
    tokens_BxP, valid_BxP = tokenizers.pad_left(ids, width, model.tokenizer.pad_id)
    rows = {
        "tokens": tokens_BxP,
        "valid": valid_BxP,
        "max_length": np.asarray(lengths),
        "index": np.asarray(index),
    }
    return experience.prompts_of(model.mesh, rows, copies=1, **given)


# ---------------------------------------------------------------- the answers


def answers(
    model: Model, contexts: Sequence[str], asked: Sequence[Generation], *, seed, batch, longest
) -> list[str]:
    """The text of each answer, in order.

    An answer depends on the seed and its place, not on the batch. A context is cut at its front so
    that it and its answer fit `longest` tokens.
    """
    gen_length = model.sampler.gen_length
    lengths = [min(one.max_length or gen_length, gen_length) for one in asked]
    if max(lengths) >= longest:
        raise ValueError(
            f"answers of {max(lengths)} tokens leave no room for prompts within "
            f"max_length={longest}: raise it, or lower --sampler=gen_length"
        )
    ids = [
        (model.tokenizer.encode_spelled(context) or [prefix_id(model.tokenizer)])[
            length - longest :
        ]
        for context, length in zip(contexts, lengths)
    ]
    sample = make_sampler(model.denoiser, model.sampler, model.mesh)
    key = jax.device_put(jax.random.key(seed), sharding.replicated(model.mesh))
    texts = [""] * len(ids)
    kinds = [(width_of(len(row)), one.temperature) for row, one in zip(ids, asked)]
    for places in batches_of(kinds, batch, "answers"):
        rows = filled(places, batch)
        prompts = prompts_of(
            model,
            [ids[place] for place in rows],
            [lengths[place] for place in rows],
            rows,
            width=kinds[places[0]][0],
            temperature=asked[places[0]].temperature,
        )
        rollout = sharding.fetch(model.mesh, sample(model.params, {}, prompts, key))
        for number, place in enumerate(places):
            tokens = rollout.tokens_BxG[number, : rollout.length_B[number]]
            texts[place] = cut_at(model.tokenizer.decode(tokens), asked[place].until)
    return texts
