"""Which process is behind a server's origin, for what only processes have: GPU energy, for one.

Of a managed server its manager knows. Of another one on this machine the kernel tells, by the
socket it listens on: in Linux's ``/proc``, which needs no library. That looks through the files of
many processes, so what was found is kept for some seconds. Of any other server nothing is known.

    >>> pid_of("http://127.0.0.1:8080")
    4711
    >>> pid_of("http://192.0.2.7:8080") is None
    True
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry.llama._listening import listening_sockets, open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from llamatelemetry.llama._listening import ListeningSocket

_PROC: Final = Path("/proc")
_FOUND_HOLDS_S: Final = 5.0
# Somebody else's process, or one behind a container's port: looking again seldom helps.
_NOT_FOUND_HOLDS_S: Final = 30.0
_KEPT_AT_MOST: Final = 256


class _Lookup(NamedTuple):
    pid: int | None
    expires_s: float


_managed: dict[str, Callable[[], int | None]] = {}
_lookups: dict[str, _Lookup] = {}


def register(origin: str, pid: Callable[[], int | None]) -> None:
    """Note who is behind an origin; ``pid`` gives ``None`` when the process has ended."""
    _managed[origin] = pid


def unregister(origin: str) -> None:
    """Undo `register`."""
    _managed.pop(origin, None)


def pid_of(origin: str) -> int | None:
    """Give the process id of the server at an origin, if it is known.

    Args:
        origin: scheme, host and port, as `genai.model.Server.origin` has them.
    """
    managed = _managed.get(origin)
    if managed is not None:
        return managed()
    kept = _lookups.get(origin)
    now_s = time.monotonic()
    if kept is not None and now_s < kept.expires_s:
        return kept.pid
    pid = _look_up(origin, None if kept is None else kept.pid)
    if len(_lookups) >= _KEPT_AT_MOST:
        _lookups.clear()
    _lookups[origin] = _Lookup(pid, now_s + (_NOT_FOUND_HOLDS_S if pid is None else _FOUND_HOLDS_S))
    return pid


def pids_of(origin: str) -> frozenset[int]:
    """Give the process of `pid_of` and all below it; empty if it is not known.

    The work may be done further down: a router has a process for each of its models, and a
    wrapper script starts the server.
    """
    pid = pid_of(origin)
    if pid is None:
        return frozenset()
    found, ahead = {pid}, [pid]
    while ahead:
        below = _children_of(ahead.pop()) - found
        found |= below
        ahead += below
    return frozenset(found)


def _look_up(origin: str, last_pid: int | None) -> int | None:
    host, _, port = origin.partition("://")[2].rpartition(":")
    addresses = _loopback_addresses(host)
    if not (addresses and port.isdigit()):
        return None
    try:
        sockets = _reached(listening_sockets(int(port)), addresses)
        return _only_holder({each.name for each in sockets}, last_pid) if sockets else None
    except OSError:  # this system has no such files
        return None


def _loopback_addresses(host: str) -> set[str]:
    """The addresses of this machine's own that a host name means; none if it is another machine."""
    if host == "localhost":
        return {"127.0.0.1", "::1"}
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return set()
    return {str(address)} if address.is_loopback else set()


def _reached(sockets: Collection[ListeningSocket], addresses: set[str]) -> list[ListeningSocket]:
    """Of those on a port the ones that a connection gets to: on the address, else on every one."""
    exact = [each for each in sockets if each.address in addresses]
    return exact or [each for each in sockets if each.address in {"0.0.0.0", "::"}]  # noqa: S104


def _only_holder(wanted: set[str], last_pid: int | None) -> int | None:
    """The process that has one of these sockets; of several the one that started the others."""
    if last_pid is not None and not wanted.isdisjoint(_open_files(last_pid)):
        return last_pid
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    holders = {pid for pid in pids if not wanted.isdisjoint(_open_files(pid))}
    first = [pid for pid in holders if _parent_of(pid) not in holders]
    return first[0] if len(first) == 1 else None


def _open_files(pid: int) -> set[str]:
    try:
        return open_files(pid)
    except PermissionError:  # somebody else's
        return set()


def _parent_of(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name before it may contain brackets, spaces and bytes that are not text.
        return int((_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def _children_of(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                found |= {int(child) for child in (thread / "children").read_text().split()}
    return found
