"""Propagation of the trace context to inference servers, in the header `traceparent`.

Only that header and `tracestate` are written. Baggage is not: it belongs to the application, and
a request to a model may leave the company. An existing header is never replaced.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from operator import getitem, is_
from sys import modules
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import DEFAULT_TRACE_STATE

from llamatelemetry._limits import Limit
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
_HTTPX_INSTRUMENTATION: Final = "opentelemetry.instrumentation.httpx"  # of httpx2, too
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
            http_client: The client, session or pool of the HTTP library that sends it.
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
        # Not a format specification, which takes twice as long for integers of this length.
        ids = f"{trace_id.to_bytes(16).hex()}-{span_id.to_bytes(8).hex()}"
        written = f"00-{ids}-{flags.to_bytes(1).hex()}"
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
        send: Any = getattr(http_client, "send", None)
        # The instrumentations of aiohttp and urllib3 replace the header if they are active.
        is_left = hasattr(send, _APPLIED_TO_REQUESTS)  # requests
        return is_left and _is_recorded_by_http(send, "REQUESTS", url)
    if _HTTPX_INSTRUMENTATION not in modules:
        return False
    transport: Any = find(url)
    handling = _transport_methods(_type_of(transport))
    wrapper: Any = None
    if handling is not None:
        members, methods, plain = handling
        own: Mapping[str, Any] = getattr(transport, "__dict__", _NO_MEMBERS)
        # Fast path: in most programs nothing is wrapped, and the functions are the same.
        if all(map(is_, map(getitem, members, methods), plain)) and _HANDLERS.isdisjoint(own):
            return False
        found = [*map(getitem, members, methods), *(own.get(name) for name in _HANDLERS)]
        wrappers: list[Any] = [_opentelemetry_wrapper_of(each) for each in found]
        wrapper = next((each for each in wrappers if each is not None), None)
        if wrapper is None:
            return False
    return _is_recorded_by_http(wrapper, "HTTPX", url)


def _is_recorded_by_http(wrapper: Any, library: str, url: Any) -> bool:
    """Return whether an HTTP instrumentation records a URL, instead of passing it through.

    Its exclusions are an argument of its wrapper (httpx), a variable of its wrapper (requests), or
    those of `OTEL_PYTHON_<library>_EXCLUDED_URLS`. Nothing else propagates the context to a
    URL that it excludes.
    """
    if not is_http_instrumentation_enabled():
        return False
    excluded = _exclusions_of(wrapper)
    if excluded is None:
        from opentelemetry.util.http import get_excluded_urls

        excluded = get_excluded_urls(library)
    return excluded is None or not excluded.url_disabled(str(url))


def _exclusions_of(function: Any) -> Any:
    """Return the object that excludes URLs from a wrapper or a function in its chain, if any."""
    while function is not None:
        keywords: Mapping[str, Any] = getattr(function, "keywords", _NO_MEMBERS)
        found = keywords.get("excluded_urls")
        code: Any = getattr(function, "__code__", None)
        cells: Any = getattr(function, "__closure__", None)
        if found is None and code is not None and "excluded_urls" in code.co_freevars:
            found = cells[code.co_freevars.index("excluded_urls")].cell_contents
        if hasattr(found, "url_disabled"):
            return found
        function = getattr(function, "__wrapped__", None)
    return None


class _TransportMethods(NamedTuple):
    """Where a transport class has the methods that a request may pass through."""

    members: tuple[Mapping[str, Any], ...]
    methods: tuple[str, ...]
    plain: tuple[Any, ...]  # The functions; `None` for one that is wrapped.


@Limit("transport_classes", 64, "Methods of HTTP transport classes").cached
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


def _opentelemetry_wrapper_of(function: Any) -> Any:
    while function is not None:
        wrapper: Any = getattr(function, "_self_wrapper", None)
        if wrapper is not None and _is_from_opentelemetry(getattr(wrapper, "func", wrapper)):
            return wrapper
        function = getattr(function, "__wrapped__", None)
    return None


def _is_from_opentelemetry(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("opentelemetry.instrumentation.")
