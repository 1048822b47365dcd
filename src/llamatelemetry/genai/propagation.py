"""``traceparent`` in outgoing requests, so that what a server records joins the caller's trace.

Only that header and ``tracestate`` are ever written: baggage is the application's own, and a
request to a model may leave the company. A header that is there already is left alone.
"""

from __future__ import annotations

from functools import lru_cache
from operator import getitem, is_
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import DEFAULT_TRACE_STATE

from llamatelemetry.genai.wire.headers import NAME, entries_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import SpanContext

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_TRACEPARENT: Final = TRACEPARENT.encode()

_HANDLERS: Final = frozenset({"handle_request", "handle_async_request"})
_type_of: Final = cast("Callable[[Any], type[Any]]", type)
_NO_MEMBERS: Final[Mapping[str, Any]] = {}
_APPLIED_TO_REQUESTS: Final = "opentelemetry_instrumentation_requests_applied"


class Propagation:
    """What the option ``propagate`` asks for.

    ``auto`` leaves the header to OpenTelemetry's HTTP instrumentation where that sends the
    request, and writes none when OTEL_PROPAGATORS asks for other headers or for none.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def inject(
        self,
        headers: MutableMapping[str, str],
        http_client: Any,
        url: Any,
        span: SpanContext | None = None,
    ) -> None:
        """Write a span into the headers of a request that is about to be sent.

        Args:
            headers: those of the request itself, made for this attempt; names in any case.
            http_client: the httpx or httpx2 client, or the session of requests, that sends it.
            url: where to, as that client has it.
            span: which one; the current one when ``None``.
        """
        entries = entries_of(headers)
        if self._mode == "off" or (
            TRACEPARENT in headers if entries is None else _TRACEPARENT in map(NAME, entries)
        ):
            return
        if self._mode == "auto":
            propagator = get_global_textmap()
            if propagator is not _Wanted.propagator:
                _Wanted.look_at(propagator)
            if not _Wanted.answer or _is_left_to_http(http_client, url):
                return
        # A tuple: a property of it takes as long as all of this.
        trace_id, span_id, _, flags, state, is_valid = (
            span or trace.get_current_span().get_span_context()
        )
        if not is_valid:
            return
        written = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
        if entries is None:
            headers[TRACEPARENT] = written
        else:
            entries.append((_TRACEPARENT, _TRACEPARENT, written.encode()))
        if state is not DEFAULT_TRACE_STATE and state and TRACESTATE not in headers:
            headers[TRACESTATE] = state.to_header()


class _Wanted:
    """What was found out of the propagator that was the global one when last looked at."""

    propagator: Any = None
    answer = True

    @classmethod
    def look_at(cls, propagator: TextMapPropagator) -> None:
        cls.answer = TRACEPARENT in propagator.fields
        cls.propagator = propagator


def _is_left_to_http(http_client: Any, url: Any) -> bool:
    """Say whether an HTTP instrumentation of OpenTelemetry's will write the header itself.

    It wraps the transport's method: in the transport's class, for all clients; or in the
    transport, for one client. Or it is the transport. Of requests it wraps ``Session.send``.
    """
    find = getattr(http_client, "_transport_for_url", None)  # private: it may go one day
    if find is None:
        is_left = hasattr(http_client.send, _APPLIED_TO_REQUESTS)  # requests
        return is_left and is_http_instrumentation_enabled()
    transport: Any = find(url)
    handling = _handling(_type_of(transport))
    if handling is not None:
        members, methods, plain = handling
        own: Mapping[str, Any] = getattr(transport, "__dict__", _NO_MEMBERS)
        # In most programs nothing is wrapped: these are the functions that were there before.
        if all(map(is_, map(getitem, members, methods), plain)) and _HANDLERS.isdisjoint(own):
            return False
        found = [*map(getitem, members, methods), *(own.get(name) for name in _HANDLERS)]
        if not any(map(_is_wrapped_by_opentelemetry, found)):
            return False
    return is_http_instrumentation_enabled()


class _Handling(NamedTuple):
    """The methods that a request may pass through in a transport of a kind: where they are found."""

    members: tuple[Mapping[str, Any], ...]
    methods: tuple[str, ...]
    plain: tuple[Any, ...]  # those of them that are not wrapped in anything


@lru_cache(maxsize=64)
def _handling(kind: type[Any]) -> _Handling | None:
    """Give the methods of a transport of a kind; ``None`` for a transport of OpenTelemetry's own."""
    if _is_opentelemetrys(kind):
        return None
    every = (vars(base) for base in kind.__mro__)
    found = [(members, name) for members in every for name in _HANDLERS if name in members]
    functions = (members[name] for members, name in found)
    return _Handling(
        tuple(members for members, _ in found),
        tuple(name for _, name in found),
        tuple(each if type(each) is FunctionType else None for each in functions),
    )


def _is_wrapped_by_opentelemetry(function: Any) -> bool:
    while function is not None:
        wrapper: Any = getattr(function, "_self_wrapper", None)
        if wrapper is not None and _is_opentelemetrys(getattr(wrapper, "func", wrapper)):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _is_opentelemetrys(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("opentelemetry.instrumentation.")
