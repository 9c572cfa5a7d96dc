"""Files of weights that cannot be read: telling damage, which stays, from what may pass."""

from collections.abc import Iterator
import contextlib
import inspect
import logging
import re
import sys
import warnings

from etils import epath

from gdsd_jax import paths

PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED")
PASSING += ("UNAUTHENTICATED", "CANCELLED", "ABORTED")  # status words of tensorstore and XLA
LATE = "Event loop is closed"  # of what waits for arrays


class Damaged(paths.WorkdirError):
    """A checkpoint that cannot be read, or whose numbers are not those that were written."""


@contextlib.contextmanager
def naming_damage(place: epath.Path) -> Iterator[None]:
    """Damaged, one line, in place of whatever reading the checkpoint at `place` raises; OSError
    where the files may be whole and another try may succeed, such as without a network."""
    silence_late_arrays()
    try:
        yield
    except Exception as error:
        told = f"{place} cannot be read ({reason_of(error)})"
        raise OSError(told) if is_passing(error) else Damaged(told) from error


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, tells nothing about the files."""
    if error is None:
        return False
    kinds = (PermissionError, ConnectionError, TimeoutError, MemoryError, ImportError)
    words = re.findall(r"[A-Z]+(?:_[A-Z]+)*", str(error))
    passing = isinstance(error, kinds) or not {*words}.isdisjoint(PASSING)
    return passing or is_passing(error.__cause__)


def reason_of(error: Exception) -> str:
    """An error in one line, without the details that tensorstore adds; what a long one says last is
    where it came from."""
    text = re.split(r"See full TensorStore|\[\w+=", " ".join(str(error).split()))[0].strip()
    if len(text) > 200:
        text = f"{text[:60]} ... {text[-140:]}"
    return f"{type(error).__name__}: {text}"


def silence_late_arrays() -> None:
    """From now on nothing is printed of arrays that end their way to or from disk after one of
    them has failed: that one's error is raised, and tells enough.

    The threads of the others find the loop that waited for them closed, and each prints a
    traceback; asyncio logs those that failed too, and those that were not begun, or are thrown away
    half done, are warned of.
    """
    if getattr(sys.unraisablehook, "before", None) is not None:
        return
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook

    def tell(fault) -> None:
        is_late = isinstance(fault.exc_value, RuntimeError) and LATE in str(fault.exc_value)
        if not (is_late or inspect.iscoroutine(fault.object)):
            before(fault)

    tell.before = before
    sys.unraisablehook = tell
