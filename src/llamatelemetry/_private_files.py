"""Directories and files that only this user can read, because telemetry can contain prompts.

The modes do not depend on the umask. On Windows, access depends on the directory instead.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from llamatelemetry._whole_files import whole_file

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700


def make_private_directory(path: Path) -> None:
    """Create a directory with mode 0700, and missing parents. An existing one keeps its mode.

    Raises:
        OSError: The directory cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(_DIRECTORY_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        _change_mode(path, _DIRECTORY_MODE)


def open_private_file(path: Path, flags: int) -> int:
    """Open or create a file with mode 0600, and return its descriptor.

    A symbolic link is not followed: in a directory that others can write to, it could lead to any
    file of this user.

    Raises:
        OSError: The file cannot be opened.
    """
    make_private_file(path)
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def make_private_file(path: Path) -> None:
    """Create an empty file with mode 0600, or remove the permissions of other users from a file.

    An existing file is not opened: that would release the locks that SQLite has on it.

    Raises:
        OSError: The file cannot be created.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))
    except FileExistsError:
        found = path.lstat().st_mode
        if stat.S_ISREG(found) and found & 0o077:
            _change_mode(path, stat.S_IMODE(found) & ~0o077)
    else:
        _change_mode(path, _FILE_MODE)


def write_private_text(path: Path, text: str) -> None:
    """Write a file with mode 0600. An existing file is replaced atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(path, _FILE_MODE) as file:
        file.write(text)
    _change_mode(path, _FILE_MODE)


def _change_mode(path: Path, mode: int) -> None:
    # Some file systems have no modes, and a file may belong to another user.
    with suppress(OSError):
        path.chmod(mode)
