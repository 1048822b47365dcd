"""One HTTP request on a path of inference, whatever library sends it.

To a server that is known to be llama.cpp it is a call from the start. To any other it is nothing
but a moment noted down, unless the reply proves to be llama.cpp's: then it becomes a call, with
the time at which it began.
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
from llamatelemetry_instrumentation_llamacpp._replies import Reply, read_capture, read_content
from llamatelemetry_instrumentation_llamacpp._routes import Match, read_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from opentelemetry.context import Context

    from llamatelemetry_instrumentation_llamacpp._dialect import Dialect
    from llamatelemetry_instrumentation_llamacpp._owner import Owner


_sending: Final[ContextVar[Exchange | None]] = ContextVar("llamatelemetry-sending", default=None)
_LARGEST_REQUEST: Final = 16 * 1024 * 1024
# Headers that let a client in: wanted to ask the server what it is.
_CREDENTIALS: Final = ("authorization", "x-api-key")


class Sent(NamedTuple):
    """What is sent: by which client, where to, and to which endpoint there."""

    client: Any
    request: Any
    server: Server | None
    match: Match


def begin(dialect: Dialect, owner: Owner, sent: Sent) -> Exchange | None:
    """Begin an exchange, or give ``None`` where there is to be none."""
    try:
        if sent.server is None:
            return None
        verdict = owner.origins.is_llama_cpp(sent.server)
        if verdict is False:
            return None
        outer = _sending.get()
        if outer is not None and dialect.is_part_of(sent.client, sent.request, outer):
            outer.sent_again()
            return None
        exchange = Exchange(dialect, owner.instrumenter, sent)
        exchange.open(is_known=verdict is True)
    except Exception as error:
        internal_errors.log_once("starting a call over HTTP", error)
        return None
    return exchange


class Exchange:
    """A request that is being sent, and its reply until that is the application's.

    Args:
        dialect: of the library that sends it.
        instrumenter: to make a call with.
        sent: what is sent.
    """

    def __init__(self, dialect: Dialect, instrumenter: Instrumenter, sent: Sent) -> None:
        self.client, self.request, self._server, self._match = sent
        self._dialect = dialect
        self._instrumenter = instrumenter
        self._call: Call | None = None
        self._context: Context | None = None
        self._tokens: tuple[Token[Context] | None, Token[Exchange | None]] | None = None
        self._headers: Any = None
        self._is_read_outside = False
        self._started_ns = self._sent_ns = perf_counter_ns()

    # --- sending ----------------------------------------------------------------------------

    def open(self, *, is_known: bool) -> None:
        """Begin: a call, if the server is known to be llama.cpp."""
        token = None
        if is_known:
            call = self._call = self._start()
            if call is not None:
                call.start_attempt()
                token = call.activate()
        else:
            self._context = context_api.get_current()
        self._tokens = (token, _sending.set(self))
        if self._call is not None:
            try:
                self._headers = self._dialect.propagate(
                    self._instrumenter, self.client, self.request
                )
            except Exception as error:
                internal_errors.log_once("propagating the trace", error)

    def sent_again(self) -> None:
        """The request goes out once more, as after a redirect: what came before is no queue."""
        self._sent_ns = perf_counter_ns()
        if self._call is not None:
            self._call.start_attempt()

    def _close(self) -> None:
        """The library has done its work."""
        if self._tokens is None:
            return
        (token, sending), self._tokens = self._tokens, None
        try:
            if self._call is not None and token is not None:
                self._call.deactivate(token)
            if self._headers is not None:
                self._dialect.restore(self.request, self._headers)
            _sending.reset(sending)
        except Exception as error:
            internal_errors.log_once("finishing a request over HTTP", error)

    def failed(self, error: BaseException) -> None:
        """The library has raised."""
        self._close()
        if self._call is not None:
            self._call.fail(error)

    def destroyed(self) -> None:
        """The coroutine is being destroyed, in whatever context the collector runs in."""
        if self._call is not None:
            self._call.abandon()

    def _start(self, started_ns: int | None = None) -> Call | None:
        instrumenter, route = self._instrumenter, self._match.route
        if current_call() is not None:
            request = Request(
                route.operation, PROVIDER_LLAMA_CPP, server=self._server, task=route.task
            )
            # What an outer call of another plugin is of, it knows; and it reads the reply.
            self._is_read_outside = instrumenter.enclosing_call(request) is not None
            if self._is_read_outside:
                return instrumenter.start(request, started_ns=started_ns)
        request = read_request(route, self._body(), self._server)
        return instrumenter.start(request, started_ns=started_ns)

    def _body(self) -> Mapping[str, Any]:
        body = self._dialect.request_body(self.request)
        if not body or len(body) > _LARGEST_REQUEST:
            return {}
        raw = body.encode("utf-8", "replace") if isinstance(body, str) else body
        return as_dict(parse_body(raw, ""))

    # --- answered ---------------------------------------------------------------------------

    def answered(self, response: Any) -> None:
        """The library has given a response; the body of which may be still to come."""
        self._close()
        try:
            reply = Reply(self._dialect, response)
            is_llama_cpps = reply.is_llama_cpps
            if is_llama_cpps:
                self._prove()
            if self._call is not None:
                self._follow(self._call, reply, is_llama_cpps=is_llama_cpps)
            elif self._context is not None:
                self._look_for_proof(reply)
        except Exception as error:
            internal_errors.log_once("reading a reply over HTTP", error)
            if self._call is not None:
                self._call.finish(Response())

    def _prove(self) -> Call | None:
        """The reply is llama.cpp's."""
        call = self._call
        if call is None and self._context is not None:
            call = self._start_late(self._context)
        self._context = None
        if call is not None:
            call.set_provider(PROVIDER_LLAMA_CPP)
        return call

    def _start_late(self, context: Context) -> Call | None:
        token = context_api.attach(context)
        try:
            call = self._start(self._started_ns)
        finally:
            context_api.detach(token)
        if call is not None:
            call.start_attempt(self._sent_ns)
        self._call = call
        return call

    def _look_for_proof(self, reply: Reply) -> None:
        route = self._match.route
        if reply.status >= 300 or not route.is_bulk_wanted:
            return
        if reply.content is None:
            if reply.is_event_stream and not reply.encoding:
                is_networked = self._dialect.is_networked(reply.response)
                self._dialect.tap(reply.response, self._unproven(reply.at_ns, is_networked), "")
        elif b'"timings"' in reply.content:
            found = read_content(self._match, reply, read_request(route, {}, None), None)
            if found.timings is not None:
                call = self._prove()
                if call is not None:
                    self._follow(call, reply, is_llama_cpps=False)

    def _unproven(self, at_ns: int, is_networked: bool) -> ProvisionalObserver:
        # The watch is part of the response: none of what it holds may hold that.
        def prove() -> EventBytesObserver | None:
            call = self._prove()
            if call is None:
                return None
            call.request.stream = True
            call.mark_headers_received(at_ns)
            if is_networked:
                self._get_acquainted(call)
            return self._event_watch(call, "")

        return ProvisionalObserver(prove)

    def _follow(self, call: Call, reply: Reply, *, is_llama_cpps: bool) -> None:
        redirected_s = self._dialect.redirected_s(reply.response)
        if redirected_s and call.attempts == 1:
            self._sent_ns += round(redirected_s * 1e9)
            call.start_attempt(self._sent_ns)
        if is_llama_cpps and reply.status < 300 and self._dialect.is_networked(reply.response):
            self._get_acquainted(call)
        if self._is_read_outside:
            call.mark_headers_received(reply.at_ns)
            call.finish(Response())
            return
        is_event_stream = reply.is_event_stream
        call.request.stream = call.request.stream or is_event_stream
        if reply.content is not None:
            headers_ns = self._dialect.headers_ns(reply.response, self._sent_ns)
            if headers_ns is not None:
                call.mark_headers_received(headers_ns)
            call.finish(read_content(self._match, reply, call.request, call.content_max_chars))
            return
        call.mark_headers_received(reply.at_ns)
        encoding = reply.encoding
        told = "" if self._dialect.tells_decoded else encoding
        watch = (
            self._event_watch(call, told)
            if is_event_stream
            else self._body_watch(call, reply.status, told)
        )
        self._dialect.tap(reply.response, watch, encoding)

    def _event_watch(self, call: Call, encoding: str) -> EventBytesObserver:
        route = self._match.route
        fold = route.fold(call.request, call.content_max_chars)
        return event_bytes_observer(call, fold, encoding, is_typed=route.is_typed)

    def _body_watch(self, call: Call, status: int, encoding: str) -> BodyBytesObserver:
        match, request = self._match, call.request
        return BodyBytesObserver(
            call, lambda body: read_capture(match, status, body, request), content_decoder(encoding)
        )

    def _get_acquainted(self, call: Call) -> None:
        if self._server is not None:
            headers = {
                name: value
                for name in _CREDENTIALS
                if isinstance(value := self.request.headers.get(name), str)
            }
            base_url = self._server.origin + self._match.prefix
            server_metadata_cache.ask(self._server, base_url, headers, call.request.model)
