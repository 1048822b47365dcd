"""Hugging Face Transformers: models in this process as engines, and their instrumentation.

Importing this package loads nothing: `TransformersInstrumentor` is in the plugin's distribution, and
`TransformersBackend` needs optional packages. Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    from ._backend import TransformersBackend
    from ._streaming import TextStream

__all__ = ["TextStream", "TransformersBackend", "TransformersInstrumentor"]

_MODULES = {
    "TextStream": "llamatelemetry.transformers._streaming",
    "TransformersBackend": "llamatelemetry.transformers._backend",
}


def __getattr__(name: str) -> Any:
    if name == "TransformersInstrumentor":
        value = _instrumentor()
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # later accesses do not call this function
    return value


def _instrumentor() -> Any:
    with required_by("TransformersInstrumentor", "llamatelemetry-instrumentation-transformers"):
        from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
    return TransformersInstrumentor


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
