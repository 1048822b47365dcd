"""Extensions of the OpenTelemetry SDK. Importing this package does not import the SDK."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
    from llamatelemetry.otel.redaction.logs import RedactionLogProcessor
    from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor

__all__ = ["GenAIMetrics", "RedactionLogProcessor", "RedactionSpanProcessor"]

_MODULES = {
    "GenAIMetrics": "llamatelemetry.otel.gen_ai_metrics",
    "RedactionLogProcessor": "llamatelemetry.otel.redaction.logs",
    "RedactionSpanProcessor": "llamatelemetry.otel.redaction.spans",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with required_by(name, "llamatelemetry"):
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
