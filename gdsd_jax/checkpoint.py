"""Checkpoints by orbax: device state as arrays, the host's part as JSON; visible only when complete."""
import json

import jax
import orbax.checkpoint as ocp
from etils import epath

from gdsd_jax.types import PyTree


class Checkpoints:
    """The checkpoints of one run, newest last.

    A checkpoint is `{"state": tree of arrays, "host": JSON}` under its iteration number.
    """

    def __init__(self, folder, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.manager = ocp.CheckpointManager(epath.Path(folder).resolve(), options=options)

    def save(self, iteration: int, state: PyTree, host: dict) -> None:
        """Starts writing; arrays are copied before this returns, so they may be donated afterwards."""
        if self.manager.latest_step() == iteration:
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        self.manager.save(iteration, args=items)

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def host(self, iteration: int) -> dict:
        return self.manager.restore(iteration, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host

    def restore(self, iteration: int, abstract: PyTree) -> PyTree:
        """The state, placed as the abstract arrays' shardings say."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self.manager.restore(iteration, args=items).state

    def wait(self) -> None:
        """Returns when everything saved so far is complete on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


def save_params(folder, params: PyTree, manifest: dict) -> None:
    """A finished model: an orbax folder of parameters and manifest.json, written last."""
    folder = epath.Path(folder).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params, force=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def load_params(folder, abstract: PyTree) -> PyTree:
    """Parameters of a converted model, placed as the abstract arrays' shardings say.

    Raises:
      ValueError: nothing there, or another model's shapes; one line names the folder and the mend.
    """
    folder = epath.Path(folder).resolve()
    if not (folder / "manifest.json").exists():
        raise ValueError(f"{folder}: no converted model there; write one with launch/convert.py --to_orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder / "params").item_metadata
        have = {jax.tree_util.keystr(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(dict(found))}
        want = {jax.tree_util.keystr(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(abstract)}
        if have != want:
            wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
            raise ValueError(f"{folder}: holds another model, first difference at {wrong[0]}")
        return checkpointer.restore(folder / "params", abstract)
