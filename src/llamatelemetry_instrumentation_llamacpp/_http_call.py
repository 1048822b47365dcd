"""One HTTP request to an inference endpoint, with any HTTP client library.

If the server is known to be an inference server, the request is a call from the start. Otherwise only
the start time is kept until the response proves which engine the server is. The call is then started
retroactively, at that time.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import context as context_api

from llamatelemetry.genai import (
    BodyCapture,
    Call,
    EventBytesObserver,
    Instrumenter,
    ProvisionalBodyObserver,
    ProvisionalObserver,
    Request,
    Response,
    Server,
    as_dict,
    current_call,
    internal_errors,
    may_prove_engine,
    parse_body,
    read_engine_headers,
    server_metadata_cache,
)
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP
from llamatelemetry_instrumentation_llamacpp._http_adapter import (
    HttpResponse,
    parse_capture,
    parse_content,
)
from llamatelemetry_instrumentation_llamacpp._origins import remember_prefix
from llamatelemetry_instrumentation_llamacpp._replaced_mapping import ReplacedMapping
from llamatelemetry_instrumentation_llamacpp._response_observers import (
    body_observer,
    event_observer,
)
from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch, parse_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from opentelemetry.context import Context

    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._http_adapter import HttpClientAdapter

_current: Final[ContextVar[HttpCall | None]] = ContextVar("llamatelemetry-http-call", default=None)
_LARGEST_REQUEST: Final = 16 * 1024 * 1024
# The credentials of the application's request, which `GET /props` needs as well.
_CREDENTIALS: Final = ("authorization", "x-api-key")
_TRACE_HEADERS: Final = ("traceparent", "tracestate")


class OutgoingRequest(NamedTuple):
    """A request that is about to be sent: objects of the HTTP library, and what the URL names."""

    client: Any
    request: Any
    server: Server | None  # `None` if the URL has no host.
    match: RouteMatch


def start_http_call(
    adapter: HttpClientAdapter, instrumentor: LlamaCppInstrumentor, outgoing: OutgoingRequest
) -> HttpCall | None:
    """Start the call of a request, or return `None` if the request is not to be recorded."""
    try:
        if outgoing.server is None:
            return None
        has_route = instrumentor.origins.has_route(outgoing.server, outgoing.match)
        if has_route is False:
            return None
        outer = current_http_call()
        if outer is not None and outer.contains(adapter, outgoing):
            return None
        http_call = HttpCall(adapter, instrumentor.instrumenter, outgoing)
        http_call.open(is_known=has_route is True)
    except Exception as error:
        internal_errors.log_once("starting a call over HTTP", error)
        return None
    return http_call


def current_http_call() -> HttpCall | None:
    """Return the HTTP call whose request is being sent in this context."""
    http_call = _current.get()
    # A task that was created meanwhile has a copy of the context, and may live longer.
    return http_call if http_call is not None and http_call.is_sending else None


class HttpCall:
    """A request that is being sent, and its response until the application gets it."""

    def __init__(
        self, adapter: HttpClientAdapter, instrumenter: Instrumenter, outgoing: OutgoingRequest
    ) -> None:
        self.client, self.request, self._server, self._match = outgoing
        self.adapter = adapter
        self._instrumenter = instrumenter
        self._call: Call | None = None
        self._context: Context | None = None
        self._tokens: tuple[Token[Context] | None, Token[HttpCall | None]] | None = None
        self._headers: ReplacedMapping | None = None
        self._extensions: ReplacedMapping | None = None
        self._is_parsed_outside = False
        self._sends = 1
        self._passed_down = 0  # how often a lower layer has sent it
        self._started_ns = self._sent_ns = self._passed_ns = perf_counter_ns()

    @property
    def is_sending(self) -> bool:
        """Whether the library has neither returned nor raised."""
        return self._tokens is not None

    def open(self, *, is_known: bool) -> None:
        """Start the call now if the server is known to have the route, else keep the context."""
        token = None
        if is_known:
            call = self._call = self._start()
            if call is not None:
                call.start_attempt()
                token = call.activate()
        else:
            self._context = context_api.get_current()
        self._tokens = (token, _current.set(self))
        if self._call is not None:
            try:
                self._propagate()
                self._observe_request(self._call)
            except Exception as error:
                internal_errors.log_once("preparing a request", error)

    def _propagate(self) -> None:
        """Write the trace context into a copy of the headers, which `_close` takes out again."""
        original = self.request.headers
        headers = original.copy()
        self._instrumenter.propagation.inject(headers, self.client, self.request.url)
        if len(headers) != len(original):
            self.request.headers = headers
            self._headers = ReplacedMapping(original, headers, _TRACE_HEADERS)

    def contains(self, adapter: HttpClientAdapter, inner: OutgoingRequest) -> bool:
        """Return whether another request is this one, sent again or by a lower library."""
        if inner.match.route is not self._match.route:
            return False
        if adapter is self.adapter:
            is_same = adapter.is_part_of(inner.client, inner.request, self)
            if is_same and adapter.is_resend(inner.client, self):
                self.on_resend()
                self._passed_ns = self._sent_ns
            elif is_same:
                self._on_passed_down()
            return is_same
        is_below = self.adapter.sent_by == adapter.library
        if is_below:
            self._on_passed_down()
        return (
            is_below
            or inner.server == self._server
            or self.adapter.is_body(getattr(inner.request, "body", None), self.request)
        )

    def _on_passed_down(self) -> None:
        """Count the requests of a lower layer, which may retry by itself."""
        self._passed_down += 1
        if self._passed_down > self._sends:
            self.on_resend()

    def on_sent(self) -> None:
        """Restart the clock of this attempt: a library reports that it sends the request now."""
        self._sent_ns = perf_counter_ns()
        if self._call is not None:
            self._call.mark_sent(self._sent_ns)

    def _observe_request(self, call: Call) -> None:
        """Observe the request until its response is read; `_close` restores its extensions."""
        is_async = None if call.diagnostics is None else self.adapter.is_async(self.client)
        if call.diagnostics is not None and is_async is not None:
            original = self.request.extensions
            call.diagnostics.attach(self.request, is_async=is_async)
            self._extensions = ReplacedMapping(original, self.request.extensions, ("trace",))

    def on_resend(self) -> None:
        """Restart the clock: the time before a redirect or retry is not queue time of the server."""
        self._sends += 1
        self._sent_ns = perf_counter_ns()
        if self._call is not None:
            self._call.start_attempt()

    def _close(self) -> None:
        """Restore the context and the headers once the library has returned or raised."""
        if self._tokens is None:
            return
        (token, current), self._tokens = self._tokens, None
        try:
            if self._call is not None and token is not None:
                self._call.deactivate(token)
            _current.reset(current)
            if self._headers is not None:
                self.request.headers = self._headers.restore(self.request.headers)
            if self._extensions is not None:
                self.request.extensions = self._extensions.restore(self.request.extensions)
        except Exception as error:
            internal_errors.log_once("finishing a request over HTTP", error)

    def on_error(self, error: BaseException) -> None:
        """End the call with the exception that the library has raised."""
        self._close()
        if self._call is not None:
            self._call.fail(error)

    def on_destroyed(self) -> None:
        """Leave the call to the finalizer: its coroutine is destroyed, perhaps in another context."""
        self._tokens = None
        if self._call is not None:
            self._call.abandon()

    def _start(self, started_ns: int | None = None) -> Call | None:
        instrumenter, route = self._instrumenter, self._match.route
        if current_call() is not None:
            request = Request(
                route.operation, PROVIDER_LLAMA_CPP, server=self._server, task=route.task
            )
            # The plugin of an enclosing call parses the request and the response itself.
            self._is_parsed_outside = instrumenter.enclosing_call(request) is not None
            if self._is_parsed_outside:
                return instrumenter.start(request, started_ns=started_ns)
        request = parse_request(route, self._body(), self._server)
        return instrumenter.start(request, started_ns=started_ns)

    def _body(self) -> Mapping[str, Any]:
        body = self.adapter.request_body(self.request)
        if isinstance(body, str):
            body = body.encode("utf-8", "replace")
        if not isinstance(body, bytes):
            return as_dict(body)
        return as_dict(parse_body(body, "")) if len(body) <= _LARGEST_REQUEST else {}

    def on_response(self, response: Any) -> None:
        """Record a response. Its body may not have been read yet."""
        self._close()
        try:
            http = HttpResponse(self.adapter, response)
            provider = http.provider
            if provider is not None:
                self._confirm(provider)
            if self._call is not None:
                self._record(self._call, http, provider)
            elif self._context is not None:
                self._detect_engine(http)
        except Exception as error:
            if self._call is not None:
                self._call.finish(Response())
            internal_errors.log_once("reading a response over HTTP", error)

    def _confirm(self, provider: str) -> Call | None:
        """Start the call if it has not started: the response has proved its provider."""
        call, context = self._call, self._context
        self._context = None
        if call is None and context is not None and self._match.route.is_served_by(provider):
            if self._server is not None:  # so that the span starts with this provider
                self._instrumenter.servers.remember(self._server, provider)
                remember_prefix(self._server, self._match.prefix, provider)
            call = self._start_retroactively(context)
        if call is not None:
            call.set_provider(provider)
        return call

    def _start_retroactively(self, context: Context) -> Call | None:
        token = context_api.attach(context)
        try:
            call = self._start(self._started_ns)
        finally:
            context_api.detach(token)
        if call is not None:
            call.start_attempt(self._sent_ns)
        self._call = call
        return call

    def _detect_engine(self, http: HttpResponse) -> None:
        """Look for a proof of the engine in the body of a response whose headers have none."""
        if http.status >= 300:
            return
        if http.content is not None:
            self._detect_in_content(http)
        elif http.encoding and not self.adapter.observes_decoded:
            return
        elif http.is_stream:
            self.adapter.observe_body(
                http.response, self._provisional_observer(http), http.encoding
            )
        elif http.is_json:
            self.adapter.observe_body(
                http.response, self._provisional_body_observer(http), http.encoding
            )

    def _detect_in_content(self, http: HttpResponse) -> None:
        match = self._match
        if may_prove_engine(http.content or b"", is_bulk_wanted=match.route.is_bulk_wanted):
            found = parse_content(match, http, parse_request(match.route, {}, None), None)
            call = self._confirm(found.provider) if found.provider is not None else None
            if call is not None:
                self._record(call, http, found.provider)

    # A response holds its observer, so an observer must not hold the response: a reference cycle
    # would delay the end of abandoned streams.
    def _provisional_observer(self, http: HttpResponse) -> ProvisionalObserver:
        at_ns, headers = http.at_ns, http.headers
        is_networked = self.adapter.is_networked(http.response)

        def confirm(provider: str) -> EventBytesObserver | None:
            call = self._confirm(provider)
            if call is None:
                return None
            call.request.stream = True
            call.record_response_headers(headers)
            call.mark_headers_received(at_ns)
            if is_networked:
                self._request_props(call, provider)
            return event_observer(self._match, call, "")

        return ProvisionalObserver(confirm)

    def _provisional_body_observer(self, http: HttpResponse) -> ProvisionalBodyObserver:
        match, status, headers = self._match, http.status, http.headers
        is_networked = self.adapter.is_networked(http.response)

        def on_body(capture: BodyCapture) -> None:
            is_bulk_wanted = match.route.is_bulk_wanted
            if not may_prove_engine(capture.body(), is_bulk_wanted=is_bulk_wanted):
                return
            found = parse_capture(match, status, capture, parse_request(match.route, {}, None))
            call = self._confirm(found.provider) if found.provider is not None else None
            if call is not None:
                call.record_response_headers(headers)
                if is_networked:
                    self._request_props(call, found.provider)
                call.finish(parse_capture(match, status, capture, call.request))

        return ProvisionalBodyObserver(on_body)

    def _record(self, call: Call, http: HttpResponse, provider: str | None) -> None:
        call.record_response_headers(http.headers)
        self._diagnose(call, http)
        redirected_s = self.adapter.redirected_s(http.response)
        if redirected_s and call.attempts == 1:
            self._sent_ns += round(redirected_s * 1e9)
            call.start_attempt(self._sent_ns)
        if http.status < 300 and self.adapter.is_networked(http.response):
            self._request_props(call, provider)
        if self._is_parsed_outside:
            call.mark_headers_received(http.at_ns)
            call.finish(Response())
            return
        if provider is not None:
            call.header_timings = read_engine_headers(http.headers, provider)
        is_stream = http.is_stream
        call.request.stream = call.request.stream or is_stream
        if http.content is not None:
            headers_ns = self.adapter.headers_ns(http.response, self._passed_ns)
            if headers_ns is not None:
                call.mark_headers_received(headers_ns)
            call.finish(parse_content(self._match, http, call.request, call.content_max_chars))
            return
        call.mark_headers_received(http.at_ns)
        encoding = "" if self.adapter.observes_decoded else http.encoding
        observer = (
            event_observer(self._match, call, encoding)
            if is_stream and http.status < 300
            else body_observer(self._match, call, http.status, encoding)
        )
        self.adapter.observe_body(http.response, observer, http.encoding)

    def _diagnose(self, call: Call, http: HttpResponse) -> None:
        if call.diagnostics is None:
            return
        if self._extensions is not None:
            call.diagnostics.on_response(http.response)
        elif http.content is None:
            call.diagnostics.on_headers(http.at_ns, self.adapter.socket(http.response))
        else:
            headers_ns = self.adapter.headers_ns(http.response, self._passed_ns)
            if headers_ns is not None:
                call.diagnostics.on_headers(headers_ns)

    def _request_props(self, call: Call, provider: str | None) -> None:
        # The application did not make this request, and it carries the application's
        # credentials. It is therefore sent only if an option turns it on.
        if provider != PROVIDER_LLAMA_CPP or self._server is None:
            return
        if self._instrumenter.config.llamacpp_props:
            headers = {
                name: value
                for name in _CREDENTIALS
                if isinstance(value := self.request.headers.get(name), str)
            }
            base_url = self._server.origin + self._match.prefix
            server_metadata_cache.fetch(self._server, base_url, headers, call.request.model)
