"""Realtime connections: one call for each response of the model.

A response starts when the application sends `response.create`, or when the server reports
`response.created`, if the server itself decided to respond to speech. In the second case the client
does not know how long the model took to begin, and the time to the first chunk is absent. A response
ends with `response.done`, which has its status and token counts. Messages are not recorded.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import (
    Request,
    Response,
    as_dict,
    as_str,
    describe_reported_error,
    get_field,
    internal_errors,
    model_name,
    parse_response,
)
from llamatelemetry.semconv.operations import PROVIDER_OPENAI
from llamatelemetry_instrumentation_openai._requests import server_of_client

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from llamatelemetry.genai import Call, Server
    from llamatelemetry_instrumentation_openai._patches import InstrumentorState

    _Keywords = Mapping[str, Any]

_TASK: Final = "realtime"
_OBSERVER: Final = "_llamatelemetry_observer"
_SERVER: Final = "_llamatelemetry_server"
_MOST_OPEN: Final = 64
_FINISH_REASON_BY_STATUS: Final = {"completed": "stop", "cancelled": "cancelled", "failed": "error"}
_FINISH_REASON_BY_CAUSE: Final = {"max_output_tokens": "length"}


@contextmanager
def _guard(where: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        internal_errors.log_once(where, error)


class RealtimeWrappers:
    """The wrappers of the connection and of its manager, as methods."""

    def __init__(self, state: InstrumentorState) -> None:
        self._state = state

    def connect(
        self, wrapped: Callable[..., Any], resource: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `Realtime.connect`, which knows the client and the model."""
        manager = wrapped(*args, **kwargs)
        with _guard("reading a realtime connection"):
            server = server_of_client(resource._client)
            manager.__dict__[_SERVER] = server, model_name(kwargs.get("model"))
        return manager

    def enter(
        self, wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `RealtimeConnectionManager.__enter__`."""
        connection = wrapped(*args, **kwargs)
        self._observe(manager, connection)
        return connection

    async def enter_async(
        self, wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `AsyncRealtimeConnectionManager.__aenter__`."""
        connection = await wrapped(*args, **kwargs)
        self._observe(manager, connection)
        return connection

    def exit(
        self, wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `__exit__` and `__aexit__` of the manager: responses that are still open end."""
        observer = manager.__dict__.get(_OBSERVER)
        if observer is not None:
            observer.on_close(args[1] if len(args) > 1 else None)
        return wrapped(*args, **kwargs)

    def send(
        self, wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `send` of the connection."""
        observer = connection.__dict__.get(_OBSERVER)
        if observer is not None:
            observer.on_send(args[0] if args else kwargs.get("event"))
        return wrapped(*args, **kwargs)

    def parse_event(
        self, wrapped: Callable[..., Any], connection: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `parse_event` of the connection, through which each received event passes."""
        event = wrapped(*args, **kwargs)
        observer = connection.__dict__.get(_OBSERVER)
        if observer is not None:
            observer.on_event(event)
        return event

    def _observe(self, manager: Any, connection: Any) -> None:
        with _guard("observing a realtime connection"):
            server, model = manager.__dict__.get(_SERVER, (None, None))
            observer = _ConnectionObserver(self._state, server, model)
            manager.__dict__[_OBSERVER] = connection.__dict__[_OBSERVER] = observer


class _ConnectionObserver:
    """Observer of one connection. Its responses may overlap."""

    def __init__(self, state: InstrumentorState, server: Server | None, model: str | None) -> None:
        self._state = state
        self._server = server
        self._model = model
        self._requested_ns: deque[int] = deque(maxlen=_MOST_OPEN)
        # Call by response id, and whether the application requested the response.
        self._open: dict[str, tuple[Call, bool]] = {}

    def on_send(self, event: Any) -> None:
        """Remember when the application requested a response."""
        with _guard("sending a realtime event"):
            if get_field(event, "type") == "response.create":
                self._requested_ns.append(perf_counter_ns())

    def on_event(self, event: Any) -> None:
        """Process an event of the server."""
        now_ns = perf_counter_ns()
        with _guard("reading a realtime event"):
            kind = as_str(get_field(event, "type")) or ""
            if kind.endswith(".delta"):
                self._on_delta(as_str(get_field(event, "response_id")), now_ns)
            elif kind in {"session.created", "session.updated"}:
                self._model = (
                    model_name(get_field(get_field(event, "session"), "model")) or self._model
                )
            elif kind == "response.created":
                self._on_created(get_field(event, "response"))
            elif kind == "response.done":
                self._on_done(get_field(event, "response"))
            elif kind == "error" and self._requested_ns and not self._open:
                self._requested_ns.popleft()  # The server refused the request.

    def on_close(self, error: BaseException | None) -> None:
        """End the open calls: the application closes the connection."""
        with _guard("closing a realtime connection"):
            while self._open:
                call, _ = self._open.popitem()[1]
                if error is None:
                    call.finish(Response())
                else:
                    call.fail(error, Response())

    def __del__(self) -> None:
        for call, _ in self.__dict__.get("_open", {}).values():
            call.abandon()

    def _on_created(self, response: Any) -> None:
        response_id = as_str(get_field(response, "id"))
        requested_ns = self._requested_ns.popleft() if self._requested_ns else None
        if response_id is None or len(self._open) >= _MOST_OPEN:
            return
        request = Request(
            operation=None,
            task=_TASK,
            provider=PROVIDER_OPENAI,
            model=self._model,
            server=self._server,
        )
        call = self._state.instrumenter.start(request, started_ns=requested_ns)
        if call is not None:
            self._open[response_id] = call, requested_ns is not None

    def _on_delta(self, response_id: str | None, now_ns: int) -> None:
        call, is_requested = self._open.get(response_id or "", (None, False))
        if call is not None and is_requested and call.first_chunk_ns is None:
            call.first_chunk_ns = call.first_token_ns = now_ns

    def _on_done(self, response: Any) -> None:
        call, _ = self._open.pop(as_str(get_field(response, "id")) or "", (None, False))
        if call is not None:
            call.finish(_parse(response))


def _parse(reply: Any) -> Response:
    response = parse_response(reply)
    status = as_str(get_field(reply, "status"))
    details = get_field(reply, "status_details")
    cause = as_str(get_field(details, "reason"))
    if status == "failed":
        response.error = describe_reported_error(get_field(details, "error") or as_dict(details))
    reason = _FINISH_REASON_BY_STATUS.get(status or "") or (
        None if cause is None else _FINISH_REASON_BY_CAUSE.get(cause, cause)
    )
    response.finish_reasons = () if reason is None else (reason,)
    return response
