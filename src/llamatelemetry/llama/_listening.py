"""Who listens on a port, and whether it answers ``/health``."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import json
import os
import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_PROC = Path("/proc")
_LISTENING = "0A"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached: not where it binds, when that is every address."""

    host: str
    port: int
    scheme: str = "http"
    prefix: str = ""

    @classmethod
    def of(cls, host: str, port: int, scheme: str = "http", prefix: str = "") -> Address:
        """The address to connect to for a server that binds ``host``."""
        bare = host.removeprefix("[").removesuffix("]")
        return cls(_ANY_ADDRESS.get(bare, bare), port, scheme, prefix)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base of all paths."""
        return f"{self.origin}{self.prefix}"


def get(
    address: Address, path: str, timeout_s: float, api_key: str | None = None
) -> tuple[int, Any]:
    """GET a path: the status and the JSON of the answer; status 0 when none came.

    With `http.client`, which no instrumentation patches: polling makes no spans.
    """
    if address.scheme == "https":
        # The certificate is the user's own, often self-signed, and nothing secret is read.
        context = ssl._create_unverified_context()  # noqa: S323 # pyright: ignore[reportPrivateUsage]
        connection = http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    with contextlib.closing(connection):
        try:
            connection.request("GET", f"{address.prefix}{path}", headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except ValueError:
            return answer.status, None  # pyright: ignore[reportPossiblyUnboundVariable] - JSON fails after it
        except (OSError, http.client.HTTPException):
            return 0, None


def free_port(host: str) -> int:
    """A port that nobody has now."""
    with _bound(host, 0) as listener:
        return int(listener.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. An address that is not ours counts as free."""
    try:
        with _bound(host, port) as listener:
            # Binding alone succeeds beside a listener that shares its port (SO_REUSEPORT).
            listener.listen(1)
    except OSError as error:
        return error.errno not in {errno.EADDRINUSE, errno.EACCES}
    return True


def _bound(host: str, port: int) -> socket.socket:
    bare = host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: connections of an earlier one that linger do not take the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


class ListeningSocket(NamedTuple):
    """A socket that waits for connections: its address, and its name among open files."""

    address: str
    name: str


def session_listens(session: int, port: int) -> bool | None:
    """Whether a process of a session listens on a port; ``None`` where that cannot be told."""
    try:
        wanted = {each.name for each in listening_sockets(port)}
        if not wanted:
            return False
        return any(
            not wanted.isdisjoint(open_files(pid))
            for pid in (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
            if _is_of(session, pid)
        )
    except OSError:
        return None


def listening_sockets(port: int) -> list[ListeningSocket]:
    """Those that listen on a port, whoever has them.

    Raises:
        FileNotFoundError: this system keeps no such table.
    """
    found: list[ListeningSocket] = []
    tables = [table for name in ("tcp", "tcp6") if (table := _PROC / "self/net" / name).exists()]
    if not tables:
        raise FileNotFoundError("no table of sockets")
    for table in tables:
        for line in table.read_text().splitlines()[1:]:
            # slot, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode
            columns = line.split()
            address, _, its_port = columns[1].rpartition(":")
            if columns[3] == _LISTENING and int(its_port, 16) == port:
                found.append(ListeningSocket(_readable(address), f"socket:[{columns[9]}]"))
    return found


def _readable(address: str) -> str:
    """``0100007F`` is 127.0.0.1: words of four bytes, each as the machine has numbers."""
    words = struct.iter_unpack("=I", bytes.fromhex(address))
    return str(ipaddress.ip_address(b"".join(struct.pack("!I", word) for (word,) in words)))


def _is_of(session: int, pid: int) -> bool:
    try:
        return os.getsid(pid) == session
    except (ProcessLookupError, PermissionError):
        return False


def open_files(pid: int) -> set[str]:
    """What a process has open, by the names that ``/proc`` gives them.

    Raises:
        PermissionError: it is somebody else's process.
    """
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(str(entry.readlink()))
    return found
