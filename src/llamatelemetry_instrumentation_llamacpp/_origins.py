"""Whether a server is llama.cpp, before it has responded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from llamatelemetry.genai import known_servers
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamatelemetry.genai import Server

_MAX_CACHED: Final = 1024


class Origins:
    """Which servers are llama.cpp, by the options, by host name and by earlier responses.

    The first matching row decides:

    | Server | `is_llama_cpp` |
    |---|---|
    | in the option `llamacpp_deny` | `False` |
    | in the option `llamacpp_allow` | `True` |
    | identified as llama.cpp by an earlier response | `True` |
    | host of a known provider, such as `api.openai.com` | `False` |
    | any other | `None` |

    Args:
        allow: Origins such as `http://gpu1:8080`, or hosts with or without a port.
        deny: Origins or hosts that are never llama.cpp. They take precedence over `allow`.
    """

    def __init__(self, allow: Iterable[str] | None, deny: Iterable[str] | None) -> None:
        self._allow = [_parse(entry) for entry in allow or ()]
        self._deny = [_parse(entry) for entry in deny or ()]
        self._configured: dict[str, bool | None] = {}

    def is_llama_cpp(self, server: Server) -> bool | None:
        """Return whether the server is llama.cpp, or `None` if only its response can show it."""
        try:
            configured = self._configured[server.origin]
        except KeyError:
            configured = self._look_up(server)
        if configured is not None:
            return configured
        if known_servers.provider_of(server, "") == PROVIDER_LLAMA_CPP:
            return True
        return False if server.provider is not None else None

    def _look_up(self, server: Server) -> bool | None:
        found: bool | None = None
        if _is_in(server, self._deny):
            found = False
        elif _is_in(server, self._allow):
            found = True
        if len(self._configured) >= _MAX_CACHED:
            self._configured.clear()
        self._configured[server.origin] = found
        return found


_Entry = tuple[str | None, str, int | None]
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _parse(entry: str) -> _Entry:
    scheme, separator, _ = entry.partition("://")
    parts = urlsplit(entry if separator else f"//{entry}")
    known = scheme.lower() if separator else None
    try:
        port = parts.port
    except ValueError:  # The port is not a number.
        port = None
    return known, (parts.hostname or "").lower(), port or _DEFAULT_PORTS.get(known or "")


def _is_in(server: Server, entries: Iterable[_Entry]) -> bool:
    return any(
        host == server.address.lower()
        and port in {None, server.port}
        and (scheme is None or server.origin.startswith(f"{scheme}://"))
        for scheme, host, port in entries
    )
