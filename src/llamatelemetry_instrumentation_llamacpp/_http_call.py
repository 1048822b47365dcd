"""One HTTP request to an inference endpoint, with any HTTP client library.

If the server is known to be llama.cpp, the request is a call from the start. Otherwise only the
start time is kept until the response proves that the server is llama.cpp. The call is then
started retroactively, at that time.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import context as context_api

from llamatelemetry.genai import (
    BodyBytesObserver,
    Call,
    EventBytesObserver,
    Instrumenter,
    ProvisionalObserver,
    Request,
    Response,
    Server,
    as_dict,
    content_decoder,
    current_call,
    event_bytes_observer,
    internal_errors,
    parse_body,
    server_metadata_cache,
)
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP
from llamatelemetry_instrumentation_llamacpp._http_adapter import (
    HttpResponse,
    parse_capture,
    parse_content,
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
        is_llama_cpp = instrumentor.origins.is_llama_cpp(outgoing.server)
        if is_llama_cpp is False:
            return None
        outer = _current.get()
        if outer is not None and adapter.is_part_of(outgoing.client, outgoing.request, outer):
            outer.on_resend()
            return None
        http_call = HttpCall(adapter, instrumentor.instrumenter, outgoing)
        http_call.open(is_known=is_llama_cpp is True)
    except Exception as error:
        internal_errors.log_once("starting a call over HTTP", error)
        return None
    return http_call


class HttpCall:
    """A request that is being sent, and its response until the application gets it."""

    def __init__(
        self, adapter: HttpClientAdapter, instrumenter: Instrumenter, outgoing: OutgoingRequest
    ) -> None:
        self.client, self.request, self._server, self._match = outgoing
        self._adapter = adapter
        self._instrumenter = instrumenter
        self._call: Call | None = None
        self._context: Context | None = None
        self._tokens: tuple[Token[Context] | None, Token[HttpCall | None]] | None = None
        self._headers: Any = None
        self._extensions: Any = None
        self._is_parsed_outside = False
        self._started_ns = self._sent_ns = perf_counter_ns()

    def open(self, *, is_known: bool) -> None:
        """Start the call now if the server is known to be llama.cpp, else keep the context."""
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
            self.request.headers, self._headers = headers, original

    def _observe_request(self, call: Call) -> None:
        """Observe the request until its response is read; `_close` restores its extensions."""
        is_async = None if call.diagnostics is None else self._adapter.is_async(self.client)
        if call.diagnostics is not None and is_async is not None:
            self._extensions = self.request.extensions
            call.diagnostics.attach(self.request, is_async=is_async)

    def on_resend(self) -> None:
        """Restart the clock: the time before a redirect is not queue time of the server."""
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
            if self._headers is not None:
                self.request.headers = self._headers
            if self._extensions is not None:
                self.request.extensions = self._extensions
            _current.reset(current)
        except Exception as error:
            internal_errors.log_once("finishing a request over HTTP", error)

    def on_error(self, error: BaseException) -> None:
        """End the call with the exception that the library has raised."""
        self._close()
        if self._call is not None:
            self._call.fail(error)

    def on_destroyed(self) -> None:
        """Leave the call to the finalizer: its coroutine is destroyed, perhaps in another context."""
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
        body = self._adapter.request_body(self.request)
        if not body or len(body) > _LARGEST_REQUEST:
            return {}
        raw = body.encode("utf-8", "replace") if isinstance(body, str) else body
        return as_dict(parse_body(raw, ""))

    def on_response(self, response: Any) -> None:
        """Record a response. Its body may not have been read yet."""
        self._close()
        try:
            http = HttpResponse(self._adapter, response)
            is_llama_cpp = http.is_llama_cpp
            if is_llama_cpp:
                self._confirm_llama_cpp()
            if self._call is not None:
                self._record(self._call, http, is_llama_cpp=is_llama_cpp)
            elif self._context is not None:
                self._detect_llama_cpp(http)
        except Exception as error:
            if self._call is not None:
                self._call.finish(Response())
            internal_errors.log_once("reading a response over HTTP", error)

    def _confirm_llama_cpp(self) -> Call | None:
        """Start the call if it has not started: the server has proved to be llama.cpp."""
        call = self._call
        if call is None and self._context is not None:
            call = self._start_retroactively(self._context)
        self._context = None
        if call is not None:
            call.set_provider(PROVIDER_LLAMA_CPP)
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

    def _detect_llama_cpp(self, http: HttpResponse) -> None:
        """Look for llama.cpp's timings in a response without its `Server` header."""
        route = self._match.route
        if http.status >= 300 or not route.is_bulk_wanted:
            return
        if http.content is None:
            if http.is_event_stream and not http.encoding:
                is_networked = self._adapter.is_networked(http.response)
                observer = self._provisional_observer(http.at_ns, is_networked)
                self._adapter.observe_body(http.response, observer, "")
        elif b'"timings"' in http.content:
            found = parse_content(self._match, http, parse_request(route, {}, None), None)
            if found.timings is not None:
                call = self._confirm_llama_cpp()
                if call is not None:
                    self._record(call, http, is_llama_cpp=False)

    def _provisional_observer(self, at_ns: int, is_networked: bool) -> ProvisionalObserver:
        # The response holds this observer, so the observer must not hold the response: a
        # reference cycle would delay the end of abandoned streams.
        def confirm() -> EventBytesObserver | None:
            call = self._confirm_llama_cpp()
            if call is None:
                return None
            call.request.stream = True
            call.mark_headers_received(at_ns)
            if is_networked:
                self._request_props(call)
            return self._event_observer(call, "")

        return ProvisionalObserver(confirm)

    def _record(self, call: Call, http: HttpResponse, *, is_llama_cpp: bool) -> None:
        call.record_response_headers(http.response.headers)
        self._diagnose(call, http)
        redirected_s = self._adapter.redirected_s(http.response)
        if redirected_s and call.attempts == 1:
            self._sent_ns += round(redirected_s * 1e9)
            call.start_attempt(self._sent_ns)
        if is_llama_cpp and http.status < 300 and self._adapter.is_networked(http.response):
            self._request_props(call)
        if self._is_parsed_outside:
            call.mark_headers_received(http.at_ns)
            call.finish(Response())
            return
        is_event_stream = http.is_event_stream
        call.request.stream = call.request.stream or is_event_stream
        if http.content is not None:
            headers_ns = self._adapter.headers_ns(http.response, self._sent_ns)
            if headers_ns is not None:
                call.mark_headers_received(headers_ns)
            call.finish(parse_content(self._match, http, call.request, call.content_max_chars))
            return
        call.mark_headers_received(http.at_ns)
        encoding = "" if self._adapter.observes_decoded else http.encoding
        observer = (
            self._event_observer(call, encoding)
            if is_event_stream
            else self._body_observer(call, http.status, encoding)
        )
        self._adapter.observe_body(http.response, observer, http.encoding)

    def _diagnose(self, call: Call, http: HttpResponse) -> None:
        if call.diagnostics is None:
            return
        if self._extensions is not None:
            call.diagnostics.on_response(http.response)
        elif http.content is None:
            call.diagnostics.on_headers(http.at_ns, self._adapter.socket(http.response))
        else:
            headers_ns = self._adapter.headers_ns(http.response, self._sent_ns)
            if headers_ns is not None:
                call.diagnostics.on_headers(headers_ns)

    def _event_observer(self, call: Call, encoding: str) -> EventBytesObserver:
        route = self._match.route
        accumulator = route.make_accumulator(call.request, call.content_max_chars)
        return event_bytes_observer(call, accumulator, encoding, is_typed=route.is_typed)

    def _body_observer(self, call: Call, status: int, encoding: str) -> BodyBytesObserver:
        match, request = self._match, call.request
        return BodyBytesObserver(
            call,
            lambda body: parse_capture(match, status, body, request),
            content_decoder(encoding),
        )

    def _request_props(self, call: Call) -> None:
        # The application did not make this request, and it carries the application's
        # credentials. It is therefore sent only if an option turns it on.
        if self._server is not None and self._instrumenter.config.llamacpp_props:
            headers = {
                name: value
                for name in _CREDENTIALS
                if isinstance(value := self.request.headers.get(name), str)
            }
            base_url = self._server.origin + self._match.prefix
            server_metadata_cache.fetch(self._server, base_url, headers, call.request.model)
