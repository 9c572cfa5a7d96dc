"""Launch scripts called inside of this process."""

from collections.abc import Callable


def code_of(main: Callable[[], int]) -> int:
    """The exit code of a script's `main`, also where it ends the process, as of a wrong flag."""
    try:
        return main()
    except SystemExit as stop:
        return stop.code
