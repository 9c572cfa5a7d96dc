"""What was given where the folder of a model belongs, and what to give in its place."""

import pathlib

from etils import epath

from gdsd_jax import hub, paths

CONVERT = "`python launch/convert.py"
ADAPTER = "adapter_config.json"  # of adapters in the PEFT library's layout


def line_of(folder) -> str:
    """A line for a path that is neither a converted model nor a workdir with a checkpoint: what is
    there, and the mend."""
    folder = epath.Path(folder)
    if not folder.exists() and is_like_a_name(folder):
        name = name_of(folder)
        return (
            f"{name} is no folder here: check the path, or, if it is a name on the Hugging Face "
            f"hub, convert it with {CONVERT} --from_hf={name} --to_orbax=DIR` and give that DIR"
        )
    if are_adapters(folder):
        return adapters_line(folder)
    whole = whole_of(folder)
    if whole is not None:
        return f"{folder} is a part of {whole}: give {whole}"
    if folder.suffix == ".gguf" and folder.is_file():
        return (
            f"{folder} is a GGUF file: convert it with {CONVERT} --from_gguf={folder} "
            "--to_orbax=DIR` and give that DIR"
        )
    if any(folder.glob("*.safetensors")):
        return (
            f"{folder} is a Hugging Face folder: convert it with {CONVERT} --from_hf={folder} "
            "--to_orbax=DIR` and give that DIR"
        )
    return (
        f"{folder} has neither the manifest.json of a converted model nor a run's config.json and "
        "checkpoints/: convert a Hugging Face folder with launch/convert.py, or give the workdir "
        "of launch/main.py"
    )


def are_adapters(folder) -> bool:
    """Whether a folder holds adapters of the PEFT library and no model."""
    folder = epath.Path(folder)
    return (folder / ADAPTER).exists() and not (folder / "config.json").exists()


def adapters_line(folder) -> str:
    """The line for a folder of adapters."""
    return (
        f"{folder} holds adapters of the PEFT library and no model: convert both with {CONVERT} "
        f"--from_hf=MODEL --adapter={folder} --to_orbax=DIR` and give that DIR"
    )


def name_of(folder: epath.Path) -> str:
    """The path as it was given, where the folder of the process was put in front of it."""
    if paths.is_remote(folder) or not folder.is_absolute():
        return str(folder)
    here = pathlib.Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def is_like_a_name(folder: epath.Path) -> bool:
    """Whether a path has the form of a name on the hub."""
    return hub.is_name(name_of(folder))


def whole_of(folder: epath.Path) -> epath.Path | None:
    """The workdir or the converted model that a path lies in; None: in neither."""
    place = paths.absolute(folder)
    for inner, outer in zip((place, *place.parents), place.parents):
        if inner.name == "checkpoints" and (outer / "config.json").exists():
            return outer
        if inner.name in ("params", "adapters") and (outer / "manifest.json").exists():
            return outer
    return None
