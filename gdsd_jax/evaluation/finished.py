"""The batches of an evaluation that are done, kept in a file until all are: a killed evaluation
goes on from there."""

from collections.abc import Callable, Mapping
import json
from typing import Any

from etils import epath

from gdsd_jax import json_files, paths
from gdsd_jax.hosts import Hosts
from gdsd_jax.metrics import Pace, duration


class Finished:
    """Batches by their names.

    The file's first line says what is evaluated, each other line is a batch. It is made with the
    first batch. Only the first process reads and writes; the others learn what it has read.
    """

    def __init__(
        self,
        path,
        manifest: Mapping[str, Any],
        hosts: Hosts,
        batches: int,
        fresh: bool = False,
        say: Callable[[str], None] = print,
    ):
        """Reads what is there.

        Args:
          path: of the file, local or gs://.
          manifest: what is evaluated, as JSON holds it.
          hosts: the processes that evaluate together, which all must call this.
          batches: how many there will be.
          fresh: pass over what is there.
          say: gets a line after each batch, and one about what is there; in the first process.

        Raises:
          ValueError: what is there belongs to another evaluation; one line says the mend.
        """
        self.path, self.manifest, self.hosts = epath.Path(path), dict(manifest), hosts
        self._file = None
        self._say, self._count = say, batches
        known, fault = {}, None
        if hosts.first and not fresh:
            try:
                known = read(self.path, self.manifest)
            except ValueError as error:
                fault = str(error)
        known, fault = hosts.exchange((known, fault))[0]
        if fault is not None:
            raise ValueError(fault)
        self.batches: dict[str, Any] = known
        self._pace = Pace(batches, len(known))
        if known and hosts.first:
            say(f"{len(known)} of {batches} batches are done, in {self.path}")

    def get(self, key: str) -> Any | None:
        """The batch of that name; None where it is not done."""
        return self.batches.get(key)

    def keep(self, key: str, batch: Any) -> None:
        """Adds a batch, and on a local disk its line, which a kill can only tear."""
        self.batches[key] = batch
        if not self.hosts.first:
            return
        if paths.is_remote(self.path):  # an object store appends nothing
            self._write()
        elif self._file is None:
            self._write()
            self._file = open(self.path, "a", encoding="utf-8")
        else:
            self._file.write(line_of([key, batch]))
            self._file.flush()
        self._tell()

    def _tell(self) -> None:
        """Says how far the evaluation is, and how long it will take."""
        done = len(self.batches)
        self._say(f"batch {done}/{self._count} | {duration(self._pace.left(done))} left")

    def _write(self) -> None:
        """Writes the whole file, without what was torn."""
        lines = [line_of(self.manifest), *map(line_of, self.batches.items())]
        paths.write_whole(self.path, "".join(lines).encode())

    def remove(self) -> None:
        """Takes the file away: all is done and written elsewhere."""
        if self._file is not None:
            self._file.close()
        if self.hosts.first:
            self.path.unlink(missing_ok=True)


def once(finished: Finished | None, key: str, make: Callable[[], Any]) -> Any:
    """The batch of that name, as JSON holds it: what is kept, else what `make` gives, kept from now
    on; None: nothing is kept."""
    batch = None if finished is None else finished.get(key)
    if batch is None:
        batch = make()
        if finished is not None:
            finished.keep(key, batch)
    return batch


def line_of(value: Any) -> str:
    """A line of the file."""
    return json.dumps(value) + "\n"


def read(path: epath.Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The batches of a file; none where there is no file. What a kill has torn is passed over.

    Raises:
      ValueError: the file is none, or belongs to another manifest; one line says the mend.
    """
    mend = "give --fresh to begin again, or another --out"
    if not path.exists():
        return {}
    lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]
    try:
        known, *batches = map(json_files.parse, lines or ["{}"])
        batches = {key: batch for key, batch in batches}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the batches of an evaluation ({error}); {mend}") from None
    other = difference(known, json.loads(json.dumps(manifest)))
    if other is not None:
        raise ValueError(f"{path} holds batches of another evaluation ({other}): {mend}")
    return batches


def difference(known: Any, wanted: Any, where: str = "") -> str | None:
    """The first entry in which two values of JSON differ, for people; None where they are equal."""
    if known == wanted:
        return None
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in [*wanted, *known]:
            there = f"{where}.{key}" if where else key
            said = difference(known.get(key), wanted.get(key), there)
            if said is not None:
                return said
    return f"{where} was {known!r:.60}, now it is {wanted!r:.60}"
