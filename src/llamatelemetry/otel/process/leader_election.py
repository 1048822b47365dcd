"""Leader election: one process of a host reports the metrics of the whole host.

Otherwise eight workers would each report the energy of a GPU or the counters of a server, and
sums would be eight times too high. The processes of one service elect a leader by a lock on a
file. The kernel releases the lock when the leader ends, however it ends, and the next process
that calls `is_leader()` acquires it. There is no thread, and no call waits:

    election = LeaderElection("gpu-metrics", service="shop")
    if election.is_leader():  # before each report
        ...
    election.release()  # when this process stops reporting

The processes must see the same directory: each container elects a leader of its own.
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

from llamatelemetry._setup_in_progress import wait_for_setup

# Windows does not have these locks: there, every process is a leader.
if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger("llamatelemetry.otel")


class LeaderElection:
    """An election with at most one leader per host, user and service at a time.

    Two objects for the same election exclude each other within a process, too. A forked child
    does not inherit the leadership of its parent. The directory of the lock file must be
    writable only by this user. By default it is a private one in the system's directory for
    temporary files.
    """

    def __init__(self, name: str, service: str, *, directory: Path | None = None) -> None:
        self._name = name
        self._file_name = _file_name(name, service)
        self._directory = directory
        self._is_default = directory is None
        self._fd: int | None = None
        self._is_unlockable = sys.platform == "win32"
        _elections.add(self)

    def is_leader(self) -> bool:
        """Return whether this process is the leader. Acquires the lock if it is free.

        It needs a few system calls on a local file and never waits. If no lock file can be
        created, every process is a leader, and a warning is logged once.
        """
        with _state.lock:
            if self._fd is not None and not (self.path and _is_file_at(self._fd, self.path)):
                # The lock file was deleted, so other processes cannot see this lock.
                self._close()
            if self._fd is None and not self._is_unlockable:
                self._acquire()
            return self._fd is not None or self._is_unlockable

    def release(self) -> None:
        """Release the leadership. `is_leader()` tries to acquire it again."""
        with _state.lock:
            self._close()

    @property
    def path(self) -> Path | None:
        """The lock file, or `None` before the first `is_leader()` or without a directory.

        A leader can store data for its successor next to it.
        """
        return None if self._directory is None else self._directory / self._file_name

    def _acquire(self) -> None:
        if self._is_default:
            # Checked each time, because it may have been deleted.
            self._directory = _private_directory()
        try:
            if self.path is None:
                raise FileNotFoundError("no writable directory for temporary files")
            self._fd = _locked(self.path)
        except OSError as error:
            self._is_unlockable = True
            _logger.warning(
                "Cannot elect one process to report %s (%s): every process reports it, so sums are "
                "too high. Set TMPDIR to a writable directory",
                self._name,
                error,
            )

    def _close(self) -> None:
        # Closed, not unlocked: inherited descriptors share one lock, so a child that unlocks it
        # would take it from its parent.
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def detach_after_fork(self) -> None:
        """Close the inherited lock file in a forked child. The parent keeps the lock."""
        self._close()

    def __del__(self) -> None:
        self._close()


def _file_name(name: str, service: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{name}-{service}")[:80]
    exact = f"{name}\0{service}".encode(errors="backslashreplace")
    return f"{readable}-{hashlib.sha256(exact).hexdigest()[:12]}.lock"


def _locked(path: Path) -> int | None:
    """Open and lock the file. Return its descriptor, or `None` if another process has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_file_at(fd, path):
            os.ftruncate(fd, 0)
            # For people who look for the leader.
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
    except BlockingIOError:
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_file_at(fd: int, path: Path) -> bool:
    """Return whether the open file is still the one at this path."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return os.path.samestat(os.fstat(fd), found)


def _private_directory() -> Path | None:
    """Return the user's private directory, and create it if it is missing.

    It is the same for all processes with the same TMPDIR.
    """
    for parent in _temporary_directories():
        directory = parent / f"llamatelemetry-{os.geteuid()}"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
        except OSError:
            continue
        # Any user can create a directory of that name there, and hold every lock in it.
        is_private = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and is_private:
            return directory
    return None


def _temporary_directories() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
    # Containers with a read-only file system have this one, too.
    yield Path("/dev/shm")  # noqa: S108 - used for a private directory


_elections: Final[WeakSet[LeaderElection]] = WeakSet()


class _State:
    """The lock of all elections. It is held across a fork, so that no child inherits a partial state.

    It is reentrant, because a signal handler may fork while it is held.
    """

    lock = threading.RLock()
    _held = 0

    def before_fork(self) -> None:
        wait_for_setup()  # It may need this lock.
        self.lock.acquire()
        self._held += 1

    def after_in_parent(self) -> None:
        # Not held if this handler was registered by another thread during the fork.
        if self._held:
            self._held -= 1
            self.lock.release()

    def after_in_child(self) -> None:
        self._held = 0
        self.lock = threading.RLock()
        for election in list(_elections):
            election.detach_after_fork()


_state = _State()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_state.before_fork,
        after_in_parent=_state.after_in_parent,
        after_in_child=_state.after_in_child,
    )
