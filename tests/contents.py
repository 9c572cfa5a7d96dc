"""What is in a folder, for tests of what changes there."""

import hashlib
from pathlib import Path


def contents(folder: Path) -> dict[str, str | None]:
    """Path -> sum of the content, None of a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }
