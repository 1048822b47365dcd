"""Servers that requests are sent to: their provider by host name, or as responses proved it."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from llamatelemetry._limits import Limit
from llamatelemetry.genai.model import Server
from llamatelemetry.semconv.operations import (
    PROVIDER_AZURE_OPENAI,
    PROVIDER_OPENAI,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_NOTHING: Final[Mapping[str, AttributeValue]] = MappingProxyType({})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# A host, or the parent domain of hosts.
_PROVIDER_BY_DOMAIN: Final = {
    "api.openai.com": PROVIDER_OPENAI,
    "openai.azure.com": PROVIDER_AZURE_OPENAI,
    "openai.azure.us": PROVIDER_AZURE_OPENAI,
    "openai.azure.cn": PROVIDER_AZURE_OPENAI,
    "cognitiveservices.azure.com": PROVIDER_AZURE_OPENAI,
    "services.ai.azure.com": "azure.ai.inference",
    "models.inference.ai.azure.com": "azure.ai.inference",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "ml.cloud.ibm.com": "ibm.watsonx.ai",
}
# Cloud hosts with the region or the service in the middle of the name.
_PROVIDER_BY_PATTERN: Final = (
    (re.compile(r"-aiplatform\.googleapis\.com$"), "gcp.vertex_ai"),
    (re.compile(r"(^|\.)bedrock[a-z-]*\..*\.(amazonaws\.com(\.cn)?|api\.aws)$"), "aws.bedrock"),
)

# A client that connects to an unspecified address (0.0.0.0, ::) reaches this machine.
_LOOPBACK: Final = re.compile(
    r"localhost\.?|0\.0\.0\.0|\[?(?:(?:::ffff:)?127(?:\.\d{1,3}){3}|::1?)\]?", re.IGNORECASE
)

# More than any real fleet has. It bounds the memory if a program keeps using new origins.
_LIMIT: Final = Limit("known_servers", 1024, "Servers with an engine that responses proved")


class KnownServers:
    """Servers of this process by origin, shared by its plugins.

    Attributes:
        providers: Providers that responses have proved, by origin.
        descriptions: Attributes that `description_of` returns, by origin.
    """

    def __init__(self) -> None:
        self.providers: dict[str, str] = {}
        self.descriptions: dict[str, Mapping[str, AttributeValue]] = {}

    def remember(self, server: Server, provider: str) -> None:
        """Store the provider that a response of a server has proved."""
        if self.providers.get(server.origin) == provider:
            return
        self.providers[server.origin] = provider
        _LIMIT.trim(self.providers)

    def provider_of(self, server: Server | None, default: str) -> str:
        """Return the provider of a server: the proved one, that of its URL, or the default."""
        if server is None:
            return default
        return self.providers.get(server.origin) or server.provider or default

    def describe(self, server: Server, attributes: Mapping[str, AttributeValue]) -> None:
        """Set the attributes of every call to a managed server. Empty attributes remove it."""
        if attributes:
            self.descriptions[server.origin] = attributes
        else:
            self.descriptions.pop(server.origin, None)

    def description_of(self, server: Server | None) -> Mapping[str, AttributeValue]:
        """Return the additional attributes of calls to a server."""
        if server is None or not self.descriptions:
            return _NOTHING
        return self.descriptions.get(server.origin, _NOTHING)

    def forget(self) -> None:
        """Forget all providers and descriptions."""
        self.providers.clear()
        self.descriptions.clear()


known_servers: Final = KnownServers()
"""The servers that this process has called."""


def server_of(
    scheme: str,
    host: str,
    port: int | None,
    *,
    path: str = "",
    socket: str | None = None,
    provider: str | None = None,
) -> Server | None:
    """Return the server of a URL, or `None` if the URL has no host.

    Args:
        scheme: Scheme of the URL, which implies the port if the URL has none.
        host: Name or address; with `http+unix` the quoted path of a socket.
        port: Port of the URL.
        path: Path of the base URL, for a host that serves several providers.
        socket: Path of the Unix socket that is connected to instead of the URL's host.
        provider: Provider that the client is made for; that of the host name if `None`.
    """
    if socket is None and scheme.endswith("+unix"):
        socket = unquote(host)
    provider = provider or provider_of_host(host, path)
    if socket:
        return Server(address=socket, port=None, origin=f"unix:{socket}", provider=provider)
    if not host:
        return None
    known_port = port if port is not None else _DEFAULT_PORTS.get(scheme)
    origin = f"{scheme}://{host}:{known_port}"
    return Server(address=host, port=known_port, origin=origin, provider=provider)


def provider_of_host(host: str, path: str = "") -> str | None:
    """Return the provider of a known host name. The path matters only for Azure."""
    labels = host.lower().rstrip(".").split(".")
    for start in range(len(labels) - 1):
        provider = _PROVIDER_BY_DOMAIN.get(".".join(labels[start:]))
        if provider is not None:
            is_azure_openai = provider == "azure.ai.inference" and path.startswith("/openai/")
            return PROVIDER_AZURE_OPENAI if is_azure_openai else provider
    for pattern, provider in _PROVIDER_BY_PATTERN:
        if pattern.search(host):
            return provider
    return None


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine: a loopback or unspecified address, or `localhost`.

    Brackets around an IPv6 address are accepted. Names such as `127.example.com` are not loopback.
    """
    return host is not None and _LOOPBACK.fullmatch(host) is not None
