"""The model class "gdsd_jax" of EleutherAI's lm-evaluation-harness, which must be installed.

Texts come from our samplers, log-likelihoods from the bound of likelihood.py. Importing this file
registers the class.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import math
import sys
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
import numpy as np

from gdsd_jax import sharding
from gdsd_jax.inference import generation, likelihood
from gdsd_jax.inference.likelihood import Likelihood, Pair


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
        self.model = generation.load_model(checkpoint, sampler, mesh)
        self.checkpoint, self.draws, self.seed = checkpoint, int(draws), int(seed)
        shards = sharding.row_shards(self.model.mesh)
        self.batch = math.ceil(int(batch_size) / shards) * shards
        self.max_length, self.greedy = int(max_length), greedy

    # ------------------------------------------------------------ what the harness asks

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers of the sampler, at most its `gen_length` tokens, cut at the strings `until`."""
        if not requests:
            return []
        contexts = [request.args[0] for request in requests]
        asked = [
            generation.generation_of(request.args[1], self.model.sampler.top_p)
            for request in requests
        ]
        gen_length = self.model.sampler.gen_length
        most = max((one.max_length or 0) for one in asked)
        if most > gen_length:
            say(f"tasks allow {most} tokens, answers have at most gen_length={gen_length}")
        texts = generation.answers(
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
        prefix = generation.prefix_id(tokenizer)
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
