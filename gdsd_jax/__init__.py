"""Post-training of diffusion language models in JAX: GDSD, OPDLM and their baselines.

`load(folder, mesh=None)` gives the denoiser, the parameters and the tokenizer of a model.
"""

import importlib
from typing import Any

# name -> its module, which is imported when it is asked for: jax takes seconds
EXPORTS = {"load": "gdsd_jax.weights", "__version__": "gdsd_jax.version"}


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(EXPORTS[name]), name)
