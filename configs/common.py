"""What the experiments share, and their argument: the model, then `key=value` overrides, as in
`llada,lora_rank=0`."""

import ast
import difflib
import re

import ml_collections


def machinery() -> ml_collections.ConfigDict:
    """How a run computes, whatever it learns: adapters, precision, mesh, checkpoints, sandbox."""
    config = ml_collections.ConfigDict()
    config.lora_rank = 0  # 0 = full fine-tuning
    config.lora_alpha = 0.0  # adapters are scaled by alpha / rank
    config.lora_targets = ("q", "k", "v", "o", "gate", "up", "down")
    # of data_file's problems that are held out where there is no heldout_file; 0 = none
    config.heldout_share = 0.1
    config.heldout_seed = 0
    config.enable_thinking = False  # for chat templates that know the word, such as Qwen3's
    config.dtype = "float32"  # of activations
    # None: float32 for weights that are trained, as activations for those under adapters
    config.param_dtype = None
    config.remat = "dots"  # "none", "dots" (keep matrix products) or "full" (keep layer inputs)
    # "splash" (TPU), "cudnn" (GPU, bfloat16), "xla"; auto: the first that can serve
    config.attention_kernel = "auto"
    # -1 takes what is left
    config.mesh = ml_collections.ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    # "whole" on each tensor group, "split" over fsdp too, auto: whole where half the memory holds
    # them; in both cases cast once a rollout
    config.rollout_weights = "auto"
    config.checkpoint_every = 10  # rounds
    config.keep_checkpoints = 2
    # parts of a round's completions; inner iterations take one after the other
    config.minibatches = 1
    config.answers = "student"  # whose completions are trained on; distillation has a "teacher" too
    # commit every proposal of at least this probability; None = the schedule alone
    config.threshold = None
    # gdsd_jax/curriculum.py
    config.threshold_ramp = ml_collections.ConfigDict(dict(end=None, hold=0, rounds=0, shape="cos"))
    config.length_ramp = ml_collections.ConfigDict(dict(start=None, rounds=0, shape="cos"))
    # domain of a record -> most tokens of its completions
    config.max_lengths = ml_collections.ConfigDict()
    # with a cache or threshold: share of rollout rows whose log-probabilities are recomputed
    config.drift_share = 0.125
    # nats a token in the mean; above it the next round samples without cache and threshold
    config.drift_bound = 0.1
    config.sandbox = ml_collections.ConfigDict(
        dict(mode="auto", cpu_s=1.0, wall_s=20.0, memory_mib=512)
    )
    return config


def sampler(**changes) -> ml_collections.ConfigDict:
    """The fields of gdsd_jax.sampling.SamplerConfig, where they are explained, with `changes`."""
    fields = dict(
        kind="llada",
        gen_length=256,
        block_length=None,
        steps=256,
        remasking="low_confidence",
        alg="entropy",
        alg_temp=0.0,
        top_p=1.0,
        cache=None,
        refresh_every=None,
        cfg_scale=0.0,
    )
    return ml_collections.ConfigDict(fields | changes)


def parse(arg: str | None, models: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """(model, overrides); the model is the first entry without "=", by default the first of
    `models`.

    Raises:
      ValueError: an unknown model, or an entry that is no `key=value`.
    """
    # commas outside brackets
    entries = [entry for entry in re.split(r",(?![^()\[\]]*[)\]])", arg or "") if entry]
    model = entries.pop(0) if entries and "=" not in entries[0] else models[0]
    if model not in models:
        raise ValueError(f"unknown model {model!r}, this config knows: {', '.join(models)}")
    for entry in entries:
        if "=" not in entry:
            raise ValueError(f"override {entry!r} is not of the form key=value")
    return model, dict(entry.split("=", 1) for entry in entries)


def override(
    config: ml_collections.ConfigDict, overrides: dict[str, str]
) -> ml_collections.ConfigDict:
    """The config with overrides applied, locked. A value has the type of the default it replaces.

    Raises:
      ValueError: an unknown key or a value of the wrong type; one line names it.
    """
    known = dict(flat(config))
    for key, text in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or sorted(known)
            raise ValueError(f"unknown config key {key!r}; near it: {', '.join(near)}")
        *parents, leaf = key.split(".")
        section = config
        for name in parents:
            section = section[name]
        with section.ignore_type():
            section[leaf] = typed(key, text, known[key])
    return config.lock()


def flat(config: ml_collections.ConfigDict, prefix: str = ""):
    """(dotted key, value) of every leaf."""
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def typed(key: str, text: str, default):
    """`text` as a value of the default's type; a default of None takes anything, and None resets
    all but words."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(
            {"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)
        )
    except (ValueError, SyntaxError):
        value = text
    if value is None or default is None:
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"config key {key!r} takes {type(default).__name__} values such as {default!r}, "
            f"not {text!r}"
        )
    return value
