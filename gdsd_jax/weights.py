"""A model and its parameters: from a preset, a converted folder, or the workdir of a run."""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import hashlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import (
    chat_templates,
    checkpoint,
    hf,
    json_files,
    misplaced,
    models,
    objectives,
    origin,
    paths,
    sharding,
    tasks,
    tokenizers,
)
from gdsd_jax.checkpoint import ADAPTERS, PARAMS, is_converted, latest_iteration, load_params
from gdsd_jax.checksums import are_finite
from gdsd_jax.keys import make_keys
from gdsd_jax.mistakes import prefixed
from gdsd_jax.models import ModelConfig
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.settings import Settings, build, replace
from gdsd_jax.settings import read as read_settings
from gdsd_jax.tasks import Task
from gdsd_jax.tokenizers import Tokenizer
from gdsd_jax.types import Array, Denoiser, PyTree

# fields of a ModelConfig in which a model and a preset of the same shape agree
SHAPE = ("family", "d_model", "layers", "heads", "kv_heads", "head_dim", "d_ff")
# fields in which the adapters of a folder and the settings agree
LORA = ("lora_rank", "lora_alpha", "lora_targets")
VOCAB_SIZE = 1024  # most pieces of a tokenizer that is trained on a task's texts
VOCAB_MULTIPLE = 128  # of the vocabulary of a model from nothing, so that meshes divide it


def settings_of(folder) -> Settings:
    """The settings of the run in a workdir; of a converted model those that tell how to use it.

    Raises:
      ValueError: neither is there, or its JSON is unreadable; one line names the folder and the
        mend.
    """
    folder = epath.Path(folder)
    if is_converted(folder):
        model, manifest = read_manifest_model(folder)
        return settings_to_use(folder, model, manifest.get("dtype") or ())
    if (folder / "config.json").exists() and latest_iteration(folder) is not None:
        return read_settings(folder, of_model=True)
    raise ValueError(misplaced.line_of(folder))


def settings_to_use(folder, model: ModelConfig, stored: Collection[str]) -> Settings:
    """Those that tell how to use a folder's model, whose arrays are stored in these types."""
    dtype = "bfloat16" if "bfloat16" in stored else "float32"
    sampler = {f"sampler.{key}": value for key, value in models.default_sampler(model).items()}
    if model.block_length is not None:
        whole = tokenizers.bucket(SamplerConfig.gen_length, model.block_length)
        sampler["sampler.gen_length"] = whole  # in blocks
    given = {"init_from": str(folder), "dtype": dtype, "param_dtype": dtype, "remat": "none"}
    kept = {name: getattr(model, name) for name in LORA} if model.lora_rank else {}
    return build(given | sampler | kept)


def read_manifest_model(folder) -> tuple[ModelConfig, dict[str, Any]]:
    """(the model of a converted folder, its manifest).

    Raises:
      ValueError: no such folder, or a manifest that is not of this form; one line.
    """
    manifest = checkpoint.read_manifest(folder)
    with prefixed(f"{folder}/manifest.json: ", "; convert the model again"):
        json_files.entry(manifest, "dtype", "texts", [])
        model = models.config_from_json(json_files.entry(manifest, "model", "object"))
        if model.family not in models.FAMILIES:
            raise ValueError(f"family={model.family!r}: this version knows no such family")
    return model, manifest


def load(folder, mesh: jax.sharding.Mesh | None = None) -> tuple[Denoiser, PyTree, Tokenizer]:
    """The model of a folder, ready to use: (denoiser, params, tokenizer).

    Args:
      folder: one that launch/convert.py wrote, the workdir of a run, of which the newest checkpoint
        is taken, or a Hugging Face folder of a family that we know; local or gs://.
      mesh: where the parameters lie, as `sharding.make_mesh` gives it; None = all devices on fsdp.

    Raises:
      ValueError: no model there, or one that the mesh does not divide; one line.
    """
    if mesh is None:
        mesh = sharding.make_mesh(sharding.BY_FSDP)
    settings, model, tokenizer = read_folder(folder)
    denoiser = on_mesh(model, mesh)
    return denoiser, denoiser.bind(*load_weights(folder, settings, model, mesh)), tokenizer


def is_hugging_face(folder) -> bool:
    """Whether a folder holds weights as Hugging Face models have them, and nothing of ours."""
    folder = epath.Path(folder)
    ours = is_converted(folder) or latest_iteration(folder) is not None
    return not (ours or misplaced.are_adapters(folder)) and any(folder.glob("*.safetensors"))


def read_folder(folder, changes: Mapping[str, Any] = {}) -> tuple[Settings, ModelConfig, Tokenizer]:
    """(the settings that tell how to use the model of a folder that `load` takes, with these
    changes, the model, its tokenizer); `load_weights` reads its weights."""
    if not is_hugging_face(folder):
        settings = replace(settings_of(folder), changes)
        return settings, *read_own(settings, folder)
    model = models.config_from_hf(folder)
    stored = {leaf.dtype.name for leaf in jax.tree.leaves(hf.open_folder(folder, model))}
    settings = replace(settings_to_use(folder, model, stored), changes)
    model, tokenizer = with_tokenizer(model, folder, enable_thinking=settings.enable_thinking)
    return settings, with_settings(model, settings), tokenizer


# ---------------------------------------------------------------- the model


def read_model(settings: Settings, own: Tokenizer | None = None) -> tuple[ModelConfig, Tokenizer]:
    """The model that settings speak of, with its precision and adapters, and its tokenizer.

    Args:
      settings: a converted folder as `init_from` brings model and tokenizer, a workdir there those
        of its run. Without it the preset `model` gets the vocabulary of `own`.
      own: the tokenizer of a model from nothing.

    Raises:
      ValueError: no such model or tokenizer, or settings that speak of another model than
        `init_from` holds; one line.
    """
    if settings.init_from is None:
        return from_nothing(settings, own)
    if is_converted(settings.init_from):
        model, tokenizer = read_converted(settings)
        check_adapters(settings, model)
    else:
        before = settings_of(settings.init_from)
        before = dataclasses.replace(before, enable_thinking=settings.enable_thinking)
        if before.lora_rank:
            raise ValueError(
                f"init_from={settings.init_from}: a run of adapters; sum them up first with "
                "launch/convert.py"
            )
        model, tokenizer = read_own(before, settings.init_from)
    check_preset(settings, model, f"init_from={settings.init_from}")
    return with_settings(model, settings), tokenizer


def read_own(settings: Settings, folder) -> tuple[ModelConfig, Tokenizer]:
    """The model and the tokenizer of a folder, whose settings these are; a run's weights have
    learnt with the blocks of its sampler."""
    model, tokenizer = read_model(settings, kept_tokenizer(settings, folder))
    if not is_converted(folder):
        model = models.with_blocks(model, settings.sampler.causal_block)
    return model, tokenizer


def read_converted(settings: Settings) -> tuple[ModelConfig, Tokenizer]:
    """Model and tokenizer of the converted folder `init_from`."""
    model, _ = read_manifest_model(settings.init_from)
    return with_tokenizer(model, settings.init_from, enable_thinking=settings.enable_thinking)


def with_tokenizer(
    model: ModelConfig, folder, **template_arguments
) -> tuple[ModelConfig, Tokenizer]:
    """A model that knows how many ids its tokenizer has, and that tokenizer, from beside its
    weights.

    Raises:
      ValueError: none there, or one with more ids than the model has rows; one line.
    """
    tokenizer = tokenizers.load(
        folder,
        pad_id=model.pad_id,
        mask_id=-1 if model.mask_id is None else model.mask_id,
        stop_ids=model.stop_ids,
        template_arguments=template_arguments | chat_templates.ONE_DAY,
    )
    tokenizers.check_rows(tokenizer, model.vocab_size, folder)
    return dataclasses.replace(model, tokenizer_size=tokenizer.vocab_size), tokenizer


def check_preset(settings: Settings, model: ModelConfig, folder) -> None:
    """ValueError where `settings.model` names another family or shape than the model of a
    folder."""
    if settings.model is None:
        return
    preset = models.preset(settings.model)
    for name in SHAPE:
        wanted, found = getattr(preset, name), getattr(model, name)
        if wanted != found:
            raise ValueError(
                f"{folder} holds a model of {name}={found}, "
                f"model={settings.model} has {name}={wanted}: set the model that it is, or "
                "model=none"
            )


def check_adapters(settings: Settings, model: ModelConfig) -> None:
    """ValueError where the folder `init_from` holds adapters, and the settings ask for others."""
    if not model.lora_rank:
        return
    for name in LORA:
        wanted, found = getattr(settings, name), getattr(model, name)
        if wanted != found and not (name == "lora_targets" and set(wanted) == set(found)):
            held = ",".join(found) if name == "lora_targets" else found
            raise ValueError(
                f"init_from={settings.init_from} holds adapters of {name}={held}, the settings ask "
                f"for {wanted}: set {name}={held}, or convert again without --lora=keep"
            )


def check_teacher(settings: Settings) -> None:
    """ValueError where a run would distil what another has distilled: a copy of what it starts from
    is the teacher, and that is no longer the autoregressive model."""
    start, folder = settings.init_from, settings.init_from
    if not objectives.find(settings.objective).teacher:
        return
    while folder is not None and not is_converted(folder):
        before = settings_of(folder)
        if objectives.find(before.objective).teacher and before.rounds:
            first = before.init_from
            mend = "leave init_from out" if first is None else f"give init_from={first}"
            raise ValueError(
                f"init_from={start}: its weights are the student of objective={before.objective}, "
                f"which would become the teacher: {mend}, as in that run, or another objective"
            )
        folder = before.init_from


def task_tokenizer(task: Task) -> Tokenizer:
    """The tokenizer for a model from nothing: the task's own, or one trained on its texts."""
    if task.tokenizer is not None:
        return tokenizers.load(task.tokenizer)
    texts = [turn["content"] for record in task.train for turn in task.messages(record)]
    if task.answer is not None:
        texts += [task.answer(record, None) for record in task.train]
    model = tokenizers.train_sentencepiece_model(texts, VOCAB_SIZE, soft=True)
    return tokenizers.SentencePiece(model)


def kept_tokenizer(settings: Settings, workdir) -> Tokenizer | None:
    """The tokenizer that the run in a workdir has kept; None where its model had one already."""
    has_own = settings.init_from is not None
    return None if has_own else tokenizers.load(tokenizer_folder(settings, workdir))


def tokenizer_folder(settings: Settings, workdir) -> epath.Path:
    """Where the tokenizer of a model from nothing is."""
    folder = epath.Path(workdir) / "tokenizer"
    if folder.is_dir():
        return folder
    # a run of an earlier version did not keep it; its task has it still
    task = tasks.find(settings.task)(settings.task_settings())
    task.close()
    if task.tokenizer is None:
        raise ValueError(f"{workdir}: the folder tokenizer is missing; copy the whole workdir")
    return epath.Path(task.tokenizer)


def from_nothing(settings: Settings, tokenizer: Tokenizer) -> tuple[ModelConfig, Tokenizer]:
    """The preset with the vocabulary of a tokenizer, filled up to a multiple of VOCAB_MULTIPLE.

    Ids past the tokenizer's stand for no text and are never sampled. ValueError where there is no
    such preset.
    """
    check_named(settings)
    model = dataclasses.replace(
        models.preset(settings.model),
        vocab_size=-(-tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        mask_id=tokenizer.mask_id,
        pad_id=tokenizer.pad_id,
        stop_ids=tuple(tokenizer.stop_ids),
        tokenizer_size=tokenizer.vocab_size,
    )
    return with_settings(model, settings), tokenizer


def check_named(settings: Settings) -> None:
    """ValueError where a model from nothing has no name."""
    if settings.model is None:
        raise ValueError("model=none without init_from: name a model, or give init_from=DIR")


def with_settings(model: ModelConfig, settings: Settings) -> ModelConfig:
    """The model with the precision and adapters that settings ask for."""
    return dataclasses.replace(
        model,
        dtype=settings.dtype,
        remat=settings.remat,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_targets=settings.lora_targets if settings.lora_rank else models.PROJECTIONS,
    )


def make_denoisers(
    settings: Settings, model: ModelConfig, mesh: jax.sharding.Mesh
) -> tuple[Denoiser, Denoiser | None]:
    """(the denoiser, its autoregressive teacher where the objective distils one).

    The mesh may be one of a topology's devices, which are not here.
    """
    denoiser = on_mesh(model, mesh, settings.attention_kernel)
    if not objectives.find(settings.objective).teacher:
        return denoiser, None
    teacher = models.to_autoregressive(model)
    return denoiser, on_mesh(teacher, mesh, settings.attention_kernel)


def on_mesh(
    model: ModelConfig, mesh: jax.sharding.Mesh, attention_kernel: str = "auto"
) -> Denoiser:
    """The denoiser whose attention the named kernel computes, on every device of the mesh its part.

    Projections in int8 are multiplied as suits these devices.

    Raises:
      ValueError: a kernel that there is not, or that cannot serve this model on these devices.
    """
    device = mesh.devices.flat[0]
    kernel = models.find_kernel(attention_kernel, model, device)
    if kernel != models.KERNELS["xla"]:  # which the partitioner splits as it sees fit
        kernel = kernel._replace(attend=sharding.split_attention(mesh, kernel.attend))
    place, multiply = sharding.row_placer(mesh), models.product_for(device)
    return models.make_denoiser(model, kernel, place, multiply)


# ---------------------------------------------------------------- its parameters


def initial_weights(
    settings: Settings, model: ModelConfig, mesh: jax.sharding.Mesh, rng: Array
) -> tuple[PyTree, dict]:
    """(trainable, frozen) of a fresh run, placed on the mesh.

    A converted model's weights or random ones; with adapters these are `frozen["base"]`. Adapters
    are those that the converted folder holds, else fresh ones.
    """
    weights = base_weights(settings, model, mesh, rng)
    if not settings.lora_rank:
        return weights, {}
    make = make_trainable(settings, model)
    if starts_adapted(settings):
        there = load_params(settings.init_from, abstract(mesh, make), ADAPTERS)
        return finite(there, settings.init_from), {"base": weights}
    places = sharding.shardings(mesh, jax.eval_shape(make, rng))
    return jax.jit(make, out_shardings=places)(rng), {"base": weights}


def load_weights(
    folder, settings: Settings, model: ModelConfig, mesh: jax.sharding.Mesh
) -> tuple[PyTree, dict]:
    """(trainable, frozen) of a folder's model, placed on the mesh.

    `settings` and `model` are those of `read_folder`, or of `settings_of` and `read_model`;
    `denoiser.bind(trainable, frozen)` gives the parameters.

    Raises:
      ValueError: no weights there, or another model's; one line names the folder and the mend.
    """
    if is_converted(folder):
        return initial_weights(settings, model, mesh, None)
    if is_hugging_face(folder):
        return hf.load(folder, model, model.dtype, mesh), {}
    frozen = {}
    if settings.lora_rank:
        # a base of random weights is drawn again
        rng = make_keys(jax.random.key(settings.seed), 0)["init"]
        origin.check(folder, settings, origin.base_of)
        frozen["base"] = base_weights(settings, model, mesh, rng)
    shapes = abstract(mesh, make_trainable(settings, model))
    return checkpoint.load_trainable(folder, shapes), frozen


def hash_of(folder) -> str:
    """SHA-256 of the weights in a folder: names, types, shapes and bytes of all arrays, as stored.

    The same for the same numbers, whatever the files are like. Adapters count with their base where
    that is a folder; a base of random weights follows from the settings. In a run of several
    processes all must call it.

    Raises:
      ValueError: no weights there; one line.
    """
    digest = hashlib.sha256()
    if is_converted(folder):
        for part in (PARAMS, ADAPTERS) if checkpoint.has_adapters(folder) else (PARAMS,):
            _hash_tree(digest, checkpoint.lazy_params(paths.absolute(folder) / part))
        return digest.hexdigest()
    newest = paths.absolute(folder) / "checkpoints" / str(latest_iteration(folder))
    _hash_tree(digest, checkpoint.lazy_params(newest / "state", "state", "trainable"))
    settings = settings_of(folder)
    if settings.lora_rank and settings.init_from is not None:
        digest.update(hash_of(settings.init_from).encode())
    return digest.hexdigest()


def _hash_tree(digest, tree: PyTree) -> None:
    """Adds the arrays of a tree of `LazyArray`s, read one at a time."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    for name, leaf in sorted(named, key=lambda pair: pair[0]):
        values = leaf.read()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())


def starts_adapted(settings: Settings) -> bool:
    """Whether a run starts from the adapters of a converted folder."""
    init_from = settings.init_from
    return init_from is not None and is_converted(init_from) and checkpoint.has_adapters(init_from)


def base_weights(
    settings: Settings, model: ModelConfig, mesh: jax.sharding.Mesh, rng: Array | None
) -> PyTree:
    """A converted model's weights, those that a run came to, or random ones from `rng`."""
    make = make_weights(settings, model)
    if settings.init_from is None:
        places = sharding.shardings(mesh, abstract(mesh, make))
        return jax.jit(make, out_shardings=places)(rng)
    read = load_params if is_converted(settings.init_from) else checkpoint.load_trainable
    return finite(read(settings.init_from, abstract(mesh, make)), settings.init_from)


def finite(weights: PyTree, folder) -> PyTree:
    """The weights of a folder; paths.WorkdirError names a tensor that is not finite."""
    for name, is_finite in jax.device_get(are_finite(checkpoint.named(weights))).items():
        if not is_finite:
            said = "nothing can be learnt from such weights, convert or download them again"
            raise paths.WorkdirError(f"{folder}: {name} holds NaN or infinity: {said}")
    return weights


def make_weights(settings: Settings, model: ModelConfig) -> Callable[[Array], PyTree]:
    """`rng -> weights` in param_dtype; without one, float32 where they are trained, else as
    activations."""
    dtype = settings.param_dtype
    if dtype is None:
        dtype = settings.dtype if settings.lora_rank else "float32"

    def make(rng: Array) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype), models.init_params(model, rng))

    return make


def make_trainable(settings: Settings, model: ModelConfig) -> Callable[[Array], PyTree]:
    """`rng -> what is trained`: adapters, or all weights."""
    if not settings.lora_rank:
        return make_weights(settings, model)

    def make(rng: Array) -> PyTree:
        return models.init_lora(model, jax.random.fold_in(rng, 1))

    return make


def abstract(mesh: jax.sharding.Mesh, make: Callable[[Array], PyTree]) -> PyTree:
    """Shapes and places of the tree that `make(rng)` returns."""
    shapes = jax.eval_shape(make, jax.eval_shape(jax.random.key, 0))

    def place(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, shapes, sharding.shardings(mesh, shapes))


def copies_of(settings: Settings, trainable: PyTree) -> dict:
    """{"teacher"} or {"reference"}: a frozen copy of what the rounds start from, where the
    objective asks for one.

    Fresh adapters that no supervised step has trained change nothing: their base serves without a
    copy.
    """
    if settings.lora_rank and not settings.sft.steps and not starts_adapted(settings):
        return {}
    objective = objectives.find(settings.objective)
    if objective.teacher:
        dtype = settings.teacher_dtype or settings.dtype
        return {"teacher": jax.tree.map(lambda x: jnp.copy(x.astype(dtype)), trainable)}
    if not objective.reference(settings.objective_config):
        return {}
    return {"reference": jax.tree.map(jnp.copy, trainable)}
