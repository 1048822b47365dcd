"""llama.cpp: its server and its clients.

Importing this package loads nothing; its names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._errors import LlamaServerError, ServerLoadingError
    from ._responses import ChatResponse
    from ._streams import AsyncChatStream, ChatStream
    from .client import AsyncLlamaCppClient, LlamaCppClient
    from .config import ServerConfig
    from .launch_errors import (
        PortTakenError,
        ServerCrashedError,
        ServerManagerError,
        ServerNotFoundError,
        StartupTimeoutError,
        UnsupportedOptionError,
    )
    from .manager import ServerManager
    from .wrap import unwrap_openai_client, wrap_openai_client

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
    "AsyncChatStream": "llamatelemetry.llama._streams",
    "AsyncLlamaCppClient": "llamatelemetry.llama.client",
    "ChatResponse": "llamatelemetry.llama._responses",
    "ChatStream": "llamatelemetry.llama._streams",
    "LlamaCppClient": "llamatelemetry.llama.client",
    "LlamaServerError": "llamatelemetry.llama._errors",
    "PortTakenError": "llamatelemetry.llama.launch_errors",
    "ServerConfig": "llamatelemetry.llama.config",
    "ServerCrashedError": "llamatelemetry.llama.launch_errors",
    "ServerLoadingError": "llamatelemetry.llama._errors",
    "ServerManager": "llamatelemetry.llama.manager",
    "ServerManagerError": "llamatelemetry.llama.launch_errors",
    "ServerNotFoundError": "llamatelemetry.llama.launch_errors",
    "StartupTimeoutError": "llamatelemetry.llama.launch_errors",
    "UnsupportedOptionError": "llamatelemetry.llama.launch_errors",
    "unwrap_openai_client": "llamatelemetry.llama.wrap",
    "wrap_openai_client": "llamatelemetry.llama.wrap",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
