"""The model class "gdsd_jax" of EleutherAI's lm-evaluation-harness, which must be installed.

Texts come from our samplers, log-likelihoods from the bound of likelihood.py. Importing this file
registers the class.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import math
import sys
from typing import Any, NamedTuple

import jax
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
import numpy as np

from gdsd_jax import likelihood, settings, sharding, weights
from gdsd_jax.likelihood import Likelihood, Model, Pair
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.sharding import MeshConfig
from gdsd_jax.steps import make_sampler

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


def load_model(checkpoint: str, sampler: str = "", mesh: str = "") -> Model:
    """The model of a converted folder or a workdir.

    Raises:
      ValueError: no model there, or settings that cannot work; one line.
    """
    layout = settings.section("--mesh", mesh, MeshConfig, {"data": 1, "fsdp": -1})
    devices = sharding.make_mesh(vars(layout))
    own = weights.settings_of(checkpoint).sampler
    chosen = settings.section("--sampler", sampler, SamplerConfig, own.given())
    denoiser, params, tokenizer = weights.load(checkpoint, devices)
    make_sampler(denoiser, chosen, devices)  # these two say here what cannot work
    sharding.by_vocabulary(devices, denoiser)
    return Model(denoiser, params, tokenizer, chosen, devices)


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
        (model.tokenizer.encode_spelled(context) or [likelihood.prefix_id(model.tokenizer)])[
            length - longest :
        ]
        for context, length in zip(contexts, lengths)
    ]
    sample = make_sampler(model.denoiser, model.sampler, model.mesh)
    key = jax.device_put(jax.random.key(seed), sharding.replicated(model.mesh))
    texts = [""] * len(ids)
    kinds = [(likelihood.width_of(len(row)), one.temperature) for row, one in zip(ids, asked)]
    for places in likelihood.batches_of(kinds, batch):
        rows = likelihood.filled(places, batch)
        prompts = likelihood.prompts_of(
            model,
            [ids[place] for place in rows],
            [lengths[place] for place in rows],
            rows,
            temperature=asked[places[0]].temperature,
        )
        rollout = sharding.fetch(model.mesh, sample(model.params, {}, prompts, key))
        for number, place in enumerate(places):
            tokens = rollout.tokens_BxG[number, : rollout.length_B[number]]
            texts[place] = cut_at(model.tokenizer.decode(tokens), asked[place].until)
    return texts


@register_model("gdsd_jax")
class MaskedDiffusion(LM):
    """A masked diffusion language model for the harness."""

    def __init__(
        self,
        checkpoint: str,
        sampler: str = "",
        mesh: str = "",
        draws: int = 64,
        seed: int = 0,
        batch_size: int = 8,
        max_length: int = 4096,
        greedy: bool = True,
    ):
        """Raises ValueError, in one line, where there is no model or a setting cannot work.

        Args:
          checkpoint: a folder that launch/convert.py wrote, or the workdir of a run.
          sampler: key=value,... of SamplerConfig, over the folder's own.
          mesh: key=value,... of data, fsdp, tensor.
          draws: masks of a continuation, each scored with its complement.
          seed: of masks and answers.
          batch_size: requests at once.
          max_length: tokens of a context and what follows it.
          greedy: whether log-likelihoods say if greedy decoding gives the continuation.
        """
        super().__init__()
        self.model = load_model(checkpoint, sampler, mesh)
        self.checkpoint, self.draws, self.seed = checkpoint, int(draws), int(seed)
        shards = math.prod(self.model.mesh.shape[axis] for axis in sharding.ROWS)
        self.batch = math.ceil(int(batch_size) / shards) * shards
        self.max_length, self.greedy = int(max_length), greedy

    # ------------------------------------------------------------ what the harness asks

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers of the sampler, at most its `gen_length` tokens, cut at the strings `until`."""
        if not requests:
            return []
        contexts = [request.args[0] for request in requests]
        asked = [generation_of(request.args[1], self.model.sampler.top_p) for request in requests]
        gen_length = self.model.sampler.gen_length
        most = max((one.max_length or 0) for one in asked)
        if most > gen_length:
            say(f"tasks allow {most} tokens, answers have at most gen_length={gen_length}")
        texts = answers(
            self.model,
            contexts,
            asked,
            seed=self.seed,
            batch=self.batch,
            longest=self.max_length,
        )
        for request, text in zip(requests, texts):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(the Monte-Carlo bound in nats, whether greedy decoding gives the continuation)."""
        pairs = [
            Pair(
                *likelihood.encode_pair(self.model.tokenizer, *request.args, self.max_length),
                index=request.doc_id or 0,
            )
            for request in requests
        ]
        answered = [(one.bound, one.greedy) for one in self.likelihoods(pairs, self.greedy)]
        for request, answer in zip(requests, answered):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answered

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The bound of whole texts, the sum over their windows."""
        tokenizer = self.model.tokenizer
        prefix = likelihood.prefix_id(tokenizer)
        pairs, owners = [], []
        for place, request in enumerate(requests):
            ids = tokenizer.encode(request.args[0])
            for context, part in likelihood.windows(ids, prefix, self.max_length):
                pairs.append(Pair(context, part, index=len(pairs)))
                owners.append(place)
        totals = [0.0] * len(requests)
        for owner, one in zip(owners, self.likelihoods(pairs, greedy=False)):
            totals[owner] += one.bound
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def likelihoods(self, pairs: Sequence[Pair], greedy: bool) -> list[Likelihood]:
        """Of all pairs; says how far the draws leave them open."""
        found = likelihood.likelihoods(
            self.model,
            pairs,
            draws=self.draws,
            seed=self.seed,
            batch=self.batch,
            greedy=greedy,
        )
        if found:
            errors = [one.error for one in found]
            say(
                f"{len(found)} log-likelihoods, Monte-Carlo standard error {np.mean(errors):.3f} "
                f"nats in the mean, {max(errors):.3f} at most"
            )
        return found

    # ------------------------------------------------------------ chats

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as a text; a last turn of the assistant's is a prefill and stays
        open."""
        return self.model.tokenizer.chat_text(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the harness logs; there is one template, so none can be chosen by name."""
        if isinstance(chat_template, str):
            raise ValueError(f"chat template {chat_template!r}: a folder has one, without a name")
        return "the folder's own"

    @property
    def tokenizer_name(self) -> str:
        """Tells tokenizers apart in the harness' cache of requests."""
        files = self.model.tokenizer.files()
        digest = hashlib.sha256(b"".join(files[name] for name in sorted(files)))
        return digest.hexdigest()[:16]

    def get_model_info(self) -> dict[str, Any]:
        """What the harness' results say of the model."""
        return {
            "checkpoint": str(self.checkpoint),
            "sampler": dataclasses.asdict(self.model.sampler),
            "mask_draws": self.draws,
            "seed": self.seed,
            "max_length": self.max_length,
        }


def say(line: str) -> None:
    print(line, file=sys.stderr)
