"""Whether a server is an inference server, before it has responded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from llamatelemetry.genai import Limit, known_servers
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamatelemetry.genai import Server
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch

_LIMIT: Final = Limit("configured_origins", 1024, "Servers, and whether an option names them")


class Origins:
    """Which servers are inference servers, by the options, by host name and by earlier responses.

    The first matching row decides:

    | Server | `has_route` |
    |---|---|
    | in the option `llamacpp_deny` | `False` |
    | in the option `llamacpp_allow`: has the routes of llama.cpp | `True` |
    | engine proved by an earlier response, and its servers have the route, behind a proved prefix | `True` |
    | host of a known provider, such as `api.openai.com` | `False` |
    | any other | `None` |

    Args:
        allow: Origins such as `http://gpu1:8080`, or hosts with or without a port.
        deny: Origins or hosts that are never recorded. They take precedence over `allow`.
    """

    def __init__(self, allow: Iterable[str] | None, deny: Iterable[str] | None) -> None:
        self._allow = [_parse(entry) for entry in allow or ()]
        self._deny = [_parse(entry) for entry in deny or ()]
        self._configured: dict[str, bool | None] = {}

    def has_route(self, server: Server, match: RouteMatch) -> bool | None:
        """Return whether a request to this route of a server calls a model.

        `None` means that only the response can show it.
        """
        try:
            configured = self._configured[server.origin]
        except KeyError:
            configured = self._look_up(server)
        if configured is False:
            return False
        route = match.route
        if configured and route.is_served_by(PROVIDER_LLAMA_CPP):
            return True
        proved = known_servers.providers.get(server.origin)
        if proved is not None and proved != server.provider:
            is_known = route.is_served_by(proved) and _is_proved(server, match.prefix)
            return True if is_known else None
        return False if server.provider is not None else None

    def _look_up(self, server: Server) -> bool | None:
        found: bool | None = None
        if _is_in(server, self._deny):
            found = False
        elif _is_in(server, self._allow):
            found = True
        self._configured[server.origin] = found
        _LIMIT.trim(self._configured)
        return found


def remember_prefix(server: Server, prefix: str, provider: str) -> None:
    """Store that a response has proved the provider of the routes behind this prefix.

    Behind another one, a gateway may have a service that is not a model, such as `/users/7/messages`.
    """
    if prefix:
        known_servers.remember(replace(server, origin=f"{server.origin} {prefix}"), provider)


def _is_proved(server: Server, prefix: str) -> bool:
    return not prefix or f"{server.origin} {prefix}" in known_servers.providers


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
