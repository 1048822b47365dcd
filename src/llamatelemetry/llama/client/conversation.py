"""The protocol of one exchange for both clients: send, retry, wait for loading, parse, record.

It is written once, as coroutines. With a synchronous client they never suspend, because `Connection`
then blocks where it otherwise awaits, and `run_blocking` returns their result.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llamatelemetry.config import mask_url
from llamatelemetry.genai import Response, StreamObserver, internal_errors, parse_body
from llamatelemetry.llama.client.connection import Connection, ConnectionReuseTracker
from llamatelemetry.llama.client.endpoints import Exchange, health
from llamatelemetry.llama.client.errors import (
    LlamaServerError,
    ServerLoadingError,
    error_attributes,
    find_error,
    parse_error_response,
)
from llamatelemetry.llama.client.responses import parse_json

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from llamatelemetry.genai import Call
    from llamatelemetry.llama.client.endpoints import Inference

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_CONNECTION_ATTEMPTS: Final = 4
# The statuses of a proxy if the server behind it does not run yet.
_NO_SERVER_BEHIND_PROXY: Final = frozenset({502, 503, 504})


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a synchronous client, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("unreachable: a synchronous client suspended")


async def converse(connection: Connection, exchange: Exchange[Any]) -> Any:
    """Perform an exchange. Return the parsed response.

    For a stream, return the HTTP response once its headers have arrived, and the observer of the
    stream, which is `None` if the call is not recorded.
    """
    inference = connection.set_default_model(exchange).inference
    call = None if inference is None else connection.start(exchange, inference)
    response = await _send_recorded(connection, exchange, call)
    if exchange.stream:
        await _raise_for_plain_body(connection, response, call)
        if call is None or inference is None:
            return response, None
        return response, StreamObserver(call, inference.accumulator(call.content_max_chars))
    try:
        body = response.text if exchange.is_text else _parse_body(response)
        if not exchange.is_text:
            _raise_for_error(body)
    except BaseException as error:
        if call is not None:
            call.fail(error)
        raise
    if inference is not None:
        connection.cache_model(body)
        if call is not None:
            call.finish(_parse_inference(inference, body))
    return exchange.parse(body)


def _raise_for_error(body: Any) -> None:
    """Raise the error that a proxy or a server has sent with a 2xx status."""
    error = find_error(body)
    if error is not None:
        raise error


async def _raise_for_plain_body(connection: Connection, response: Any, call: Call | None) -> None:
    """Raise the error that a server has sent as a plain body instead of a stream."""
    if not response.headers.get("content-type", "").startswith("application/json"):
        return
    try:
        await response.aread() if connection.is_async else response.read()
        _raise_for_error(parse_body(response.content, ""))
    except BaseException as error:
        if call is not None:
            call.fail(error)
        raise


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
            f"the response from {mask_url(str(response.request.url))} is not JSON: is that a "
            "llama.cpp server?",
        ) from error


async def _send_recorded(connection: Connection, exchange: Exchange[Any], call: Call | None) -> Any:
    """Send a request inside the span of its call; return the successful HTTP response.

    An error ends the span.
    """
    if call is None:
        return await _send_until_loaded(connection, exchange, None)
    token = call.activate()
    try:
        response = await _send_until_loaded(connection, exchange, call)
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


async def _send_until_loaded(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Any:
    """Send a request, and again while the server loads its model, up to `load_wait_s`."""
    pauses = _pauses(perf_counter() + (connection.load_wait_s if exchange.waits else 0.0))
    while True:
        response = await _send_until_answered(connection, exchange, call)
        if call is not None:
            call.mark_headers_received()
            if call.diagnostics is not None:
                call.diagnostics.on_response(response)
            call.record_response_headers(response.headers)
        if response.is_success:
            return response
        error = parse_error_response(response.status_code, response.content)
        pause_s = next(pauses, None) if isinstance(error, ServerLoadingError) else None
        if pause_s is None:
            raise error
        await connection.sleep(pause_s)


async def _send_until_answered(
    connection: Connection, exchange: Exchange[Any], call: Call | None
) -> Any:
    """Send a request, and again if a reused connection was just closed; return any response."""
    httpx2 = connection.httpx2
    for attempts_left in reversed(range(_CONNECTION_ATTEMPTS)):
        request = connection.build(exchange)
        tracker = ConnectionReuseTracker()
        tracker.attach(request, is_async=connection.is_async)
        if call is not None:
            connection.start_attempt(call, request)
        try:
            return await connection.send(request, stream=exchange.stream)
        except httpx2.ConnectError as error:
            error.add_note(f"Is a llama.cpp server running at {connection.shown_url}?")
            raise
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
            if not (attempts_left and tracker.was_closed(error)):
                raise
    raise AssertionError("unreachable: the last attempt raises")


def _pauses(until_s: float) -> Iterator[float]:
    """Yield growing pauses between attempts, until a reading of the clock."""
    pause_s = _FIRST_PAUSE_S
    while (left_s := until_s - perf_counter()) > 0:
        yield min(pause_s, left_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


async def wait_until_ready(connection: Connection, timeout_s: float) -> None:
    """Request `/health` until it reports ok."""
    until_s = perf_counter() + timeout_s
    pauses = _pauses(until_s)
    last_error: Exception | None = None
    while True:
        request = connection.build(health(), timeout=max(until_s - perf_counter(), _FIRST_PAUSE_S))
        try:
            response = await connection.send(request)
        except connection.httpx2.TransportError as error:
            last_error = error
        else:
            if response.is_success:
                return
            last_error = parse_error_response(response.status_code, response.content)
            is_loading = isinstance(last_error, ServerLoadingError)
            if not (is_loading or response.status_code in _NO_SERVER_BEHIND_PROXY):
                raise last_error
        pause_s = next(pauses, None)
        if pause_s is None:
            break
        await connection.sleep(pause_s)
    if isinstance(last_error, ServerLoadingError):
        raise last_error
    raise TimeoutError(
        f"no llama.cpp server answered at {connection.shown_url} within {timeout_s:g} s: "
        f"{last_error or 'no response'}"
    ) from last_error
