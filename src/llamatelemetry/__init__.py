"""llamatelemetry: an OpenTelemetry distribution for LLM inference.

Importing this package takes no action. Public names are loaded on first use (PEP 562), so
that a plugin which needs only the core never imports the SDK or an optional package.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from llamatelemetry._setup_in_progress import setup_in_progress

if TYPE_CHECKING:
    from llamatelemetry._invocation import invocation
    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.gpu import CudaInfo, GpuDevice, detect_cuda, require_cuda
    from llamatelemetry.lifecycle import flush, init, shutdown, summary, trace_graph
    from llamatelemetry.llama import ServerConfig, ServerManager
    from llamatelemetry.local.why import why
    from llamatelemetry.pipeline import session, suppress, task, tool, workflow

__version__ = "1.2.0"
__all__ = [
    "CudaInfo",
    "GpuDevice",
    "LlamaTelemetryConfig",
    "ServerConfig",
    "ServerManager",
    "__version__",
    "detect_cuda",
    "flush",
    "init",
    "invocation",
    "require_cuda",
    "session",
    "shutdown",
    "summary",
    "suppress",
    "task",
    "tool",
    "trace_graph",
    "why",
    "workflow",
]

_MODULES = {
    "CudaInfo": "llamatelemetry.gpu.devices",
    "GpuDevice": "llamatelemetry.gpu.reader",
    "LlamaTelemetryConfig": "llamatelemetry.config",
    "ServerConfig": "llamatelemetry.llama",
    "ServerManager": "llamatelemetry.llama",
    "detect_cuda": "llamatelemetry.gpu.devices",
    "flush": "llamatelemetry.lifecycle",
    "init": "llamatelemetry.lifecycle",
    "invocation": "llamatelemetry._invocation",
    "require_cuda": "llamatelemetry.gpu.devices",
    "session": "llamatelemetry.pipeline",
    "shutdown": "llamatelemetry.lifecycle",
    "summary": "llamatelemetry.lifecycle",
    "suppress": "llamatelemetry.pipeline",
    "task": "llamatelemetry.pipeline",
    "tool": "llamatelemetry.pipeline",
    "trace_graph": "llamatelemetry.lifecycle",
    "why": "llamatelemetry.local.why",
    "workflow": "llamatelemetry.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with setup_in_progress():
        value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# OpenTelemetry reads these when it is imported, and raises for an invalid value.
if any(
    name in os.environ
    for name in (
        *("OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        *("OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"),
    )
):
    importlib.import_module("llamatelemetry.config.otel_variables").import_opentelemetry()
