"""Models by their name on the Hugging Face hub, downloaded by the library `huggingface_hub`."""

import pathlib
import re
from typing import NamedTuple

NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
# what a conversion reads: weights as safetensors, tokenizer and settings, the model's own code
FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py")
# what is in folders, and weights in the layout of their makers
NOT_FILES = ("*/*", "consolidated*")


class Download(NamedTuple):
    """A repository on this machine."""

    folder: pathlib.Path
    name: str  # with the revision's hash, as owner/name@hash


def is_name(text: str) -> bool:
    """Whether a text has the form owner/name or owner/name@revision."""
    return NAME.fullmatch(text) is not None


def download(text: str) -> Download:
    """The files of a repository that a conversion reads, in the library's cache.

    Args:
      text: owner/name or owner/name@revision, a branch, a tag or a hash.

    Raises:
      ValueError: the library is missing, or it cannot download that; one line says what to do.
    """
    name, revision = NAME.fullmatch(text)["name"], NAME.fullmatch(text)["revision"]
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{text}: no such folder; to download it as a name on the Hugging Face hub, "
            "`pip install huggingface_hub`"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=FILES, ignore_patterns=NOT_FILES
        )
    except Exception as error:  # of many libraries: the network's, the hub's, the disk's
        said = " ".join(str(error).split())
        raise ValueError(
            f"{text}: no such folder, and it cannot be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {said[:160]}): check the name and the network, or copy the "
            "model's folder here and give its path"
        ) from None
    folder = pathlib.Path(folder)
    return Download(folder, f"{name}@{folder.name}")
