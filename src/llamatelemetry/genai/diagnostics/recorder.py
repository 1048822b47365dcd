"""The diagnostics of a plugin and of one call. They raise nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.diagnostics.client_marks import ClientMarks

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.genai.model import Outcome, Request


class Diagnostics:
    """Starts the diagnostics of the calls of one `Instrumenter`."""

    def __init__(self, config: LlamaTelemetryConfig) -> None:
        self._config = config

    def start(self, request: Request, span: Span, started_ns: int) -> CallDiagnostics | None:  # noqa: ARG002
        """Start the diagnostics of a call. Return `None` if its span is not recorded.

        Args:
            request: The request, with its body if it is known.
            span: Span of the call.
            started_ns: Start of the call, by `perf_counter_ns`.
        """
        if not span.is_recording():
            return None
        return CallDiagnostics(started_ns)


class CallDiagnostics:
    """Records what explains the duration of one call. A plugin reports to it what it sees.

    It does not refer to the call, which would otherwise be part of a reference cycle.
    """

    __slots__ = ("_marks",)

    def __init__(self, started_ns: int) -> None:
        self._marks = ClientMarks(started_ns)

    def start_attempt(self, at_ns: int) -> None:
        """Mark that the request is sent, the first time or again."""
        try:
            self._marks.start_attempt(at_ns)
        except Exception as error:
            internal_errors.log_once("timing an attempt", error)

    def attach(self, request: Any, *, is_async: bool) -> None:
        """Observe a request of httpx or httpx2 that is about to be sent."""
        try:
            self._marks.attach(request, is_async=is_async)
        except Exception as error:
            internal_errors.log_once("observing a request", error)

    def on_response(self, response: Any) -> None:
        """Handle a response of httpx or httpx2. Its body may not have been read yet."""
        try:
            self._marks.on_response(response.extensions.get("network_stream"))
        except Exception as error:
            internal_errors.log_once("observing a response", error)

    def on_gap(self, last_ns: int, now_ns: int) -> None:
        """Record a gap of more than `observers.GAP_NS` between two chunks of a stream."""
        try:
            self._marks.on_gap(last_ns, now_ns)
        except Exception as error:
            internal_errors.log_once("timing a gap", error)

    def finish(
        self,
        outcome: Outcome,  # noqa: ARG002
        attempt_ns: int,  # noqa: ARG002
        ended_ns: int,
    ) -> dict[str, AttributeValue]:
        """Return the span attributes, once, at the end of the call."""
        try:
            return dict(self._marks.finish(ended_ns))
        except Exception as error:
            internal_errors.log_once("recording diagnostics", error)
            return {}
