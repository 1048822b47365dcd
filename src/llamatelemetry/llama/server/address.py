"""The address of a llama.cpp server: free ports and HTTP requests that are not instrumented."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognized, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """The address that clients connect to.

    It differs from the address that the server binds if that one is `0.0.0.0` or `::`.
    """

    host: str
    port: int
    scheme: str = "http"
    prefix: str = ""

    @classmethod
    def of(cls, host: str, port: int, scheme: str = "http", prefix: str = "") -> Address:
        """Return the address to connect to for a server that binds `host`."""
        bare = host.removeprefix("[").removesuffix("]")
        return cls(_ANY_ADDRESS.get(bare, bare), port, scheme, prefix)

    @property
    def url(self) -> str:
        """Base URL of all paths."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def get_json(
    address: Address, path: str, timeout_s: float, api_key: str | None = None
) -> tuple[int, Any]:
    """Send a GET request; return the HTTP status and the parsed JSON body.

    The status is 0 without a response, and the body is `None` if it is not JSON. Uses
    `http.client`, which no instrumentation patches, so that polling creates no spans.
    """
    if address.scheme == "https":
        # The certificate is the user's own, often self-signed, and no secret is read.
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
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except ValueError:
            return response.status, None  # pyright: ignore[reportPossiblyUnboundVariable] - JSON fails after it
        except (OSError, http.client.HTTPException):
            return 0, None


def free_port(host: str) -> int:
    """Return a port that is free now."""
    with _bind(host, 0) as listener:
        return int(listener.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on the port now.

    An address that does not belong to this machine counts as free.
    """
    try:
        with _bind(host, port) as listener:
            # Binding alone succeeds beside a listener that shares its port (SO_REUSEPORT).
            listener.listen(1)
    except OSError as error:
        return error.errno not in {errno.EADDRINUSE, errno.EACCES}
    return True


def is_forbidden(host: str, port: int) -> bool:
    """Return whether this user may not listen on the port, as on most systems below 1024."""
    try:
        _bind(host, port).close()
    except OSError as error:
        return error.errno == errno.EACCES
    return False


def _bind(host: str, port: int) -> socket.socket:
    bare = host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: lingering connections of an earlier server do not occupy the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener
