"""Files that are replaced as a whole: an error leaves the earlier file as it was."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import TextIO


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Generator[TextIO]:
    """Open a new text file, which takes the place of `path` if the block ends without an error.

    Args:
        path: File to replace or to create.
        mode: Mode of the new file, which the umask restricts.

    Raises:
        OSError: The file cannot be created, written or put in its place.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    # Exclusive: in a directory that others can write to, the name could be a symbolic link.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
