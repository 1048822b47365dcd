"""Hugging Face Transformers: models in this process as engines, and their instrumentation.

Importing this package loads neither transformers nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by
from llamatelemetry.transformers._backend import TransformersBackend
from llamatelemetry.transformers._text import TextStream

if TYPE_CHECKING:
    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

__all__ = ["TextStream", "TransformersBackend", "TransformersInstrumentor"]


def __getattr__(name: str) -> Any:
    # The plugin is a distribution of its own and need not be installed.
    if name != "TransformersInstrumentor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with required_by(name, "llamatelemetry-instrumentation-transformers"):
        from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
    return TransformersInstrumentor


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
