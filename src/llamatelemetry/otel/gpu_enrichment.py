"""Puts the state of the GPUs on spans as they end.

It knows no GPU: what it puts there comes from a callable that it is given, and so does the way
to report what fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span
    from opentelemetry.util.types import AttributeValue


class EnrichingSpanProcessor(SpanProcessor):
    """Adds attributes to spans at the moment of their end, wherever it stands among others.

    The SDK tells all processors that a span is ending before any of them, exporters included,
    gets the finished span. By then it takes no more attributes from `set_attribute`, so they go
    where that one puts them.

    Args:
        started: told of each span that starts, and the context of its parent.
        ending: gives the attributes for a span that ends; arrays as tuples.
        report: told what was being done, and the exception.
        stop: what `shutdown` calls.
    """

    def __init__(
        self,
        started: Callable[[Span, Context | None], None],
        ending: Callable[[Span], Mapping[str, AttributeValue]],
        report: Callable[[str, Exception], None],
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        self._started = started
        self._ending = ending
        self._report = report
        self._stop = stop

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass the span on."""
        try:
            self._started(span, parent_context)
        except Exception as error:
            self._report("noting the start of a span", error)

    def _on_ending(self, span: Span) -> None:
        try:
            attributes = self._ending(span)
            if attributes:
                _add(span, attributes)
        except Exception as error:
            self._report("adding attributes to a span", error)

    def shutdown(self) -> None:
        """Stop what the attributes come from."""
        self._stop()


def _add(span: Span, attributes: Mapping[str, AttributeValue]) -> None:
    """Add what there is room for: over its limit the SDK would drop the oldest, not the newest."""
    present: Any = span._attributes  # pyright: ignore[reportPrivateUsage] - there is no public way
    with present._lock:
        values: dict[str, AttributeValue] = present._dict
        for name, value in attributes.items():
            if present.maxlen is None or len(values) < present.maxlen:
                # As it is: to clean each element of each array costs more than all the rest.
                values[name] = value
