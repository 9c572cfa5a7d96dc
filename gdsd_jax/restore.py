"""The model of a folder: one that launch/convert.py wrote, or the workdir of a training run at its
newest checkpoint."""

import jax

from gdsd_jax import models, run
from gdsd_jax.checkpoint import is_converted, load_trainable, read_settings
from gdsd_jax.steps import make_keys
from gdsd_jax.types import PyTree


def load_weights(folder, model: models.ModelConfig, mesh: jax.sharding.Mesh) -> tuple[PyTree, dict]:
    """(trainable, frozen) of a folder's model on the mesh: `denoiser.bind(trainable, frozen)` gives
    its parameters.

    `model` must be what `run.read_model` makes of `read_settings(folder)`; its precision is that of
    the activations.

    Raises:
      ValueError: no weights there, or another model's; one line names the folder and the mend.
    """
    config = read_settings(folder)
    if is_converted(folder):
        return run.base_weights(config, model, mesh, None), {}
    frozen = {}
    if config.lora_rank:
        # a base of random weights is drawn again
        rng = make_keys(jax.random.key(config.seed), 0)["init"]
        frozen["base"] = run.base_weights(config, model, mesh, rng)
    return load_trainable(folder, run.abstract(mesh, run.make_trainable(config, model))), frozen
