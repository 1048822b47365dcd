"""``traceparent`` in outgoing requests, so that what a server records joins the caller's trace.

Only that header and ``tracestate`` are ever written: baggage is the application's own, and a
request to a model may leave the company. A header that is there already is left alone.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import propagate
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagators.textmap import Setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

TRACEPARENT: Final = "traceparent"

_trace_context: Final = TraceContextTextMapPropagator()
_HANDLERS: Final = ("handle_request", "handle_async_request")
_NO_MEMBERS: Final[Mapping[str, Any]] = {}
_APPLIED_TO_REQUESTS: Final = "opentelemetry_instrumentation_requests_applied"


class _AddMissing(Setter["MutableMapping[str, str]"]):
    def set(self, carrier: MutableMapping[str, str], key: str, value: str) -> None:
        # Of the two, `inject` has looked for the other already.
        if key == TRACEPARENT or key not in carrier:
            carrier[key] = value


_add_missing: Final = _AddMissing()


class Propagation:
    """What the option ``propagate`` asks for.

    ``auto`` leaves the header to OpenTelemetry's HTTP instrumentation where that sends the
    request, and writes none when OTEL_PROPAGATORS asks for other headers or for none.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def inject(self, headers: MutableMapping[str, str], http_client: Any, url: Any) -> None:
        """Write the current span into the headers of a request that is about to be sent.

        Args:
            headers: those of the request itself, made for this attempt; names in any case.
            http_client: the httpx or httpx2 client, or the session of requests, that sends it.
            url: where to, as that client has it.
        """
        if self._mode == "off" or TRACEPARENT in headers:
            return
        if self._mode == "auto" and (
            not _trace_context_is_wanted() or _is_left_to_http(http_client, url)
        ):
            return
        _trace_context.inject(headers, setter=_add_missing)


class _Wanted:
    """What was found out of the propagator that was the global one when last looked at."""

    propagator: Any = None
    answer = True


def _trace_context_is_wanted() -> bool:
    propagator = propagate.get_global_textmap()
    if propagator is not _Wanted.propagator:
        _Wanted.answer = TRACEPARENT in propagator.fields
        _Wanted.propagator = propagator
    return _Wanted.answer


def _is_left_to_http(http_client: Any, url: Any) -> bool:
    """Say whether an HTTP instrumentation of OpenTelemetry's will write the header itself.

    It wraps the transport's method: in the transport's class, for all clients; or in the
    transport, for one client. Or it is the transport. Of requests it wraps ``Session.send``.
    """
    if not is_http_instrumentation_enabled():
        return False
    find = getattr(http_client, "_transport_for_url", None)  # private: it may go one day
    if find is None:
        return hasattr(http_client.send, _APPLIED_TO_REQUESTS)  # requests
    transport: Any = find(url)
    kinds = type(transport).__mro__
    if _is_opentelemetrys(kinds[0]):
        return True
    for place in (transport, *kinds):
        members: Mapping[str, Any] = getattr(place, "__dict__", _NO_MEMBERS)
        for name in _HANDLERS:
            handler = members.get(name)
            if handler is None or type(handler) is FunctionType:
                continue  # as in every class when nothing is instrumented
            if _is_wrapped_by_opentelemetry(handler):
                return True
    return False


def _is_wrapped_by_opentelemetry(function: Any) -> bool:
    while function is not None:
        wrapper: Any = getattr(function, "_self_wrapper", None)
        if wrapper is not None and _is_opentelemetrys(getattr(wrapper, "func", wrapper)):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _is_opentelemetrys(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("opentelemetry.instrumentation.")
