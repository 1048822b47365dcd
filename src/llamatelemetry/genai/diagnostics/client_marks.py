"""Times of one call at the client: connected, sent, headers, last data, attempts and gaps.

httpx and httpx2 report their progress through the `trace` request extension. A `trace` function of
the application stays in place and is called as before. All times are readings of
`perf_counter_ns`.
"""

from __future__ import annotations

import heapq
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.diagnostics.socket_age import RESOLUTION_S, socket_age_s, socket_of
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.util.types import AttributeValue

_MOST_GAPS: Final = 16
_SOURCES: Final = ("connection", "proxy", "socks", "http11", "http2")


class ClientMarks:
    """The marks of one call. Attributes that end in `_ns` are `None` until the event has happened.

    Args:
        started_ns: Start of the call.
    """

    __slots__ = (
        *("_attempts", "_attempt_ns", "_connect_ns", "_connected_ns", "_sent_ns", "_headers_ns"),
        *("_last_ns", "_first_delay_s", "_last_delay_s", "_status", "_status_ns", "_gaps"),
        *("_is_shared", "_new_socket", "_socket", "_started_ns"),
    )

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._attempts: list[str] = []
        self._attempt_ns: int | None = None
        self._gaps: list[tuple[int, int, float | None]] = []  # length, end, socket age
        self._new_socket: Any = None  # of a new connection, until a request is sent over it
        self._reset()

    def _reset(self) -> None:
        self._connect_ns: int | None = None
        self._connected_ns: int | None = None
        self._status = ""
        self._status_ns: int | None = None
        self._reset_exchange()

    def _reset_exchange(self) -> None:
        self._socket: Any = None
        self._is_shared = False
        self._sent_ns: int | None = None
        self._headers_ns: int | None = None
        self._last_ns: int | None = None
        self._first_delay_s: float | None = None
        self._last_delay_s: float | None = None

    @property
    def has_response(self) -> bool:
        """Whether the headers of a response have arrived in the last attempt."""
        return self._headers_ns is not None

    def start_attempt(self, at_ns: int) -> None:
        """Mark the start of an attempt. The one before it, if any, has failed."""
        if self._attempt_ns is not None:
            ended_ns = self._status_ns
            lasted = "" if ended_ns is None else _ms(ended_ns - self._attempt_ns)
            at = _ms(self._attempt_ns - self._started_ns)
            self._attempts.append(f"{at}:{lasted}:{self._status}")
            self._reset()
        self._attempt_ns = at_ns

    def attach(self, request: Any, *, is_async: bool) -> None:
        """Receive the events of a request of httpx or httpx2, besides its own `trace` function."""
        extensions: dict[str, Any] = request.extensions
        application = extensions.get("trace")
        if is_async:
            trace: Any = partial(_trace_async, self, application)
        else:
            trace = self.on_event if application is None else partial(_trace, self, application)
        # Requests may share a dict, and the application may use it again.
        request.extensions = {**extensions, "trace": trace}

    def on_event(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle an event of httpcore, such as `http11.send_request_body.complete`."""
        try:
            handle = self._HANDLERS.get(event)
            if handle is not None:
                handle(self, perf_counter_ns(), info)
        except Exception as error:
            internal_errors.log_once("timing a request", error)

    def _set_status(self, status: str, at_ns: int) -> None:
        self._status, self._status_ns = status, at_ns

    def _on_connecting(self, at_ns: int, _info: Mapping[str, Any]) -> None:
        self._connect_ns = at_ns

    def _on_connected(self, at_ns: int, info: Mapping[str, Any]) -> None:
        self._connected_ns = at_ns
        self._new_socket = socket_of(info["return_value"])

    def _on_sending(self, _at_ns: int, _info: Mapping[str, Any]) -> None:
        self._reset_exchange()  # A redirect sends another request within the same attempt.
        self._socket, self._new_socket = self._new_socket, None

    def _on_sending_shared(self, at_ns: int, info: Mapping[str, Any]) -> None:
        self._on_sending(at_ns, info)
        # The newest data of the connection may be that of another call.
        self._socket, self._is_shared = None, True

    def _on_sent(self, at_ns: int, _info: Mapping[str, Any]) -> None:
        self._sent_ns = at_ns

    def _on_headers(self, at_ns: int, info: Mapping[str, Any]) -> None:
        self._headers_ns = at_ns
        if self._socket is not None:
            self._first_delay_s = socket_age_s(self._socket)
        # HTTP/1.1: version, status, reason, headers. HTTP/2: status, headers.
        first, second, *_ = info["return_value"]
        self._set_status(str(first if isinstance(first, int) else second), at_ns)

    def _on_body_end(self, at_ns: int, _info: Mapping[str, Any]) -> None:
        if self._last_ns is None and self._headers_ns is not None:
            self._last_ns = at_ns
            if self._socket is not None:
                self._last_delay_s = socket_age_s(self._socket)

    def _on_failure(self, at_ns: int, info: Mapping[str, Any]) -> None:
        self._set_status(type(info["exception"]).__name__, at_ns)

    def _on_body_failure(self, at_ns: int, info: Mapping[str, Any]) -> None:
        self._on_body_end(at_ns, info)
        if isinstance(info["exception"], Exception):  # Not a generator that is closed.
            self._on_failure(at_ns, info)

    def on_response(self, network_stream: Any) -> None:
        """Take the socket of a response, if the connection is not a new one.

        Args:
            network_stream: `extensions["network_stream"]` of a response; `None` if it has none.
        """
        if self._socket is not None or self._headers_ns is None or self._is_shared:
            return
        self._socket = socket_of(network_stream)
        if self._socket is None:
            return
        if self._last_ns is None:
            self._first_delay_s = self._delay_s(self._headers_ns)
        else:
            self._last_delay_s = self._delay_s(self._last_ns)

    def on_headers(self, at_ns: int, sock: Any) -> None:
        """Mark the headers of a response, for an HTTP library that does not report its progress."""
        self._headers_ns = at_ns
        if sock is not None:
            self._socket = sock
            self._first_delay_s = self._delay_s(at_ns)

    def _delay_s(self, read_ns: int) -> float | None:
        """Return how long the data that was read at `read_ns` had been in the kernel.

        It is unknown if newer data has arrived since.
        """
        age_s = socket_age_s(self._socket)
        if age_s is None:
            return None
        delay_s = age_s - (perf_counter_ns() - read_ns) / 1e9
        return max(0.0, delay_s) if delay_s >= -RESOLUTION_S else None

    def on_gap(self, last_ns: int, now_ns: int) -> None:
        """Record a long gap between two chunks of a stream."""
        age_s = None if self._socket is None else socket_age_s(self._socket)
        gap = (now_ns - last_ns, now_ns, age_s)
        if len(self._gaps) < _MOST_GAPS:
            heapq.heappush(self._gaps, gap)
        elif gap > self._gaps[0]:
            heapq.heapreplace(self._gaps, gap)

    def finish(self, ended_ns: int) -> Iterator[tuple[str, AttributeValue]]:
        """Yield the span attributes, once, at the end of the call."""
        if self._last_ns is None and self._headers_ns is not None:
            # The application closes the response only after its stream has ended the call.
            self._last_ns = ended_ns
            if self._socket is not None:
                self._last_delay_s = self._delay_s(ended_ns)
        self._socket = self._new_socket = None  # They would keep the connection open.
        yield from self._times()
        if self._connect_ns is not None and self._connected_ns is not None:
            yield names.CLIENT_CONNECT, (self._s(self._connect_ns), self._s(self._connected_ns))
        if self._last_delay_s is not None:
            delays = (self._first_delay_s, self._last_delay_s)
            yield names.CLIENT_READ_DELAY, tuple(round(s, 6) for s in delays if s is not None)
        if self._gaps:
            gaps = sorted(self._gaps, key=lambda gap: gap[1])
            yield names.CLIENT_GAPS, tuple(self._described(*gap) for gap in gaps)

    def _times(self) -> Iterator[tuple[str, AttributeValue]]:
        for name, at_ns in (
            (names.CLIENT_SENT, self._sent_ns),
            (names.CLIENT_HEADERS, self._headers_ns),
            (names.CLIENT_LAST_DATA, self._last_ns),
        ):
            if at_ns is not None:
                yield name, self._s(at_ns)
        if self._attempts and self._attempt_ns is not None:
            yield names.CLIENT_ATTEMPTS, tuple(self._attempts)
            yield names.CLIENT_LAST_ATTEMPT, self._s(self._attempt_ns)

    def _described(self, length_ns: int, end_ns: int, age_s: float | None) -> str:
        age = "" if age_s is None else round(age_s * 1000)
        return f"{_ms(end_ns - self._started_ns)}:{_ms(length_ns)}:{age}"

    def _s(self, at_ns: int) -> float:
        return round((at_ns - self._started_ns) / 1e9, 6)

    _STEPS: ClassVar[dict[str, Callable[[Any, int, Mapping[str, Any]], None]]] = {
        "connect_tcp.started": _on_connecting,
        "connect_unix_socket.started": _on_connecting,
        "connect_tcp.complete": _on_connected,
        "connect_unix_socket.complete": _on_connected,
        "start_tls.complete": _on_connected,
        "send_request_headers.started": _on_sending,
        # The end: before it, an asynchronous client lets other tasks run.
        "send_request_body.complete": _on_sent,
        "receive_response_headers.complete": _on_headers,
        # The first of these. A client that has found the end of a stream leaves the rest unread.
        "receive_response_body.complete": _on_body_end,
        "receive_response_body.failed": _on_body_failure,
        "response_closed.started": _on_body_end,
        **dict.fromkeys(
            (
                *("connect_tcp.failed", "connect_unix_socket.failed", "start_tls.failed"),
                *("send_request_headers.failed", "send_request_body.failed"),
                "receive_response_headers.failed",
            ),
            _on_failure,
        ),
    }
    _HANDLERS: ClassVar[dict[str, Callable[[Any, int, Mapping[str, Any]], None]]] = {
        **{f"{source}.{step}": handle for step, handle in _STEPS.items() for source in _SOURCES},
        "http2.send_request_headers.started": _on_sending_shared,
    }


def _ms(nanoseconds: int) -> int:
    return round(nanoseconds / 1e6)


def _trace(
    marks: ClientMarks, application: Callable[..., Any], event: str, info: Mapping[str, Any]
) -> Any:
    marks.on_event(event, info)
    return application(event, info)


async def _trace_async(
    marks: ClientMarks,
    application: Callable[..., Any] | None,
    event: str,
    info: Mapping[str, Any],
) -> None:
    marks.on_event(event, info)
    if application is not None:
        await application(event, info)
