"""llama.cpp: its server and its clients.

Importing this package loads nothing: what it lists is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamatelemetry.llama._errors import LlamaServerError, ServerLoadingError
    from llamatelemetry.llama._responses import ChatResponse
    from llamatelemetry.llama._streams import AsyncChatStream, ChatStream
    from llamatelemetry.llama.client import AsyncLlamaCppClient, LlamaCppClient
    from llamatelemetry.llama.wrap import unwrap_openai_client, wrap_openai_client

__all__ = [
    "AsyncChatStream",
    "AsyncLlamaCppClient",
    "ChatResponse",
    "ChatStream",
    "LlamaCppClient",
    "LlamaServerError",
    "ServerLoadingError",
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
    "ServerLoadingError": "llamatelemetry.llama._errors",
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
