"""What is known about the servers that requests go to: by host name, or learned from replies."""

from __future__ import annotations

import threading
from typing import Any, Final

from llamatelemetry.genai.model import Server
from llamatelemetry.semconv.operations import (
    OPENAI_PROVIDERS,
    PROVIDER_LLAMA_CPP,
    PROVIDER_OPENAI,
)

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# Ends of host names; a name of its own has a dot in front, so that `notapi.openai.com` has none.
_PROVIDER_BY_HOST: Final = (
    (".api.openai.com", PROVIDER_OPENAI),
    (".openai.azure.com", "azure.ai.openai"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".api.groq.com", "groq"),
    (".api.deepseek.com", "deepseek"),
    (".api.mistral.ai", "mistral_ai"),
    (".api.x.ai", "x_ai"),
    (".api.perplexity.ai", "perplexity"),
    (".api.cohere.ai", "cohere"),
    (".api.cohere.com", "cohere"),
    (".api.moonshot.ai", "moonshot_ai"),
    (".api.moonshot.cn", "moonshot_ai"),
    (".api.anthropic.com", "anthropic"),
    (".generativelanguage.googleapis.com", "gcp.gemini"),
    ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
)

_OPENAI_HOSTS: Final = tuple(
    suffix for suffix, provider in _PROVIDER_BY_HOST if provider in OPENAI_PROVIDERS
)

# Enough for any real fleet; a program that talks to ever new origins does not grow us.
_REMEMBERED_AT_MOST: Final = 1024


class KnownServers:
    """Providers by origin, as their replies proved them. Shared by the plugins of a process."""

    def __init__(self) -> None:
        self._providers: dict[str, str] = {}
        self._lock = threading.Lock()

    def remember(self, server: Server, provider: str) -> None:
        """Note what a reply has proved about the server it came from."""
        if self._providers.get(server.origin) == provider:
            return
        with self._lock:
            is_new = server.origin not in self._providers
            if is_new and len(self._providers) >= _REMEMBERED_AT_MOST:
                self._providers.pop(next(iter(self._providers)))
            self._providers[server.origin] = provider

    def provider_of(self, server: Server | None, default: str) -> str:
        """Give the provider of a server: as learned, else by its host name, else the default."""
        if server is None:
            return default
        learned = self._providers.get(server.origin)
        if learned is not None:
            return learned
        host = f".{server.address}"
        for suffix, provider in _PROVIDER_BY_HOST:
            if host.endswith(suffix):
                return provider
        return default

    def forget(self) -> None:
        """Forget everything that was learned."""
        with self._lock:
            self._providers.clear()


known_servers: Final = KnownServers()


def server_of(scheme: str, host: str, port: int | None) -> Server | None:
    """Describe a URL's server; the port is filled in from the scheme. ``None`` without a host."""
    if not host:
        return None
    known_port = port if port is not None else _DEFAULT_PORTS.get(scheme)
    return Server(address=host, port=known_port, origin=f"{scheme}://{host}:{known_port}")


def is_run_by_openai(server: Server | None) -> bool:
    """Say whether a server is OpenAI's own, or Azure's; any other that speaks the protocol is not."""
    return server is not None and f".{server.address}".endswith(_OPENAI_HOSTS)


def provider_from_headers(headers: Any) -> str | None:
    """Give the provider that response headers prove: llama.cpp signs every reply with ``Server``."""
    return PROVIDER_LLAMA_CPP if headers.get("server") == "llama.cpp" else None
