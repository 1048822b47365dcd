"""Wrappers of the thread in which `transformers serve` generates without continuous batching.

The thread runs all calls of a model. Each call gets the OpenTelemetry context of the code that
submits it, so that its span is a child of the span of the HTTP request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor


class _InContext:
    """A function that runs in an OpenTelemetry context."""

    def __init__(self, function: Callable[..., Any], context: Context) -> None:
        self._function = function
        self._context = context

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = context_api.attach(self._context)
        try:
            return self._function(*args, **kwargs)
        finally:
            context_api.detach(token)


class ServingWrappers:
    """Wrappers of the patched methods, with their names. They do not need the instrumentor."""

    def __init__(self, _instrumentor: TransformersInstrumentor) -> None:
        pass

    def submit(
        self,
        wrapped: Callable[..., Any],
        _thread: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Wrap `InferenceThread.submit`."""
        context = context_api.get_current()
        if not context or not args:
            return wrapped(*args, **kwargs)
        return wrapped(_InContext(args[0], context), *args[1:], **kwargs)

    async_submit = submit
