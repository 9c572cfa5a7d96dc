"""Tasks by name. A task is a module with prompts, gold answers and the one score used to train and
to evaluate."""

from collections.abc import Mapping
import types

from gdsd_jax.tasks import coding, prompts

TASKS: Mapping[str, types.ModuleType] = types.MappingProxyType(
    {"coding": coding, "prompts": prompts}
)
