"""What both clients do for one exchange: send, wait for a loading server, read, record.

Written once, as generators that say what is to be done next (send this, wait so long) and are
told what came of it. A client only does it: with or without ``await``.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from llamatelemetry import __version__
from llamatelemetry._optional import required_by
from llamatelemetry.genai import (
    ConfiguredInstrumenter,
    Request,
    Response,
    StreamObserver,
    get_field,
    internal_errors,
    model_name,
    parse_parameters,
    server_of,
)
from llamatelemetry.llama._endpoints import Exchange, health
from llamatelemetry.llama._errors import LlamaServerError, ServerLoadingError, read_error, sizes_of
from llamatelemetry.llama._responses import parse
from llamatelemetry.llama._reuse import ReuseWatch
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

    from llamatelemetry.genai import Call, Content
    from llamatelemetry.llama._endpoints import Inference

T = TypeVar("T")

_SCOPE: Final = "llamatelemetry.llama"
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_CONNECT_TIMEOUT_S: Final = 10.0
_TRIES_OF_CONNECTIONS: Final = 4


class Send(NamedTuple):
    """To be sent; the answer is the HTTP response, read unless it is a good one of a stream."""

    request: Any
    stream: bool


class Wait(NamedTuple):
    """To be waited."""

    seconds: float


class OpenStream(NamedTuple):
    """A stream that has begun, and what watches it if it is recorded."""

    response: Any
    watch: StreamObserver | None


class Connection:
    """What a client knows and keeps: where the server is, how to ask it, how calls are recorded."""

    def __init__(
        self,
        base_url: str,
        *,
        is_async: bool,
        api_key: str | None,
        model: str | None,
        timeout_s: float,
        load_wait_s: float,
        strict_operation_names: bool,
    ) -> None:
        self.httpx2 = _import_httpx2()
        self.is_async = is_async
        self.base_url = _root_of(base_url)
        self.model = model
        self.learned_model: str | None = None
        self.load_wait_s = load_wait_s
        kind = self.httpx2.AsyncClient if is_async else self.httpx2.Client
        self.http: Any = kind(
            base_url=self.base_url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=self.httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            # Not 100 connections, its default: calls would queue in here, and seem to wait there.
            limits=self.httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )
        parts = urlsplit(self.base_url)
        self._server = server_of(parts.scheme, parts.hostname or "", parts.port)
        # Strict is the default, which the configuration may change; not strict was asked for here.
        own: dict[str, Any] = {} if strict_operation_names else {"strict_operation_names": False}
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__, **own)

    def build(self, exchange: Exchange[Any], timeout_s: float | None = None) -> Any:
        """Make the HTTP request of one attempt."""
        options: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        if exchange.stream:
            # llama.cpp's HTTP library may close a connection after a stream without having said
            # so; a request that follows at once over the same connection would get no answer.
            options["headers"] = {"Connection": "close"}
        return self.http.build_request(
            exchange.method,
            exchange.path,
            json=exchange.body,
            params=exchange.query,
            **options,
        )

    def with_model(self, exchange: Exchange[T]) -> Exchange[T]:
        """Name the client's model in a request that names none: a router wants it in each."""
        if exchange.body is not None and self.model:
            exchange.body.setdefault("model", self.model)
        return exchange

    def learn(self, reply: Any) -> None:
        """Note the model that a reply names, for a client that was given none."""
        if self.learned_model is None:
            self.learned_model = model_name(get_field(reply, "model"))

    def start(self, exchange: Exchange[Any], inference: Inference) -> Call | None:
        """Open the call of an exchange, unless it is not to be recorded."""
        body = exchange.body or {}
        try:
            call = self._instrumenter.get().start(
                Request(
                    operation=inference.operation,
                    task=inference.task,
                    provider=PROVIDER_LLAMA_CPP,
                    model=model_name(body.get("model")),
                    server=self._server,
                    stream=exchange.stream,
                    choice_count=inference.choice_count,
                    read_content=_content_reader(inference, body),
                )
            )
            if call is not None and call.recording:
                call.request.parameters = parse_parameters(body)
            return call
        except Exception as error:
            internal_errors.log_once("starting a call of the llama.cpp client", error)
            return None

    def start_attempt(self, call: Call, request: Any) -> None:
        """The request goes out: the first time, or again to a server that was loading."""
        try:
            call.start_attempt()
            call.instrumenter.propagation.inject(request.headers, self.http, request.url)
        except Exception as error:
            internal_errors.log_once("passing the trace context on", error)


def _import_httpx2() -> ModuleType:
    with required_by("A llama.cpp client", "llamatelemetry-core[llama]"):
        import httpx2
    return httpx2


def _root_of(base_url: str) -> str:
    """The server's own address: clients of the OpenAI protocol are given it with ``/v1``."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://, not {base_url!r}")
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def converse(connection: Connection, exchange: Exchange[T]) -> Generator[Send | Wait, Any, T]:
    """Have an exchange whose reply comes as a whole."""
    inference = connection.with_model(exchange).inference
    call = None if inference is None else connection.start(exchange, inference)
    response = yield from _sent(connection, exchange, call)
    try:
        reply = response.text if exchange.is_text else _parsed(response)
    except BaseException as error:
        if call is not None:
            call.fail(error)
        raise
    if inference is not None:
        connection.learn(reply)
        if call is not None:
            call.finish(_read(inference, reply))
    return exchange.read(reply)


def converse_streaming(
    connection: Connection, exchange: Exchange[Any]
) -> Generator[Send | Wait, Any, OpenStream]:
    """Have an exchange whose reply is a stream, as far as its beginning."""
    inference = connection.with_model(exchange).inference
    call = None if inference is None else connection.start(exchange, inference)
    response = yield from _sent(connection, exchange, call)
    if call is None or inference is None:
        return OpenStream(response, None)
    return OpenStream(response, StreamObserver(call, inference.fold(call.content_max_chars)))


def _content_reader(inference: Inference, body: dict[str, Any]) -> Callable[[], Content] | None:
    return None if inference.read_content is None else partial(inference.read_content, body)


def _read(inference: Inference, reply: Any) -> Response:
    try:
        return inference.read(reply)
    except Exception as error:
        internal_errors.log_once("reading a reply of llama.cpp", error)
        return Response()


def _parsed(response: Any) -> Any:
    try:
        return parse(response.content)
    except ValueError as error:
        raise LlamaServerError(
            response.status_code,
            "invalid_reply",
            f"the reply to {response.request.url} is no JSON: is that a llama.cpp server?",
        ) from error


def _sent(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    """Send below the call's span, which a failure ends; give the good HTTP response."""
    if call is None:
        return (yield from _attempts(connection, exchange, None))
    token = call.activate()
    try:
        response = yield from _attempts(connection, exchange, call)
    except GeneratorExit:
        # A coroutine is being destroyed, in whatever context the collector runs in: nothing
        # may be recorded here, and the context is not this one's to restore.
        call.abandon()
        raise
    except BaseException as error:
        call.deactivate(token)
        call.fail(error, Response(attributes=sizes_of(error)))
        raise
    call.deactivate(token)
    return response


def _attempts(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    pauses = _Pauses(connection.load_wait_s if exchange.waits else 0.0)
    while True:
        response = yield from _answered(connection, exchange, call)
        if call is not None:
            call.mark_headers_received()
        if response.is_success:
            return response
        error = read_error(response.status_code, response.content)
        pause_s = pauses.next() if isinstance(error, ServerLoadingError) else None
        if pause_s is None:
            raise error
        yield Wait(pause_s)


def _answered(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    """Send until there is an answer, good or bad: again if an older connection was just closed."""
    httpx2 = connection.httpx2
    for tries_left in reversed(range(_TRIES_OF_CONNECTIONS)):
        request = connection.build(exchange)
        watch = ReuseWatch()
        watch.listen(request, is_async=connection.is_async)
        if call is not None:
            connection.start_attempt(call, request)
        try:
            return (yield Send(request, exchange.stream))
        except httpx2.ConnectError as error:
            error.add_note(f"Is a llama.cpp server running at {connection.base_url}?")
            raise
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
            if not (tries_left and watch.was_closed(error)):
                raise
    raise AssertionError("unreachable: the last try raises")


class _Pauses:
    """How long to wait before each further attempt, until the time is up."""

    def __init__(self, total_s: float) -> None:
        self._until = perf_counter() + total_s
        self._pause_s = _FIRST_PAUSE_S

    @property
    def left_s(self) -> float:
        return self._until - perf_counter()

    def next(self) -> float | None:
        left_s = self.left_s
        if left_s <= 0:
            return None
        pause_s = min(self._pause_s, left_s)
        self._pause_s = min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
        return pause_s


def wait_until_ready(connection: Connection, timeout_s: float) -> Generator[Send | Wait, Any, None]:
    """Ask for the server's health until it is good."""
    pauses = _Pauses(timeout_s)
    trouble: Exception | None = None
    while True:
        request = connection.build(health(), timeout_s=max(pauses.left_s, _FIRST_PAUSE_S))
        try:
            response = yield Send(request, False)
        except connection.httpx2.TransportError as error:
            trouble = error
        else:
            if response.is_success:
                return
            trouble = read_error(response.status_code, response.content)
            if not isinstance(trouble, ServerLoadingError):
                raise trouble
        pause_s = pauses.next()
        if pause_s is None:
            break
        yield Wait(pause_s)
    if isinstance(trouble, ServerLoadingError):
        raise trouble
    raise TimeoutError(
        f"no llama.cpp server answered at {connection.base_url} within {timeout_s:g} s: "
        f"{trouble or 'no answer'}"
    ) from trouble
