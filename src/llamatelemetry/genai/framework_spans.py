"""Spans that were opened for a call of a framework, but are not in the current context.

Instrumentations of LangChain, LlamaIndex, LiteLLM and Langfuse's wrapper of the openai client keep
their span to themselves: the context that the client runs in does not have it. Only the function
that calls the client knows it, and this function is on the stack. A local variable of it leads
to the span. The names of these variables are not promised, so a missing one means that no span was
found. `scripts/test_frameworks.py` checks them with the released packages.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import NonRecordingSpan, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

INSTRUMENTATIONS: Final = frozenset(
    {
        "openinference.instrumentation.langchain",
        "opentelemetry.instrumentation.langchain",
        "langfuse.langchain",
        "openinference.instrumentation.llama_index",
        "opentelemetry.instrumentation.llamaindex",
        "opentelemetry.instrumentation.litellm",
        "langfuse.openai",
    }
)
"""Modules that open such spans."""

# The frameworks call the client within some 20 functions.
_MAX_FRAMES: Final = 64


class ExternalSpan(NamedTuple):
    """The open span of another instrumentation that a request is recorded on.

    Attributes:
        span: The span.
        has_metrics: Whether the other instrumentation records tokens and duration of the call.
    """

    span: Span
    has_metrics: bool


def are_loaded() -> bool:
    """Return whether an instrumentation is loaded that opens such spans."""
    return not sys.modules.keys().isdisjoint(INSTRUMENTATIONS)


def find_framework_span() -> ExternalSpan | None:
    """Return the open span of the framework that has called this function, if any."""
    frame = sys._getframe(1)  # type: ignore[reportPrivateUsage]
    for _ in range(_MAX_FRAMES):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        find = _FINDERS.get(frame.f_globals.get("__name__", ""))
        found = None if find is None else find(frame)
        if found is not None:
            return found if _is_open(found.span) else None
    return None


def _is_open(span: Span) -> bool:
    # The span of a call that is not sampled records nothing, but it has a valid context.
    is_unsampled = isinstance(span, NonRecordingSpan) and span.get_span_context().is_valid
    return span.is_recording() or is_unsampled


def _found(span: Any, *, has_metrics: bool) -> ExternalSpan | None:
    return ExternalSpan(span, has_metrics) if isinstance(span, Span) else None


def _in_langchain(frame: FrameType) -> ExternalSpan | None:
    """Find the span in one of the callback handlers of the model's run."""
    manager = frame.f_locals.get("run_manager")
    run_id, handlers = getattr(manager, "run_id", None), getattr(manager, "handlers", ())
    candidates = (_of_langchain_handler(handler, run_id) for handler in handlers)
    return next((found for found in candidates if found is not None), None)


def _of_langchain_handler(handler: Any, run_id: Any) -> ExternalSpan | None:
    modules = [kind.__module__ for kind in type(handler).__mro__]
    if _is_from(modules, "openinference."):
        return _found(handler.get_span(run_id), has_metrics=False)
    if _is_from(modules, "opentelemetry.instrumentation.langchain."):
        holder = getattr(handler, "spans", {}).get(run_id)
        return _found(getattr(holder, "span", None), has_metrics=True)
    if _is_from(modules, "langfuse."):
        observation = getattr(handler, "_runs", {}).get(run_id)
        return _found(getattr(observation, "_otel_span", None), has_metrics=False)
    return None


def _is_from(modules: Iterable[str], package: str) -> bool:
    return any(module.startswith(package) for module in modules)


def _in_llama_index(frame: FrameType) -> ExternalSpan | None:
    """Find the span in one of the span handlers of the model's dispatcher."""
    span_id, dispatcher = frame.f_locals.get("span_id"), frame.f_globals.get("dispatcher")
    if span_id is None or dispatcher is None:
        return None
    for handler in (*dispatcher.span_handlers, *dispatcher.root.span_handlers):
        holder = handler.open_spans.get(span_id)
        span = getattr(holder, "_otel_span", None) or getattr(holder, "otel_span", None)
        if span is not None:
            return _found(span, has_metrics=False)
    return None


def _in_langfuse(frame: FrameType) -> ExternalSpan | None:
    generation = frame.f_locals.get("generation")
    return _found(getattr(generation, "_otel_span", None), has_metrics=False)


def _in_litellm_instrumentation(frame: FrameType) -> ExternalSpan | None:
    return _found(frame.f_locals.get("span"), has_metrics=True)


_FINDERS: Final[Mapping[str, Callable[[FrameType], ExternalSpan | None]]] = {
    "langchain_core.language_models.chat_models": _in_langchain,
    "langchain_core.language_models.llms": _in_langchain,
    "llama_index.core.llms.callbacks": _in_llama_index,
    "langfuse.openai": _in_langfuse,
    "opentelemetry.instrumentation.litellm": _in_litellm_instrumentation,
}
"""Functions that find the span, by the module of the function on the stack."""
