"""Calls whose spans are not recorded, told to whoever has to know of every call.

A sampler that drops a span drops it before any span processor sees it, while the engine does the
work all the same: who shares out what the engine used must count that call too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from opentelemetry.trace import NonRecordingSpan

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind

    from llamatelemetry.genai.model import Request


class Watcher(Protocol):
    """Told of the beginning and the end of each such call; it raises nothing."""

    def on_dropped_span_start(
        self, span: Span, request: Request, kind: SpanKind, scope: str
    ) -> None:
        """The call of an instrumentation begins; ``span`` stands for it, and records nothing."""
        ...

    def on_dropped_span_end(self, span: Span) -> None:
        """The call has ended."""
        ...


class State:
    """Who is to be told; nobody when ``None``."""

    watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Tell this one from now on; nobody when ``None``."""
    State.watcher = watcher


def is_dropped(span: Span) -> bool:
    """Whether this stands for a span that was dropped: of others the processors are told."""
    # Not `is_recording()`, which is false of every span that has ended. Without an SDK there is
    # one invalid span for all calls.
    return isinstance(span, NonRecordingSpan) and span.get_span_context().is_valid
