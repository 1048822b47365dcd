"""Propagation of the trace context to inference servers, in the header `traceparent`.

Only that header and `tracestate` are written. Baggage is not: it belongs to the application, and
a request to a model may leave the company. An existing header is never replaced.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from operator import getitem, is_
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import DEFAULT_TRACE_STATE

from llamatelemetry.genai.wire.headers import NAME, has_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import SpanContext

    from llamatelemetry.genai.wire.headers import Entry

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_TRACEPARENT: Final = TRACEPARENT.encode()

_HANDLERS: Final = frozenset({"handle_request", "handle_async_request"})
_type_of: Final = cast("Callable[[Any], type[Any]]", type)
_NO_MEMBERS: Final[Mapping[str, Any]] = {}
_APPLIED_TO_REQUESTS: Final = "opentelemetry_instrumentation_requests_applied"


class Propagation:
    """Writes the trace context by the option `propagate`.

    In the mode `auto`, OpenTelemetry's HTTP instrumentation writes the header if it is active.
    No header is written if `OTEL_PROPAGATORS` does not contain the W3C format, or if `hosts` are
    given and none of them, exact or with `*`, is that of the URL.
    """

    def __init__(self, mode: str, hosts: Sequence[str] | None = None) -> None:
        self._mode = mode
        self._hosts = tuple(host.lower() for host in hosts or ())

    def inject(
        self,
        headers: Any,
        http_client: Any,
        url: Any,
        span: SpanContext | None = None,
    ) -> None:
        """Write the context of a span into the headers of a request before it is sent.

        Args:
            headers: Headers of the request, a case-insensitive mapping of this attempt.
            http_client: The client of httpx or httpx2, or the session of requests, that sends it.
            url: URL of the request, in the type of that client.
            span: Context of the span; that of the current one if `None`.
        """
        entries: list[Entry] | None = headers._list if has_list(headers.__class__) else None
        if self._mode == "off" or (
            TRACEPARENT in headers if entries is None else _TRACEPARENT in map(NAME, entries)
        ):
            return
        if self._hosts and not self._is_named(url):
            return
        if self._mode == "auto":
            propagator = get_global_textmap()
            if propagator is not _W3CPropagation.propagator:
                _W3CPropagation.check(propagator)
            if not _W3CPropagation.is_enabled or _is_left_to_http(http_client, url):
                return
        # Unpacked as a tuple, because one property access takes as long as this whole line.
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

    def _is_named(self, url: Any) -> bool:
        host = str((urlsplit(url).hostname if isinstance(url, str) else url.host) or "").lower()
        return any(fnmatchcase(host, pattern) for pattern in self._hosts)


class _W3CPropagation:
    """Whether the global propagator writes `traceparent`, as it was when it was last seen."""

    propagator: Any = None
    is_enabled = True

    @classmethod
    def check(cls, propagator: TextMapPropagator) -> None:
        cls.is_enabled = TRACEPARENT in propagator.fields
        cls.propagator = propagator


def _is_left_to_http(http_client: Any, url: Any) -> bool:
    """Return whether an HTTP instrumentation of OpenTelemetry will write the header itself.

    It wraps a method in the transport's class, for all clients, or in the transport, for one
    client. Or it replaces the transport. For requests it wraps `Session.send`.
    """
    # This method is private, so it may be missing one day.
    find = getattr(http_client, "_transport_for_url", None)
    if find is None:
        is_left = hasattr(http_client.send, _APPLIED_TO_REQUESTS)  # requests
        return is_left and is_http_instrumentation_enabled()
    transport: Any = find(url)
    handling = _transport_methods(_type_of(transport))
    if handling is not None:
        members, methods, plain = handling
        own: Mapping[str, Any] = getattr(transport, "__dict__", _NO_MEMBERS)
        # Fast path: in most programs nothing is wrapped, and the functions are the same.
        if all(map(is_, map(getitem, members, methods), plain)) and _HANDLERS.isdisjoint(own):
            return False
        found = [*map(getitem, members, methods), *(own.get(name) for name in _HANDLERS)]
        if not any(map(_is_wrapped_by_opentelemetry, found)):
            return False
    return is_http_instrumentation_enabled()


class _TransportMethods(NamedTuple):
    """Where a transport class has the methods that a request may pass through."""

    members: tuple[Mapping[str, Any], ...]
    methods: tuple[str, ...]
    plain: tuple[Any, ...]  # The functions; `None` for one that is wrapped.


@lru_cache(maxsize=64)
def _transport_methods(kind: type[Any]) -> _TransportMethods | None:
    """Return the methods of a transport class; `None` for one of OpenTelemetry's own."""
    if _is_from_opentelemetry(kind):
        return None
    every = (vars(base) for base in kind.__mro__)
    found = [(members, name) for members in every for name in _HANDLERS if name in members]
    functions = (members[name] for members, name in found)
    return _TransportMethods(
        tuple(members for members, _ in found),
        tuple(name for _, name in found),
        tuple(each if type(each) is FunctionType else None for each in functions),
    )


def _is_wrapped_by_opentelemetry(function: Any) -> bool:
    while function is not None:
        wrapper: Any = getattr(function, "_self_wrapper", None)
        if wrapper is not None and _is_from_opentelemetry(getattr(wrapper, "func", wrapper)):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _is_from_opentelemetry(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("opentelemetry.instrumentation.")
