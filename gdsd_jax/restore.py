"""The model of a folder: one that launch/convert.py wrote, or the workdir of a training run at its newest checkpoint."""
import json

import jax
import ml_collections
from etils import epath

from gdsd_jax import models, run
from gdsd_jax.checkpoint import latest_iteration, load_trainable, read_manifest
from gdsd_jax.steps import make_keys
from gdsd_jax.types import PyTree


def read_settings(folder) -> ml_collections.ConfigDict:
    """The config of the run in a workdir; for a converted model, what `run.read_model` needs of one.

    Raises:
      ValueError: neither is there, or its JSON is unreadable; one line names the folder and the mend.
    """
    folder = epath.Path(folder)
    if is_converted(folder):
        dtype = "bfloat16" if "bfloat16" in read_manifest(folder).get("dtype", ()) else "float32"
        return ml_collections.ConfigDict(dict(
            init_from=str(folder), enable_thinking=False, lora_rank=0, lora_alpha=0.0, lora_targets=(), dtype=dtype,
            param_dtype=dtype, remat="none",
        ))  # fmt: skip
    if (folder / "config.json").exists() and latest_iteration(folder) is not None:
        try:
            return ml_collections.ConfigDict({"enable_thinking": False} | json.loads((folder / "config.json").read_text()))
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'}: not readable JSON ({error}); give the workdir of a run") from None
    raise ValueError(
        f"{folder} has neither the manifest.json of a converted model nor a run's config.json and checkpoints/: convert "
        "a Hugging Face folder with launch/convert.py, or give the workdir of launch/main.py"
    )


def load_weights(folder, model: models.ModelConfig, mesh: jax.sharding.Mesh) -> tuple[PyTree, dict]:
    """(trainable, frozen) of a folder's model on the mesh: `denoiser.bind(trainable, frozen)` gives its parameters.

    `model` must be what `run.read_model` makes of `read_settings(folder)`; its precision is that of the activations.

    Raises:
      ValueError: no weights there, or another model's; one line names the folder and the mend.
    """
    config = read_settings(folder)
    if is_converted(folder):
        return run.base_weights(config, model, mesh, None), {}
    frozen = {}
    if config.lora_rank:
        rng = make_keys(jax.random.key(config.seed), 0)["init"]  # a base of random weights is drawn again
        frozen["base"] = run.base_weights(config, model, mesh, rng)
    return load_trainable(folder, run.abstract(mesh, run.make_trainable(config, model))), frozen


def is_converted(folder) -> bool:
    return (epath.Path(folder) / "manifest.json").exists()
