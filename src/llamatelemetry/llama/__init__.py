"""llama.cpp: clients of its server, and managed servers.

Names are loaded on first use (PEP 562). The child process of the embedded server is a module below
this package: with plain imports each start would load both clients and OpenTelemetry, which costs
0.15 s of CPU time and 8 MB of memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamatelemetry.llama.client.clients import AsyncLlamaCppClient, LlamaCppClient
    from llamatelemetry.llama.client.errors import LlamaServerError, ServerLoadingError
    from llamatelemetry.llama.client.responses import ChatResponse
    from llamatelemetry.llama.client.streams import AsyncChatStream, ChatStream
    from llamatelemetry.llama.server.config import ServerConfig
    from llamatelemetry.llama.server.errors import (
        PortTakenError,
        ServerCrashedError,
        ServerManagerError,
        ServerNotFoundError,
        StartupTimeoutError,
        UnsupportedOptionError,
    )
    from llamatelemetry.llama.server.manager import ServerManager
    from llamatelemetry.llama.wrap import unwrap_openai_client, wrap_openai_client

__all__ = [
    "AsyncChatStream",
    "AsyncLlamaCppClient",
    "ChatResponse",
    "ChatStream",
    "LlamaCppClient",
    "LlamaServerError",
    "PortTakenError",
    "ServerConfig",
    "ServerCrashedError",
    "ServerLoadingError",
    "ServerManager",
    "ServerManagerError",
    "ServerNotFoundError",
    "StartupTimeoutError",
    "UnsupportedOptionError",
    "unwrap_openai_client",
    "wrap_openai_client",
]

_MODULES = {
    "AsyncChatStream": "client.streams",
    "AsyncLlamaCppClient": "client.clients",
    "ChatResponse": "client.responses",
    "ChatStream": "client.streams",
    "LlamaCppClient": "client.clients",
    "LlamaServerError": "client.errors",
    "ServerConfig": "server.config",
    "ServerLoadingError": "client.errors",
    "ServerManager": "server.manager",
    "unwrap_openai_client": "wrap",
    "wrap_openai_client": "wrap",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All names without an entry are errors of the server manager.
    module = _MODULES.get(name, "server.errors")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
