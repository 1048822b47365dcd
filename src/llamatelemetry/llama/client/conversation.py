"""The protocol of one exchange for both clients: send, retry, wait for loading, parse, record.

It is written once, as generators that yield the next action (send this request, wait this long)
and receive its result. A client performs the actions, with or without `await`.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from llamatelemetry.genai import Response, StreamObserver, internal_errors
from llamatelemetry.llama.client.connection import Connection, ConnectionReuseTracker
from llamatelemetry.llama.client.endpoints import Exchange, health
from llamatelemetry.llama.client.errors import (
    LlamaServerError,
    ServerLoadingError,
    error_attributes,
    parse_error_response,
)
from llamatelemetry.llama.client.responses import parse_json

if TYPE_CHECKING:
    from collections.abc import Generator

    from llamatelemetry.genai import Call
    from llamatelemetry.llama.client.endpoints import Inference

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_CONNECTION_ATTEMPTS: Final = 4


class Send(NamedTuple):
    """Send a request. The result is the HTTP response, read unless it is a successful stream."""

    request: Any
    stream: bool


class Wait(NamedTuple):
    """Wait for some seconds."""

    seconds: float


class OpenStream(NamedTuple):
    """A stream after its headers have arrived, with its observer if it is recorded."""

    response: Any
    watch: StreamObserver | None


def converse(connection: Connection, exchange: Exchange[T]) -> Generator[Send | Wait, Any, T]:
    """Perform an exchange with a plain response."""
    inference = connection.set_default_model(exchange).inference
    call = None if inference is None else connection.start(exchange, inference)
    response = yield from _send_recorded(connection, exchange, call)
    try:
        body = response.text if exchange.is_text else _parse_body(response)
    except BaseException as error:
        if call is not None:
            call.fail(error)
        raise
    if inference is not None:
        connection.cache_model(body)
        if call is not None:
            call.finish(_parse_inference(inference, body))
    return exchange.parse(body)


def converse_streaming(
    connection: Connection, exchange: Exchange[Any]
) -> Generator[Send | Wait, Any, OpenStream]:
    """Perform an exchange with a streaming response, until its headers have arrived."""
    inference = connection.set_default_model(exchange).inference
    call = None if inference is None else connection.start(exchange, inference)
    response = yield from _send_recorded(connection, exchange, call)
    if call is None or inference is None:
        return OpenStream(response, None)
    return OpenStream(response, StreamObserver(call, inference.accumulator(call.content_max_chars)))


def _parse_inference(inference: Inference, body: Any) -> Response:
    try:
        return inference.parse(body)
    except Exception as error:
        internal_errors.log_once("parsing a response of llama.cpp", error)
        return Response()


def _parse_body(response: Any) -> Any:
    try:
        return parse_json(response.content)
    except ValueError as error:
        raise LlamaServerError(
            response.status_code,
            "invalid_reply",
            f"the response from {response.request.url} is not JSON: is that a llama.cpp server?",
        ) from error


def _send_recorded(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    """Send a request inside the span of its call; return the successful HTTP response.

    An error ends the span.
    """
    if call is None:
        return (yield from _send_until_loaded(connection, exchange, None))
    token = call.activate()
    try:
        response = yield from _send_until_loaded(connection, exchange, call)
    except GeneratorExit:
        # A coroutine is being destroyed, in an arbitrary context of the garbage collector. Record
        # nothing here, and do not restore the context, which is not the one of the call.
        call.abandon()
        raise
    except BaseException as error:
        call.deactivate(token)
        call.fail(error, Response(attributes=error_attributes(error)))
        raise
    call.deactivate(token)
    return response


def _send_until_loaded(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    """Send a request, and again while the server loads its model, up to `load_wait_s`."""
    pauses = _Pauses(connection.load_wait_s if exchange.waits else 0.0)
    while True:
        response = yield from _send_until_answered(connection, exchange, call)
        if call is not None:
            call.mark_headers_received()
        if response.is_success:
            return response
        error = parse_error_response(response.status_code, response.content)
        pause_s = pauses.next() if isinstance(error, ServerLoadingError) else None
        if pause_s is None:
            raise error
        yield Wait(pause_s)


def _send_until_answered(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Generator[Send | Wait, Any, Any]:
    """Send a request, and again if a reused connection was just closed; return any response."""
    httpx2 = connection.httpx2
    for attempts_left in reversed(range(_CONNECTION_ATTEMPTS)):
        request = connection.build(exchange)
        tracker = ConnectionReuseTracker()
        tracker.attach(request, is_async=connection.is_async)
        if call is not None:
            connection.start_attempt(call, request)
        try:
            return (yield Send(request, exchange.stream))
        except httpx2.ConnectError as error:
            error.add_note(f"Is a llama.cpp server running at {connection.base_url}?")
            raise
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
            if not (attempts_left and tracker.was_closed(error)):
                raise
    raise AssertionError("unreachable: the last attempt raises")


class _Pauses:
    """Growing pauses between attempts, until the time is over."""

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
    """Request `/health` until it reports ok."""
    pauses = _Pauses(timeout_s)
    last_error: Exception | None = None
    while True:
        request = connection.build(health(), timeout_s=max(pauses.left_s, _FIRST_PAUSE_S))
        try:
            response = yield Send(request, False)
        except connection.httpx2.TransportError as error:
            last_error = error
        else:
            if response.is_success:
                return
            last_error = parse_error_response(response.status_code, response.content)
            if not isinstance(last_error, ServerLoadingError):
                raise last_error
        pause_s = pauses.next()
        if pause_s is None:
            break
        yield Wait(pause_s)
    if isinstance(last_error, ServerLoadingError):
        raise last_error
    raise TimeoutError(
        f"no llama.cpp server answered at {connection.base_url} within {timeout_s:g} s: "
        f"{last_error or 'no response'}"
    ) from last_error
