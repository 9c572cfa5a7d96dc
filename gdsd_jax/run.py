"""What a run is made of, put together from its config; everything that can be wrong is found here,
before compiling.

B rows, P prompt columns, G completion columns.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from types import ModuleType
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import curriculum, data, models, objectives, sampling, sharding, tokenizers
from gdsd_jax.advantages import BASELINES
from gdsd_jax.checkpoint import (
    is_converted,
    load_params,
    load_trainable,
    read_manifest,
    read_settings,
)
from gdsd_jax.evaluate import Answers, Evaluation, evaluate
from gdsd_jax.hosts import Hosts
from gdsd_jax.rewards.sandbox import Limits, Sandbox, open_sandbox
from gdsd_jax.tasks import TASKS
from gdsd_jax.types import Batch, Denoiser, PyTree, Rollout

COUNTS = (
    "prompts_per_round",
    "group_size",
    "inner_iterations",
    "minibatches",
    "slices",
    "mask_draws",
    "prompt_length",
    "eval_every",
    "eval_problems",
    "checkpoint_every",
    "keep_checkpoints",
    "sft.batch",
    "sft.log_every",
    "sft.checkpoint_every",
)


class Run(NamedTuple):
    """The fixed parts of a run."""

    config: Any  # ml_collections.ConfigDict, locked
    workdir: epath.Path
    mesh: jax.sharding.Mesh
    task: ModuleType
    tokenizer: Any
    lessons: data.Problems  # of the supervised phase
    train: data.Problems  # of the rounds
    heldout: data.Problems
    denoiser: Denoiser
    teacher: Denoiser | None  # of objectives that distil one
    sandbox: Sandbox
    hosts: Hosts

    @property
    def rows(self) -> int:
        """Completions of a round."""
        return self.config.prompts_per_round * self.config.group_size


def prepare(config, workdir, model_config=None, hosts: Hosts | None = None) -> Run:
    """Reads data and tokenizer, lays out the mesh, opens the sandbox.

    `model_config` is the config that the model was trained with, where that is another one; `hosts`
    are the processes that run together, by default this one alone.

    Raises:
      ValueError: anything that is wrong with the config or its files, one line naming it and the
        mend.
    """
    workdir = epath.Path(workdir)
    model_config = config if model_config is None else model_config
    if config.require_init and not model_config.init_from:
        raise ValueError(
            f"{config.name} starts from released weights: convert them with `python launch/convert.py "
            "--from_hf=DIR --to_orbax=DIR` and add init_from=DIR to the config"
        )
    mesh = make_mesh(config)
    validate(config, mesh)
    if config.task not in TASKS:
        raise ValueError(f"unknown task {config.task!r}, known: {', '.join(TASKS)}")
    task, hosts = TASKS[config.task], hosts or Hosts()
    if config.data_file is None or not model_config.init_from:
        hosts.one_by_one(lambda: task.build(config.data_dir))
    records = read_records(config, task, model_config)
    model, tokenizer = read_model(model_config)
    train, heldout = (
        data.prepare(task, rows, tokenizer, config.prompt_length, too_long=config.too_long)
        for rows in records
    )
    lessons, train = shared_out(config, train)
    sharding.shardings(mesh, models.param_shapes(model))
    denoisers = make_denoisers(config, model, mesh)
    limits = Limits(
        cpu_s=config.sandbox.cpu_s,
        wall_s=config.sandbox.wall_s,
        memory_bytes=config.sandbox.memory_mib << 20,
    )
    sandbox = open_sandbox(config.sandbox.mode, limits=limits)
    return Run(
        config, workdir, mesh, task, tokenizer, lessons, train, heldout, *denoisers, sandbox, hosts
    )


def make_denoisers(config, model: models.ModelConfig, mesh) -> tuple[Denoiser, Denoiser | None]:
    """(the denoiser, its autoregressive teacher where the objective distils one) on a mesh, also of
    a topology's devices."""
    denoiser = on_mesh(model, mesh, config.attention_kernel)
    if not objectives.find(config.objective).teacher:
        return denoiser, None
    alone = dataclasses.replace(models.to_autoregressive(model), lora_rank=0)
    return denoiser, on_mesh(alone, mesh, config.attention_kernel)


def on_mesh(model: models.ModelConfig, mesh, attention_kernel: str = "auto") -> Denoiser:
    """The denoiser whose attention the named kernel computes, on every device of the mesh its part.

    Raises:
      ValueError: a kernel that there is not, or that cannot serve this model on these devices.
    """
    kernel = models.find_kernel(attention_kernel, model, mesh.devices.flat[0])
    if kernel != models.KERNELS["xla"]:  # which the partitioner splits as it sees fit
        kernel = kernel._replace(attend=sharding.split_attention(mesh, kernel.attend))
    return models.make_denoiser(model, kernel, place=sharding.row_placer(mesh))


def make_mesh(config, devices=None) -> jax.sharding.Mesh:
    """The mesh of a config, by default of all devices there are."""
    rows = config.prompts_per_round * config.group_size // (config.minibatches * config.slices)
    return sharding.make_mesh(dict(config.mesh), devices, rows)


def shared_out(config, train: data.Problems) -> tuple[data.Problems, data.Problems]:
    """(problems of the supervised phase, problems of the rounds): apart, unless the config gives
    the former all."""
    if not config.sft.steps or config.sft.share == 1:
        return train, train
    count = max(1, min(round(config.sft.share * len(train)), len(train) - 1))
    return train.rows(slice(count)), train.rows(slice(count, None))


def validate(config, mesh) -> None:
    """ValueError naming the first key that cannot work; nothing is compiled yet."""
    for keys, least in ((COUNTS, 1), (("rounds", "lora_rank", "sft.steps"), 0)):
        for key in keys:
            if (value := setting(config, key)) < least:
                raise ValueError(f"{key}={value} must be at least {least}")
    for key in ("dtype", "param_dtype", "optimizer.moments_dtype", "sft_optimizer.moments_dtype"):
        if (value := setting(config, key)) not in ("float32", "bfloat16") and (key, value) != (
            "param_dtype",
            None,
        ):
            raise ValueError(f"{key}={value!r}: choose float32 or bfloat16")
    if config.rollout_weights not in sharding.ROLLOUT_WEIGHTS:
        raise ValueError(
            f"rollout_weights={config.rollout_weights!r}: choose one of {', '.join(sharding.ROLLOUT_WEIGHTS)}"
        )
    for section in ("optimizer", "sft_optimizer"):
        for key in ("learning_rate", "clip_norm"):
            if not config[section][key] > 0:
                raise ValueError(f"{section}.{key}={config[section][key]} must be above 0")
    rows, parts = config.prompts_per_round * config.group_size, config.minibatches * config.slices
    if rows % parts:
        raise ValueError(
            f"minibatches={config.minibatches} times slices={config.slices} must divide the {rows} completions of a round"
        )
    sharding.check_rows(
        mesh, rows // parts, "prompts_per_round * group_size / (minibatches * slices)"
    )
    if config.sft.steps:
        sharding.check_rows(mesh, config.sft.batch, "sft.batch")
    if not 0 < config.sft.share <= 1:
        raise ValueError(f"sft.share={config.sft.share} must lie in (0, 1]")
    if config.model not in models.MODELS:
        raise ValueError(f"unknown model {config.model!r}, known: {', '.join(models.MODELS)}")
    models.find_kernel(
        config.attention_kernel,
        with_settings(models.MODELS[config.model], config),
        mesh.devices.flat[0],
    )
    sft = objectives.find(config.sft.objective).config
    fields = [field.name for field in dataclasses.fields(sft)]
    sft(**{key: config.sft[key] for key in config.sft if key in fields})
    sampler = sampling.SamplerConfig(**config.sampler)
    for key in ("length_ramp.shape", "threshold_ramp.shape"):
        if (shape := setting(config, key)) not in curriculum.SHAPES:
            raise ValueError(f"{key}={shape!r}: choose one of {', '.join(curriculum.SHAPES)}")
    if not 0 < config.drift_share <= 1:
        raise ValueError(f"drift_share={config.drift_share} must lie in (0, 1]")
    validate_objective(config, rows // parts)


def validate_objective(config, rows: int) -> None:
    """ValueError where the objective's settings do not fit a slice of `rows` completions."""
    objective = objectives.find(config.objective)
    settings = objective.config(**config[config.objective])
    if objective.rewards and config.group_size < 2:
        raise ValueError(
            f"group_size={config.group_size}: advantages compare completions, give at least 2"
        )
    if config.answers not in (("student", "teacher") if objective.teacher else ("student",)):
        raise ValueError(
            f"answers={config.answers!r}: choose student, or teacher for an objective that distils one"
        )
    if objective.teacher and not (config.sampler.kind == "block" and config.sampler.block_length):
        raise ValueError(
            f"objective {config.objective!r} trains a block-causal model: set sampler.kind=block and sampler.block_length"
        )
    if config.baseline not in BASELINES:
        raise ValueError(f"baseline={config.baseline!r}: choose one of {', '.join(BASELINES)}")
    if objective.by_group and rows % config.group_size:
        raise ValueError(
            f"objective {config.objective!r} compares the completions of a prompt: the {rows} completions of a slice must "
            f"be a multiple of group_size={config.group_size}; choose other slices"
        )
    sampler = sampling.SamplerConfig(**config.sampler)
    gen = sampler.gen_length
    columns, views_fn = (
        config.prompt_length + gen,
        objectives.make_views_fn(config.objective, settings),
    )

    def views():
        batch = Batch(
            jnp.zeros((rows, columns), jnp.int32),
            jnp.ones((rows, columns), bool),
            jnp.full((rows,), gen),
            None,
            logp_BxG=jnp.zeros((rows, gen)),
            step_map_BxG=jnp.zeros((rows, gen), jnp.int32),
            prompt_len=config.prompt_length,
            block=sampler.causal_block,
        )
        return views_fn(batch, config.mask_draws, jax.random.key(0))

    jax.eval_shape(views)


def setting(config, key: str):
    """The value of a dotted key."""
    return functools.reduce(lambda section, name: section[name], key.split("."), config)


def read_model(config) -> tuple[models.ModelConfig, tokenizers.Tokenizer]:
    """The model that a config speaks of, with its precision and adapters, and its tokenizer.

    A converted folder brings both, a run's workdir those of the run; a model from nothing has its
    task's vocabulary.
    """
    if config.init_from and not is_converted(config.init_from):
        settings = read_settings(config.init_from)
        if settings.lora_rank:
            raise ValueError(
                f"init_from={config.init_from}: a run of adapters; sum them up first with launch/convert.py"
            )
        model, tokenizer = read_model(settings)
    elif config.init_from:
        model = models.config_from_json(read_manifest(config.init_from)["model"])
        tokenizer = tokenizers.load(
            config.init_from,
            pad_id=model.pad_id,
            mask_id=model.mask_id,
            stop_ids=model.stop_ids,
            template_arguments={"enable_thinking": config.enable_thinking},
        )
        if tokenizer.vocab_size > model.vocab_size:
            raise ValueError(
                f"init_from={config.init_from}: the tokenizer has {tokenizer.vocab_size} ids, the model only "
                f"{model.vocab_size}; copy the model's own tokenizer there"
            )
    else:
        task = TASKS[config.task]
        task.build(config.data_dir)
        tokenizer = tokenizers.load(task.folder(config.data_dir))
        model = dataclasses.replace(
            models.MODELS[config.model],
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id,
            pad_id=tokenizer.pad_id,
            stop_ids=tuple(tokenizer.stop_ids),
        )
    return with_settings(model, config), tokenizer


def with_settings(model: models.ModelConfig, config) -> models.ModelConfig:
    """The model with the precision and adapters that a config asks for."""
    return dataclasses.replace(
        model,
        dtype=config.dtype,
        remat=config.remat,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_targets=tuple(config.lora_targets) if config.lora_rank else models.PROJECTIONS,
    )


def read_records(config, task, model_config) -> list[Sequence[data.Record]]:
    """[training records, held-out records]."""
    if config.data_file is None:
        task.build(config.data_dir)
        return [task.records(config.data_dir, split) for split in ("train", "heldout")]
    # a model from nothing has only seen bare questions
    form = "full" if model_config.init_from else "short"
    return [
        task.read_jsonl(path, form=form)
        for path in (config.data_file, config.heldout_file or config.data_file)
    ]


def initial_weights(run: Run, rng) -> tuple[PyTree, dict]:
    """(trainable, frozen), placed on the mesh: a converted model or random weights, adapters over
    them for LoRA."""
    config, model = run.config, run.denoiser.config
    weights = base_weights(config, model, run.mesh, rng)
    if not config.lora_rank:
        return weights, {}
    make = make_trainable(config, model)
    return jax.jit(make, out_shardings=sharding.shardings(run.mesh, jax.eval_shape(make, rng)))(
        rng
    ), {"base": weights}


def base_weights(config, model: models.ModelConfig, mesh, rng) -> PyTree:
    """A converted model's weights, those a run came to, or random ones."""
    make = make_weights(config, model)
    if config.init_from:
        load = load_params if is_converted(config.init_from) else load_trainable
        return load(config.init_from, abstract(mesh, make))
    return jax.jit(make, out_shardings=sharding.shardings(mesh, jax.eval_shape(make, rng)))(rng)


def make_weights(config, model: models.ModelConfig):
    """`rng -> weights` in the config's param_dtype; without one, float32 where they are trained,
    else as activations."""
    dtype = config.param_dtype or (config.dtype if config.lora_rank else "float32")
    return lambda rng: jax.tree.map(lambda x: x.astype(dtype), models.init_params(model, rng))


def make_trainable(config, model: models.ModelConfig):
    """`rng -> what is trained`: adapters for LoRA, else the weights."""
    if config.lora_rank:
        return lambda rng: models.init_lora(model, jax.random.fold_in(rng, 1))
    return make_weights(config, model)


def abstract(mesh, make) -> PyTree:
    """Shapes and places of the tree that `make(rng)` returns."""
    shapes = jax.eval_shape(make, jax.eval_shape(jax.random.key, 0))

    def place(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, shapes, sharding.shardings(mesh, shapes))


def ask(
    run: Run,
    problems: data.Problems,
    rows: dict[str, np.ndarray],
    copies: int,
    temperature: float,
    *,
    threshold: float | None = None,
    longest: int | None = None,
) -> tuple[dict, np.ndarray]:
    """(prompt arrays on the mesh, record index of each row): every row of `rows` `copies` times,
    one after another.

    `threshold` None = off; `longest` None = gen_length tokens, under the cap of the record's domain
    in any case.
    """
    repeated = {
        name: np.repeat(rows[name], copies, axis=0) for name in ("tokens", "valid", "index")
    }
    count = len(repeated["index"])
    longest = run.config.sampler.gen_length if longest is None else longest
    cap_of = dict(run.config.max_lengths)
    caps = [
        cap_of.get(problems.records[index].get("domain"), longest) for index in repeated["index"]
    ]
    arrays = {
        "tokens": repeated["tokens"],
        "valid": repeated["valid"],
        "index": repeated["index"].astype(np.int32),
        "sample": np.tile(np.arange(copies, dtype=np.int32), count // copies),
        "temperature": np.full(count, temperature, np.float32),
        "threshold": np.full(count, np.inf if threshold is None else threshold, np.float32),
        "max_length": np.minimum(caps, longest).astype(np.int32),
    }
    return sharding.global_rows(run.mesh, arrays), repeated["index"]


def decode(run: Run, tokens_BxG: np.ndarray) -> list[str]:
    """Each row's text before its first stop id."""
    return [run.tokenizer.decode(row) for row in tokens_BxG]


def evaluate_heldout(
    run: Run, sample: Callable[[dict], Rollout], temperature: float, threshold: float | None = None
) -> Evaluation:
    """A completion, by `sample(prompt arrays)`, for each of the first `config.eval_problems`
    held-out problems."""

    def generate(row_B: np.ndarray, temperature: float) -> Answers:
        asked, _ = ask(run, run.heldout, run.heldout[row_B], 1, temperature, threshold=threshold)
        rollout = sample(asked)
        tokens_BxG, length_B, passes_B = sharding.fetch(
            run.mesh, (rollout.tokens_BxG, rollout.length_B, rollout.passes_B)
        )
        return Answers(
            decode(run, tokens_BxG), length_B, forwards(run.config.sampler, length_B, passes_B)
        )

    def score(row_B: np.ndarray, texts: list[str]) -> dict[str, np.ndarray]:
        return score_texts(run, run.heldout, run.heldout.index[row_B], texts)

    return evaluate(
        generate, score, min(run.config.eval_problems, len(run.heldout)), run.rows, temperature
    )


def forwards(sampler, length_B: np.ndarray, passes_B: np.ndarray) -> np.ndarray:
    """Forwards of the model a row, int [B]: its denoising passes, and for kind "block" one that
    saves each of its blocks."""
    return passes_B + (-(-length_B // sampler.block_length) if sampler.kind == "block" else 0)


def score_texts(
    run: Run, problems: data.Problems, index_B: np.ndarray, texts: list[str]
) -> dict[str, np.ndarray]:
    """The task's rewards of one completion for each record of `index_B`, float32 [B] each; every
    host scores its share."""
    own = run.hosts.share(len(index_B))
    records = [problems.records[index] for index in index_B[own]]
    found = run.task.score(records, texts[own], run.sandbox) if records else {}
    return run.hosts.merge(found, len(index_B))
