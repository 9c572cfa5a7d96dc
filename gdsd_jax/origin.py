"""What a run stands on that its settings name and its checkpoints do not hold: the user's files,
and the weights under its adapters. It is noted when a run begins, and looked at when it goes on."""

from collections.abc import Callable
import hashlib
import json

from gdsd_jax import json_files, paths
from gdsd_jax.checkpoint import OtherSettings, is_converted, latest_iteration
from gdsd_jax.settings import Settings

FILE = "origin.json"  # in a workdir; earlier versions wrote none


def of(chosen: Settings) -> dict[str, str]:
    """{setting: what tells one state of the file or folder that it names from another}."""
    places = {"data_file": chosen.data_file, "heldout_file": chosen.heldout_file}
    found = {
        key: hashlib.sha256(paths.absolute(place).read_bytes()).hexdigest()
        for key, place in places.items()
        if place is not None and paths.absolute(place).is_file()
    }
    return found | base_of(chosen)


def base_of(chosen: Settings) -> dict[str, str]:
    """`of`, of the frozen weights under adapters alone; none where all weights are trained."""
    folder = chosen.init_from
    if not chosen.lora_rank or folder is None:
        return {}
    if not is_converted(folder):
        return {"init_from": f"checkpoint {latest_iteration(folder)}"}
    manifest = (paths.absolute(folder) / "manifest.json").read_bytes()
    return {"init_from": hashlib.sha256(manifest).hexdigest()}


def write(workdir, chosen: Settings) -> None:
    """Notes what the run in a workdir stands on."""
    paths.write_whole(paths.absolute(workdir) / FILE, json.dumps(of(chosen), indent=1).encode())


def check(workdir, chosen: Settings, states: Callable[[Settings], dict[str, str]]) -> None:
    """Whether a run still stands on what it began with.

    Args:
      workdir: of a run.
      chosen: its settings.
      states: `of` or `base_of`; not called where nothing was noted.

    Raises:
      checkpoint.OtherSettings: it does not; one line names the setting and the mend.
    """
    file = paths.absolute(workdir) / FILE
    if not file.exists():
        return
    try:
        before = json_files.parse(file.read_text())
    except ValueError as error:
        raise OtherSettings(f"{file}: not JSON ({error}): delete it") from None
    if not isinstance(before, dict):
        raise OtherSettings(f"{file}: no JSON object: delete it")
    for key, state in states(chosen).items():
        if before.get(key, state) != state:
            raise OtherSettings(
                f"{workdir}: {key}={getattr(chosen, key)} is not what it was when the run there "
                "began: give it as it was, or begin another run"
            )
