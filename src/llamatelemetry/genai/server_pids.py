"""The process behind a server's origin, needed for GPU energy per process.

`ServerManager` registers the process of a managed server. For another server on this machine, the
process is the one that owns the listening socket in Linux's `/proc`, which needs no library. A
lookup reads the files of many processes, so its result is cached for some seconds. The process of
a server on another machine is unknown.

    >>> pid_of("http://127.0.0.1:8080")
    4711
    >>> pid_of("http://192.0.2.7:8080") is None
    True
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry._limits import Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
_FOUND_TTL_S: Final = 5.0
# The process of another user, or one behind a container's port: a new lookup seldom helps.
_NOT_FOUND_TTL_S: Final = 30.0
_LIMIT: Final = Limit("server_processes", 256, "Processes of servers on this machine")


class _Lookup(NamedTuple):
    pid: int | None
    expires_s: float


_managed: dict[str, Callable[[], int | None]] = {}
_lookups: dict[str, _Lookup] = {}


def register(origin: str, pid: Callable[[], int | None]) -> None:
    """Register the process behind an origin. `pid` returns `None` once the process has exited."""
    _managed[origin] = pid


def unregister(origin: str) -> None:
    """Remove the process behind an origin."""
    _managed.pop(origin, None)


def pid_of(origin: str) -> int | None:
    """Return the process id of the server at an origin, or `None` if it is unknown.

    Args:
        origin: Scheme, host and port, in the format of `genai.model.Server.origin`.
    """
    managed = _managed.get(origin)
    if managed is not None:
        return managed()
    cached = _lookups.get(origin)
    now_s = time.monotonic()
    if cached is not None and now_s < cached.expires_s:
        return cached.pid
    pid = _look_up(origin, None if cached is None else cached.pid)
    _lookups[origin] = _Lookup(pid, now_s + (_NOT_FOUND_TTL_S if pid is None else _FOUND_TTL_S))
    _LIMIT.trim(_lookups)
    return pid


def is_on_this_machine(origin: str) -> bool:
    """Return whether an origin is a loopback address, so that `pid_of` may find its process."""
    return bool(_loopback_addresses(origin.partition("://")[2].rpartition(":")[0]))


def pids_of(origin: str) -> frozenset[int]:
    """Return the process of `pid_of` and all its descendants; empty if it is unknown.

    A descendant may do the work: a router has a process for each of its models, and a wrapper
    script starts the server.
    """
    pid = pid_of(origin)
    if pid is None:
        return frozenset()
    found, unvisited = {pid}, [pid]
    while unvisited:
        children = _children_of(unvisited.pop()) - found
        found |= children
        unvisited += children
    return frozenset(found)


def _look_up(origin: str, last_pid: int | None) -> int | None:
    host, _, port = origin.partition("://")[2].rpartition(":")
    addresses = _loopback_addresses(host)
    if not (addresses and port.isdigit()):
        return None
    try:
        names = _reachable(_listening_sockets(int(port)), addresses)
        return _owner_of(names, last_pid) if names else None
    except OSError:
        # This system has no /proc.
        return None


def _loopback_addresses(host: str) -> set[str]:
    """Return the loopback addresses that a host name stands for; empty for another machine."""
    if host == "localhost":
        return {"127.0.0.1", "::1"}
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return set()
    return {str(address)} if address.is_loopback else set()


def _reachable(sockets: Mapping[str, str], addresses: set[str]) -> set[str]:
    """Return the names of the sockets that a connection to these addresses reaches.

    A socket on the exact address takes precedence over one on all addresses.
    """
    exact = {name for name, address in sockets.items() if address in addresses}
    return exact or {name for name, address in sockets.items() if address in {"0.0.0.0", "::"}}  # noqa: S104


def _owner_of(names: set[str], last_pid: int | None) -> int | None:
    """Return the process that owns one of these sockets, or the common parent of several owners."""
    if last_pid is not None and _has_open(last_pid, names):
        return last_pid
    owners = {pid for pid in _all_pids() if _has_open(pid, names)}
    parents = [pid for pid in owners if _parent_of(pid) not in owners]
    return parents[0] if len(parents) == 1 else None


def session_listens(session: int, port: int) -> bool | None:
    """Return whether a process of a session listens on a port; `None` if this is unknown."""
    try:
        names = _listening_sockets(port).keys()
        if not names:
            return False
        pids = (pid for pid in _all_pids() if _is_in_session(pid, session))
        return any(not names.isdisjoint(_open_files(pid)) for pid in pids)
    except OSError:
        return None


def _listening_sockets(port: int) -> dict[str, str]:
    """Return the addresses of all sockets that listen on a port, by their names as open files.

    Raises:
        FileNotFoundError: This system has no table of sockets.
    """
    found: dict[str, str] = {}
    tables = [table for name in ("tcp", "tcp6") if (table := _PROC / "self/net" / name).exists()]
    if not tables:
        raise FileNotFoundError("no table of sockets")
    for table in tables:
        for line in table.read_text().splitlines()[1:]:
            # slot, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode
            columns = line.split()
            address, _, its_port = columns[1].rpartition(":")
            if columns[3] == _LISTENING and int(its_port, 16) == port:
                found[f"socket:[{columns[9]}]"] = _decode_address(address)
    return found


def _decode_address(address: str) -> str:
    """Decode `0100007F` to `127.0.0.1`: four-byte words in the machine's byte order."""
    words = struct.iter_unpack("=I", bytes.fromhex(address))
    return str(ipaddress.ip_address(b"".join(struct.pack("!I", word) for (word,) in words)))


def _is_in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except (ProcessLookupError, PermissionError):
        return False


def _has_open(pid: int, names: set[str]) -> bool:
    try:
        return not names.isdisjoint(_open_files(pid))
    except PermissionError:
        # The process belongs to another user.
        return False


def _open_files(pid: int) -> set[str]:
    """Return the names of a process's open files, as in `/proc`.

    Raises:
        PermissionError: The process belongs to another user.
    """
    found: set[str] = set()
    # The process may exit, and each file may be closed, while they are read.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(str(entry.readlink()))
    return found


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _parent_of(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The process name before it may contain parentheses, spaces and undecodable bytes.
        return int((_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def _children_of(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                found |= {int(child) for child in (thread / "children").read_text().split()}
    return found
