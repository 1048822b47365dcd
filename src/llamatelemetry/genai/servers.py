"""What is known about the servers that requests go to: by host name, or learned from replies."""

from __future__ import annotations

import re
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from llamatelemetry.genai.json_access import as_list, get_field
from llamatelemetry.genai.model import Server
from llamatelemetry.genai.wire.headers import NAME, VALUE, entries_of
from llamatelemetry.semconv.operations import (
    OPENAI_PROVIDERS,
    PROVIDER_AZURE_OPENAI,
    PROVIDER_LLAMA_CPP,
    PROVIDER_OPENAI,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_NOTHING: Final[Mapping[str, AttributeValue]] = MappingProxyType({})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# A host, or a domain that hosts are under.
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
# Clouds that put the region or the service into the middle of the name.
_PROVIDER_BY_PATTERN: Final = (
    (re.compile(r"-aiplatform\.googleapis\.com$"), "gcp.vertex_ai"),
    (re.compile(r"(^|\.)bedrock[a-z-]*\..*\.(amazonaws\.com(\.cn)?|api\.aws)$"), "aws.bedrock"),
)

# Enough for any real fleet; a program that talks to ever new origins does not grow us.
_REMEMBERED_AT_MOST: Final = 1024


class KnownServers:
    """Providers by origin, as their replies proved them. Shared by the plugins of a process."""

    def __init__(self) -> None:
        self.providers: dict[str, str] = {}
        self._descriptions: dict[str, Mapping[str, AttributeValue]] = {}
        self.has_descriptions = False  # whether `description_of` knows of any server
        self._lock = threading.Lock()

    def remember(self, server: Server, provider: str) -> None:
        """Note what a reply has proved about the server it came from."""
        if self.providers.get(server.origin) == provider:
            return
        with self._lock:
            if server.origin not in self.providers and len(self.providers) >= _REMEMBERED_AT_MOST:
                self.providers.pop(next(iter(self.providers)))
            self.providers[server.origin] = provider

    def provider_of(self, server: Server | None, default: str) -> str:
        """Give the provider of a server: as learned, else as its URL tells, else the default."""
        if server is None:
            return default
        return self.providers.get(server.origin) or server.provider or default

    def describe(self, server: Server, attributes: Mapping[str, AttributeValue]) -> None:
        """Note what a managed server is; every call to it gets these. Empty: it is gone."""
        with self._lock:
            if attributes:
                self._descriptions[server.origin] = attributes
            else:
                self._descriptions.pop(server.origin, None)
            self.has_descriptions = bool(self._descriptions)

    def description_of(self, server: Server | None) -> Mapping[str, AttributeValue]:
        """Give the attributes that calls to a server get besides their own."""
        if server is None or not self._descriptions:
            return _NOTHING
        return self._descriptions.get(server.origin, _NOTHING)

    def forget(self) -> None:
        """Forget everything that was learned."""
        with self._lock:
            self.providers.clear()
            self._descriptions.clear()
            self.has_descriptions = False


known_servers: Final = KnownServers()


def server_of(
    scheme: str,
    host: str,
    port: int | None,
    *,
    path: str = "",
    socket: str | None = None,
    provider: str | None = None,
) -> Server | None:
    """Describe a URL's server; ``None`` without a host.

    Args:
        scheme: of the URL; it gives the port where the URL has none.
        host: name or address; with ``http+unix`` the quoted path of a socket.
        port: as the URL has it.
        path: of the base URL, where one host serves several providers.
        socket: path of the Unix socket that is connected to, whatever the URL says.
        provider: what the client is known to be for; else the host name tells.
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
    """Give the provider that is known to be behind a host name; the path matters with Azure alone."""
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
    """Return whether a host name is of the loopback interface, with or without brackets."""
    return bool(host) and (host.startswith("127.") or host in {"localhost", "::1", "[::1]"})


def is_run_by_openai(server: Server | None) -> bool:
    """Say whether a server is OpenAI's own, or Azure's; any other that speaks the protocol is not."""
    return server is not None and server.provider in OPENAI_PROVIDERS


def provider_from_headers(headers: Any) -> str | None:
    """Give the provider that response headers prove: llama.cpp signs every reply with ``Server``."""
    entries = entries_of(headers)
    if entries is None:
        is_llama_cpp = headers.get("server") == "llama.cpp"
    elif b"llama.cpp" not in map(VALUE, entries):  # so it is of most
        is_llama_cpp = False
    else:
        named = [VALUE(entry) for entry in entries if NAME(entry) == b"server"]
        is_llama_cpp = named[:1] == [b"llama.cpp"]
    return PROVIDER_LLAMA_CPP if is_llama_cpp else None


def provider_from_models(reply: Any) -> str | None:
    """Give the provider that a list of models proves: who owns the first is enough."""
    models = as_list(get_field(reply, "data"))
    owner = get_field(models[0], "owned_by") if models else None
    return PROVIDER_LLAMA_CPP if owner == "llamacpp" else None
