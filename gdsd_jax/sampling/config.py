"""What a sampler is, apart from its weights and rows."""

import dataclasses

from gdsd_jax.mistakes import Gathered, check_choices
from gdsd_jax.sampling import orders

CACHES = {  # kind -> the caches it can have
    "llada": ("none", "prefix", "dual"),
    "dream": ("none", "prefix", "dual"),
    "block": ("none", "block"),
}
PREFIX_BLOCKS = 64  # each compiles a forward of its own


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """What changes a sampler's shapes or code.

    Temperature, threshold and the cap of length are set row by row in `Prompts`.

    Attributes:
      kind: "llada", the semi-autoregressive sampler of LLaDA (arXiv 2502.09992); "dream", that of
        Dream (arXiv 2508.15487); "block", for block-causal denoisers (arXiv 2606.06712), with
        blocks counted from the end of the prompt.
      gen_length: completion columns, tokens.
      block_length: columns of a block, a divisor of gen_length. None: the whole completion for
        "dream", whose released sampler knows no blocks, else at most 32.
      steps: denoising passes over the whole completion, at most one a token; of "dream" more,
        since steps of its time may commit nothing. The blocks share them evenly, at least
        one each; what is left over goes unused, and "block" rounds a share up. None: one a token,
        at most 256.
      remasking: of "llada" and "block", which positions are committed first: "low_confidence" (the
        surest), "random", "left_to_right", or the path of a .py file that defines ORDER.
      alg: of "dream", which positions are committed first: "entropy", "maskgit_plus",
        "topk_margin", "origin", or the path of a .py file that defines ORDER.
      alg_temp: of "dream", temperature of the choice of positions; 0 = the first of the order.
      top_p: proposals come from the smallest set of tokens that holds this probability.
      cache: "none"; "prefix" or "dual" for full attention (Fast-dLLM, arXiv 2505.22618:
        approximate between refreshes); "block" for kind "block" (exact). None: "block" for that
        kind, else "none".
      refresh_every: passes from one recomputation of a "prefix" or "dual" cache to the next. None:
        at each block's first pass alone. 1 gives the tokens of "none".
      cfg_scale: classifier-free guidance: logits become u + (1 + cfg_scale) (c - u), u without the
        prompt; 0 = off.
      compact: rows that are done leave between blocks: when at most half of the rows still run,
        the rollout goes on with half of them. The tokens are the same. It is so with eight blocks
        or more; rows are halved at most twice, and never below eight.
      stop_ids: tokens that end a completion; None = the model's own.
      reference_quirks: the released samplers' behaviour, for parity. A proposed mask token counts
        as masked, every block takes all its passes, and nothing is cut behind a stop id. "block"
        stops when all rows have stopped and takes a generated pad token for padding. Quotas are
        the batch's ("dream") or rounded half to even ("block"). The noise of "llada" ends where
        bfloat16's does.

    Raises:
      ValueError: a value that there is not or that cannot work; one line names it.
    """

    kind: str = "llada"
    gen_length: int = 256
    block_length: int | None = None
    steps: int | None = None
    remasking: str = "low_confidence"
    alg: str = "entropy"
    alg_temp: float | None = 0.0
    top_p: float | None = 1.0
    cache: str | None = None
    refresh_every: int | None = None
    cfg_scale: float = 0.0
    compact: bool = True
    stop_ids: tuple[int, ...] | None = None
    reference_quirks: bool = False

    def __post_init__(self):
        object.__setattr__(self, "_given", dict(vars(self)))
        for key, default in self.defaults().items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, default)
        wrong = Gathered()
        for check in (self.check_names, self.check_lengths, self.check_numbers):
            with wrong.check():
                check()
        wrong.end()

    def check_names(self) -> None:
        """Mistakes of what has a name."""
        wrong = Gathered()
        with wrong.check():
            check_choices(self, kind=CACHES)
        for key, names in (("remasking", orders.REMASKING), ("alg", orders.ALGS)):
            with wrong.check():
                orders.find_order(getattr(self, key), names, key)
        if self.kind in CACHES and self.cache not in CACHES[self.kind]:
            wrong.lines.append(
                f"cache={self.cache!r}: kind {self.kind!r} has {', '.join(CACHES[self.kind])}"
            )
        wrong.end()

    def check_lengths(self) -> None:
        """Mistakes of lengths and steps; of those below 1 no more is said."""
        wrong, keys = Gathered(), ("gen_length", "block_length", "steps")
        for key in keys:
            is_given = key == "gen_length" or self._given[key] is not None
            if is_given and getattr(self, key) < 1:
                wrong.lines.append(f"{key}={getattr(self, key)} must be at least 1")
        wrong.end()
        if self.steps > self.gen_length and self.kind != "dream" and not self.reference_quirks:
            wrong.lines.append(
                f"steps={self.steps}: each pass commits a token at least, so the "
                f"{self.gen_length} of gen_length take no more than {self.gen_length} steps"
            )
        if self.gen_length % self.block_length:
            own = " (the default)" if self._given["block_length"] is None else ""
            wrong.lines.append(
                f"gen_length={self.gen_length} must be a multiple of "
                f"block_length={self.block_length}{own}"
            )
        if self.cache == "prefix" and self.blocks > PREFIX_BLOCKS:
            wrong.lines.append(
                f"cache='prefix' compiles a forward for each of {self.blocks} blocks, at most "
                f"{PREFIX_BLOCKS}: take a longer block_length or cache='dual'"
            )
        wrong.end()

    def check_numbers(self) -> None:
        """Mistakes of the other numbers."""
        wrong = Gathered()
        if not 0 < self.top_p <= 1:
            wrong.lines.append(f"top_p={self.top_p} must lie in (0, 1]")
        for key in ("refresh_every", "cfg_scale", "alg_temp"):
            if getattr(self, key) < 0:
                wrong.lines.append(f"{key}={getattr(self, key)} must not be negative")
        wrong.end()

    def defaults(self) -> dict:
        """What None stands for. A refresh after 0 passes means: never inside a block."""
        return {
            "block_length": self.gen_length if self.kind == "dream" else min(32, self.gen_length),
            "steps": min(256, self.gen_length),
            "cache": "block" if self.kind == "block" else "none",
            "refresh_every": 0,
            "alg_temp": 0.0,
            "top_p": 1.0,
        }

    def given(self) -> dict:
        """The fields as they were given, so with None where it stands for a value.

        A default that follows other fields still does so in a config that is made of these.
        """
        return dict(self._given)

    @property
    def blocks(self) -> int:
        """How many blocks a completion has."""
        return self.gen_length // self.block_length

    @property
    def causal_block(self) -> int | None:
        """Tokens of a block that the denoiser attends by; None: it sees everything."""
        return self.block_length if self.kind == "block" else None

    @property
    def steps_per_block(self) -> int:
        """Denoising passes of a block."""
        if self.kind == "block":
            return -(-self.steps // self.blocks)
        return max(1, self.steps // self.blocks)

    @property
    def most_passes(self) -> int:
        """The most denoising passes that a row takes: a pass that commits nothing is left out."""
        passes = self.blocks * self.steps_per_block
        return passes if self.reference_quirks else min(passes, self.gen_length)

    @property
    def order(self) -> str:
        """Which positions are committed first: a name of `sampling.ORDERS`, or a file."""
        return self.alg if self.kind == "dream" else self.remasking

    @property
    def approximate(self) -> bool:
        """Whether a pass may see other keys and values than a full forward would give it."""
        return self.cache in ("prefix", "dual") and self.refresh_every != 1


def stop_ids_of(config: SamplerConfig, model) -> tuple[int, ...]:
    """Tokens that end a completion: the sampler's, or where it names none those of the
    `ModelConfig`."""
    return tuple(model.stop_ids if config.stop_ids is None else config.stop_ids)


def attention_doubts(
    sampler: SamplerConfig, learnt: str, block_length: int | None, whose: str
) -> list[str]:
    """A doubt where weights are sampled with another attention than they have learnt with.

    Args:
      sampler: the one that is taken.
      learnt: the kind of sampler that is the weights' own.
      block_length: tokens of a block that they have learnt with; None: not known.
      whose: the weights, in words.
    """
    by_blocks = sampler.kind == "block"
    if by_blocks != (learnt == "block"):
        had, now = ("full", "block-causal") if by_blocks else ("block-causal", "full")
        return [
            f"sampler.kind={sampler.kind} takes {now} attention, but {whose} have learnt with "
            f"{had} attention: sampler.kind={learnt} is their own"
        ]
    if by_blocks and block_length not in (None, sampler.block_length):
        return [
            f"sampler.block_length={sampler.block_length}, but {whose} have learnt with blocks of "
            f"{block_length} tokens: sampler.block_length={block_length} is their own"
        ]
    return []


def idle_doubts(sampler: SamplerConfig) -> list[str]:
    """Doubts where settings are given that a sampler of this kind or cache does not read."""
    by_dream, fields = sampler.kind == "dream", dataclasses.fields(SamplerConfig)
    by_sureness = by_dream and sampler.alg != "origin"
    given, defaults = sampler.given(), {field.name: field.default for field in fields}
    read = {
        "remasking": ("kinds llada and block", not by_dream),
        "alg": ("kind dream", by_dream),
        "alg_temp": ("kind dream with another alg than origin", by_sureness),
        "refresh_every": ("caches prefix and dual", sampler.cache in ("prefix", "dual")),
    }
    return [
        f"sampler.{name}={given[name]} changes nothing, it is of {where} alone"
        for name, (where, is_read) in read.items()
        if not is_read and given[name] != defaults[name]
    ]
