"""Choosing the one process of a host that reports what belongs to the host.

A GPU's energy, or the counters of a server, would come from each of eight workers and be summed
up to eight times the truth. So the processes of one service elect one among them by a lock on a
file. The kernel frees the lock when its holder ends, however it ends, and whoever asks next has
it. There is no thread, and nothing to wait for:

    election = HostElection("gpu-metrics", service="shop")
    if election.is_elected():  # each time something is to be reported
        ...
    election.resign()  # when this process stops reporting

The processes must see the same folder: those of several containers elect one in each.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from weakref import WeakSet

if sys.platform != "win32":  # which has no such locks: there every process is elected
    import fcntl

_logger = logging.getLogger("llamatelemetry.otel")


class HostElection:
    """One office that at most one process of this host and user holds at a time.

    Two of them for the same office exclude each other within a process, too. A forked child
    holds nothing of what its parent holds.

    Args:
        name: of the office: what is reported.
        service: whose processes stand for it; the resource's `service.name`.
        directory: where the lock file is, one that the user alone can write to. By default a
            folder of the user's in the system's folder for temporary files.
    """

    def __init__(self, name: str, service: str, *, directory: Path | None = None) -> None:
        self._name = name
        self._file_name = _file_name(name, service)
        self._directory = directory
        self._is_default = directory is None
        self._fd: int | None = None
        self._is_unlockable = sys.platform == "win32"
        _elections.add(self)

    def is_elected(self) -> bool:
        """Whether this process holds the office; it takes it when nobody does.

        A few system calls on a local file: it never waits. Where no lock file can be made,
        every process counts as elected, which is said once.
        """
        with _state.lock:
            if self._fd is not None and not (self.path and _is_file_at(self._fd, self.path)):
                self._close()  # somebody has cleaned up: others can no longer see our lock
            if self._fd is None and not self._is_unlockable:
                self._stand()
            return self._fd is not None or self._is_unlockable

    def resign(self) -> None:
        """Lets another process have the office. `is_elected()` stands for it again."""
        with _state.lock:
            self._close()

    @property
    def path(self) -> Path | None:
        """The lock file, for what the holder leaves to its successor beside it.

        None before the first `is_elected()`, and where there is no folder for it.
        """
        return None if self._directory is None else self._directory / self._file_name

    def _stand(self) -> None:
        if self._is_default:  # each time: it may have been cleaned up, too
            self._directory = _private_directory()
        try:
            if self.path is None:
                raise FileNotFoundError("no folder for temporary files can be written to")
            self._fd = _locked(self.path)
        except OSError as error:
            self._is_unlockable = True
            _logger.warning(
                "Which process of this host reports %s cannot be settled (%s): every one will. "
                "Set TMPDIR to a folder that this user can write to",
                self._name,
                error,
            )

    def _close(self) -> None:
        # Closed, not unlocked: a lock is of all descriptors that were inherited from one
        # another, and unlocking by a child would take it from its parent.
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def leave_to_the_parent(self) -> None:
        """In a forked child: lets go of what only the parent holds."""
        self._close()

    def __del__(self) -> None:
        self._close()


def _file_name(name: str, service: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{name}-{service}")[:80]
    exact = f"{name}\0{service}".encode(errors="backslashreplace")
    return f"{readable}-{hashlib.sha256(exact).hexdigest()[:12]}.lock"


def _locked(path: Path) -> int | None:
    """A descriptor of the file with its lock, or None when somebody else has that."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_file_at(fd, path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # for people who look for the holder
            return fd
    except BlockingIOError:
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_file_at(fd: int, path: Path) -> bool:
    """Whether the file that is open is still the one that others find by the path."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return os.path.samestat(os.fstat(fd), found)


def _private_directory() -> Path | None:
    """The user's own folder, made if need be; the same for all processes with one TMPDIR."""
    for parent in _temporary_directories():
        folder = parent / f"llamatelemetry-{os.geteuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        # Anybody can make a folder of that name there, and hold every lock in it.
        is_private = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and is_private:
            return folder
    return None


def _temporary_directories() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
    # Containers with a read-only file system have it all the same.
    yield Path("/dev/shm")  # noqa: S108 - a private folder is made in it


_elections: Final[WeakSet[HostElection]] = WeakSet()


class _State:
    """One lock for all: held across a fork, so that no child inherits what is half done.

    Reentrant, because a signal handler may fork while it is held.
    """

    lock = threading.RLock()

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_in_parent(self) -> None:
        self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        for election in list(_elections):
            election.leave_to_the_parent()


_state = _State()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_state.before_fork,
        after_in_parent=_state.after_in_parent,
        after_in_child=_state.after_in_child,
    )
