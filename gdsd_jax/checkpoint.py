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


def load_trainable(workdir, abstract: PyTree) -> PyTree:
    """Weights or adapters of a run's newest checkpoint, without its optimizer state, placed as `abstract` says.

    Raises:
      ValueError: no checkpoint, or one of another model; one line names the folder and the mend.
    """
    newest = latest_iteration(workdir)
    if newest is None:
        raise ValueError(f"{workdir}: no finished checkpoint there; train with launch/main.py --workdir={workdir}")
    folder = epath.Path(workdir).resolve() / "checkpoints" / str(newest) / "state"
    item = {"state": {"trainable": abstract}}  # the tree of train.as_saved
    handler = ocp.PyTreeCheckpointHandler()
    same_shapes(workdir, handler.metadata(folder).tree["state"]["trainable"], abstract)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    restored = handler.restore(folder, args=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True))
    return restored["state"]["trainable"]


def latest_iteration(workdir) -> int | None:
    """Number of a run's newest finished checkpoint, None where there is none; the run may be going on."""
    folder = epath.Path(workdir).resolve() / "checkpoints"
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


def same_shapes(folder, found: PyTree, abstract: PyTree) -> None:
    """ValueError naming the first leaf that is missing, extra or of another shape."""
    have, want = (
        {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (found, abstract)
    )
    if have != want:
        wrong = min(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
        raise ValueError(f"{folder}: holds another model, first difference at {wrong}")


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
        same_shapes(folder, dict(checkpointer.metadata(folder / "params").item_metadata), abstract)
        return checkpointer.restore(folder / "params", abstract)
