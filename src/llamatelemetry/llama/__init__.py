"""llama.cpp: its server and its clients.

Importing this package loads nothing; its names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__all__ = [
    "PortTakenError",
    "ServerConfig",
    "ServerCrashedError",
    "ServerManager",
    "ServerManagerError",
    "ServerNotFoundError",
    "StartupTimeoutError",
    "UnsupportedOptionError",
]

_MODULES = {
    "PortTakenError": "llamatelemetry.llama.launch_errors",
    "ServerConfig": "llamatelemetry.llama.config",
    "ServerCrashedError": "llamatelemetry.llama.launch_errors",
    "ServerManager": "llamatelemetry.llama.manager",
    "ServerManagerError": "llamatelemetry.llama.launch_errors",
    "ServerNotFoundError": "llamatelemetry.llama.launch_errors",
    "StartupTimeoutError": "llamatelemetry.llama.launch_errors",
    "UnsupportedOptionError": "llamatelemetry.llama.launch_errors",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
