"""What a run is made of, put together from its config; everything that can be wrong is found here, before compiling.

B rows, P prompt columns, G completion columns.
"""
import dataclasses
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gdsd_jax import data, models, objectives, sampling, sharding, tokenizers
from gdsd_jax.advantages import BASELINES
from gdsd_jax.checkpoint import load_params, read_manifest
from gdsd_jax.rewards.sandbox import Limits, Sandbox, open_sandbox
from gdsd_jax.tasks import TASKS
from gdsd_jax.types import Batch, Denoiser, PyTree


class Run(NamedTuple):
    """The fixed parts of a run."""

    config: Any  # ml_collections.ConfigDict, locked
    workdir: epath.Path
    mesh: jax.sharding.Mesh
    task: ModuleType
    tokenizer: Any
    train: data.Problems
    heldout: data.Problems
    denoiser: Denoiser
    sandbox: Sandbox

    @property
    def rows(self) -> int:
        """Completions of a round."""
        return self.config.prompts_per_round * self.config.group_size


def prepare(config, workdir) -> Run:
    """Reads data and tokenizer, lays out the mesh, opens the sandbox.

    Raises:
      ValueError: anything that is wrong with the config or its files, one line naming it and the mend.
    """
    workdir = epath.Path(workdir)
    if config.require_init and not config.init_from:
        raise ValueError(
            f"{config.name} starts from released weights: convert them with `python launch/convert.py "
            "--from_hf=DIR --to_orbax=DIR` and add init_from=DIR to the config"
        )
    mesh = sharding.make_mesh(dict(config.mesh))
    validate(config, mesh)
    if config.task not in TASKS:
        raise ValueError(f"unknown task {config.task!r}, known: {', '.join(TASKS)}")
    task = TASKS[config.task]
    model, tokenizer, train, heldout = read_inputs(config, task)
    model = dataclasses.replace(
        model, dtype=config.dtype, remat=config.remat, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha,
        lora_targets=tuple(config.lora_targets) if config.lora_rank else models.PROJECTIONS,
    )  # fmt: skip
    sharding.shardings(mesh, models.param_shapes(model))
    limits = Limits(cpu_s=config.sandbox.cpu_s, wall_s=config.sandbox.wall_s, memory_bytes=config.sandbox.memory_mib << 20)
    sandbox = open_sandbox(config.sandbox.mode, limits=limits)
    return Run(config, workdir, mesh, task, tokenizer, train, heldout, models.make_denoiser(model), sandbox)


def validate(config, mesh) -> None:
    """ValueError naming the first key that cannot work; nothing is compiled yet."""
    for key in ("rounds", "prompts_per_round", "inner_iterations", "slices", "mask_draws", "prompt_length",
                "eval_every", "eval_problems", "checkpoint_every"):  # fmt: skip
        if config[key] < (0 if key == "rounds" else 1):
            raise ValueError(f"{key}={config[key]} must be at least {0 if key == 'rounds' else 1}")
    if config.group_size < 2:
        raise ValueError(f"group_size={config.group_size}: advantages compare completions, give at least 2")
    rows = config.prompts_per_round * config.group_size
    if rows % config.slices:
        raise ValueError(f"slices={config.slices} must divide the {rows} completions of a round")
    sharding.check_rows(mesh, rows // config.slices, "prompts_per_round * group_size / slices")
    if config.sft.steps:
        sharding.check_rows(mesh, config.sft.batch, "sft.batch")
    if config.model not in models.MODELS:
        raise ValueError(f"unknown model {config.model!r}, known: {', '.join(models.MODELS)}")
    sampling.SamplerConfig(**config.sampler)
    validate_objective(config, rows // config.slices)


def validate_objective(config, rows: int) -> None:
    """ValueError where the objective's settings do not fit a slice of `rows` completions."""
    objectives.find(config.objective)
    settings = objectives.make_config(config.objective, config[config.objective])
    if config.baseline not in BASELINES:
        raise ValueError(f"baseline={config.baseline!r}: choose one of {', '.join(BASELINES)}")
    if objectives.compares_groups(config.objective) and rows % config.group_size:
        raise ValueError(
            f"objective {config.objective!r} compares the completions of a prompt: the {rows} completions of a slice must "
            f"be a multiple of group_size={config.group_size}; choose other slices"
        )
    gen = config.sampler.gen_length
    columns, views_fn = config.prompt_length + gen, objectives.make_views_fn(config.objective, settings)

    def views():
        batch = Batch(
            jnp.zeros((rows, columns), jnp.int32), jnp.ones((rows, columns), bool), jnp.full((rows,), gen), None,
            logp_BxG=jnp.zeros((rows, gen)), prompt_len=config.prompt_length,
        )  # fmt: skip
        return views_fn(batch, config.mask_draws, jax.random.key(0))

    jax.eval_shape(views)


def read_inputs(config, task):
    """(ModelConfig, tokenizer, training problems, held-out problems)."""
    if config.data_file is None or not config.init_from:
        task.build(config.data_dir)
    if config.data_file is None:
        sources = [task.records(config.data_dir, split) for split in ("train", "heldout")]
    else:
        form = "full" if config.init_from else "short"  # a model from nothing has only seen bare questions
        sources = [task.read_jsonl(path, form=form) for path in (config.data_file, config.heldout_file or config.data_file)]
    model, tokenizer = read_model(config, task)
    problems = [data.prepare(task, source, tokenizer, config.prompt_length, too_long=config.too_long) for source in sources]
    return model, tokenizer, *problems


def read_model(config, task) -> tuple[models.ModelConfig, Any]:
    """(ModelConfig, tokenizer) of `init_from`, or of the preset with the vocabulary of the task's own tokenizer."""
    if config.init_from:
        model = models.config_from_json(read_manifest(config.init_from)["model"])
        ids = dict(pad_id=model.pad_id, mask_id=model.mask_id, stop_ids=model.stop_ids)
        return model, tokenizers.load(config.init_from, **ids)
    tokenizer = tokenizers.load(task.folder(config.data_dir))
    own = dict(
        vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id, pad_id=tokenizer.pad_id,
        stop_ids=tuple(tokenizer.stop_ids),
    )  # fmt: skip
    return dataclasses.replace(models.MODELS[config.model], **own), tokenizer


def initial_weights(run: Run, rng) -> tuple[PyTree, dict]:
    """(trainable, frozen), placed on the mesh: a converted model or random weights, adapters over them for LoRA."""
    config, model = run.config, run.denoiser.config

    def cast(tree):
        return jax.tree.map(lambda x: x.astype(config.param_dtype), tree)

    shapes = jax.eval_shape(lambda rng: cast(models.init_params(model, rng)), rng)
    places = sharding.shardings(run.mesh, shapes)
    if config.init_from:
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
        weights = load_params(config.init_from, abstract)
    else:
        weights = jax.jit(lambda rng: cast(models.init_params(model, rng)), out_shardings=places)(rng)
    if not config.lora_rank:
        return weights, {}
    make = lambda rng: models.init_lora(model, jax.random.fold_in(rng, 1))  # noqa: E731
    adapters = jax.jit(make, out_shardings=sharding.shardings(run.mesh, jax.eval_shape(make, rng)))(rng)
    return adapters, {"base": weights}


def ask(run: Run, rows: dict[str, np.ndarray], copies: int, temperature: float) -> tuple[dict, np.ndarray]:
    """(prompt arrays on the mesh, record index of each row): every row of `rows` `copies` times, one after another."""
    repeated = {name: np.repeat(rows[name], copies, axis=0) for name in ("tokens", "valid", "index")}
    count = len(repeated["index"])
    arrays = {
        "tokens": repeated["tokens"], "valid": repeated["valid"], "index": repeated["index"].astype(np.int32),
        "sample": np.tile(np.arange(copies, dtype=np.int32), count // copies),
        "temperature": np.full(count, temperature, np.float32),
    }  # fmt: skip
    return sharding.global_rows(run.mesh, arrays), repeated["index"]


def decode(run: Run, tokens_BxG: np.ndarray) -> list[str]:
    """Each row's text before its first stop id."""
    return [run.tokenizer.decode(row) for row in tokens_BxG]


def score_texts(run: Run, problems: data.Problems, index_B: np.ndarray, texts: list[str]) -> dict[str, np.ndarray]:
    """The task's rewards of one completion for each record of `index_B`, float32 [B] each."""
    return run.task.score([problems.records[index] for index in index_B], texts, run.sandbox)
