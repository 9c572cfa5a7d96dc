"""Models by their name on the Hugging Face hub, down and up by the library `huggingface_hub`."""

import pathlib
import re
from typing import NamedTuple

from gdsd_jax.mistakes import one_line

NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
# what a conversion reads: weights as safetensors, tokenizer and settings, the model's own code, and
# the model card, which names the license
FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md")
# what is in folders, and weights in the layout of their makers
NOT_FILES = ("*/*", "consolidated*")


class Download(NamedTuple):
    """A repository on this machine."""

    folder: pathlib.Path
    name: str  # with the revision's hash, as owner/name@hash


def is_name(text: str) -> bool:
    """Whether a text has the form owner/name or owner/name@revision."""
    return NAME.fullmatch(text) is not None


class Revision(NamedTuple):
    """One state of a repository."""

    name: str  # owner/name
    revision: str


def split(text: str) -> Revision:
    """The parts of owner/name@revision; of any other text both are ""."""
    match = NAME.fullmatch(text)
    if match is None or match["revision"] is None:
        return Revision("", "")
    return Revision(match["name"], match["revision"])


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
        raise ValueError(
            f"{text}: no such folder, and it cannot be downloaded from the Hugging Face hub "
            f"({_reason(error)}): check the name and the network, or copy the "
            "model's folder here and give its path"
        ) from None
    folder = pathlib.Path(folder)
    return Download(folder, f"{name}@{folder.name}")


# ---------------------------------------------------------------- up

# of weights or adapters that were there before; what is uploaded too stays
REPLACED = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json")


def check_push(name: str) -> None:
    """Whether a model can be uploaded, before anything is written.

    Args:
      name: owner/name of the repository; it may be there already.

    Raises:
      ValueError: no such name, no library, no token, no network, or a token that may not write
        there; one line says what to do.
    """
    flag = f"--push={name}"
    try:
        import huggingface_hub
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise ValueError(f"{flag} needs a package: `pip install huggingface_hub`") from None
    try:
        validate_repo_id(name)
        if not is_name(name) or "@" in name:
            raise ValueError("it has no owner")
    except ValueError as error:
        said = one_line(error, 160)
        raise ValueError(f"{flag}: no name of a repository ({said}): give USER/NAME") from None
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"{flag}: no token: `hf auth login`, or set HF_TOKEN to one that may write"
        )
    try:
        user = huggingface_hub.whoami()
    except Exception as error:  # of many libraries
        raise ValueError(
            f"{flag}: the Hugging Face hub does not answer ({_reason(error)}): check the token and "
            "the network, or leave --push out and upload the folder later"
        ) from None
    owners = [user["name"], *(one["name"] for one in user.get("orgs", ()))]
    owner = name.partition("/")[0]
    if owner.lower() not in map(str.lower, owners):
        raise ValueError(
            f"{flag}: the token is of {user['name']}, who does not belong to {owner}: choose one "
            f"of {', '.join(owners)}"
        )
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise ValueError(
            f"{flag}: the token may only read: make one that may write at "
            "https://huggingface.co/settings/tokens"
        )


def push(name: str, folder: pathlib.Path, private: bool) -> str:
    """Uploads a folder in one commit, in place of other weights there; its address.

    Args:
      name: owner/name, which `check_push` has passed.
      folder: a local one.
      private: whether a repository that is made for it is seen by its owner alone.

    Raises:
      ValueError: it cannot be uploaded; one line says how to do it later.
    """
    import huggingface_hub

    try:
        address = huggingface_hub.create_repo(name, private=private or None, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Weights and model card by gdsd_jax",
            delete_patterns=list(REPLACED),
        )
    except Exception as error:  # of many libraries
        raise ValueError(
            f"{folder} is complete, but it is not on the Hugging Face hub ({_reason(error)}): "
            f"upload it by `hf upload {name} {folder}`"
        ) from None
    return str(address)


def _reason(error: Exception) -> str:
    """The error in one line that is not long."""
    return f"{type(error).__name__}: {one_line(error, 160)}"
