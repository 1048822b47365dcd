"""Patch points of xllamacpp: llama.cpp's own server, called inside this process.

`Server` is a class of an extension module, but its methods can be replaced. A request is a dict, or
JSON as text or bytes. The response has the same type; it is the result, or it is passed to a
callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import (
    Call,
    PatchPoint,
    Request,
    Response,
    StreamObserver,
    as_dict,
    describe_reported_error,
    get_field,
    internal_errors,
    parse_body,
)
from llamatelemetry_instrumentation_llamacpp._routes import (
    LlamaCppRoute,
    match_path,
    parse_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_llamacpp._origins import InstrumentorState

_MODULE = "xllamacpp.xllamacpp"
# Each method, and the path of the same endpoint over HTTP.
_METHODS = (
    ("handle_completions", "/v1/completions"),
    ("handle_chat_completions", "/v1/chat/completions"),
    ("handle_embeddings", "/v1/embeddings"),
    ("handle_rerank", "/v1/rerank"),
)


def patch_points(state: InstrumentorState) -> tuple[PatchPoint, ...]:
    """Return the patch table. Instrumenting again changes `state`, which is read at each call."""
    points: list[PatchPoint] = []
    for method, path in _METHODS:
        match = match_path(path)
        if match is not None:
            wrapper = _HandleWrapper(state, match.route)
            points.append(PatchPoint(_MODULE, f"Server.{method}", wrapper, optional=True))
    return tuple(points)


class _ServerCall(NamedTuple):
    """A call, and the arguments that replace those of the application."""

    call: Call
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    recorder: CallbackRecorder | None


class _HandleWrapper:
    """The wrapper of one `handle_*` method."""

    def __init__(self, state: InstrumentorState, route: LlamaCppRoute) -> None:
        self._state = state
        self._route = route

    def __call__(
        self,
        wrapped: Callable[..., Any],
        _server: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        started = self._start(args, kwargs)
        if started is None:
            return wrapped(*args, **kwargs)
        call, args, kwargs, recorder = started
        token = call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.deactivate(token)
            if recorder is None:
                call.fail(error)
            else:
                recorder.on_error(error)
            raise
        call.deactivate(token)
        if recorder is None:
            self._record(call, result)
        else:
            recorder.on_return()
        return result

    def _start(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _ServerCall | None:
        try:
            prompt = args[0] if args else kwargs.get("prompt")
            request = parse_request(self._route, as_dict(_parse(prompt)), None)
            call = self._state.instrumenter.start(request, SpanKind.INTERNAL)
            if call is None:
                return None
            call.start_attempt()
            callback = args[1] if len(args) > 1 else kwargs.get("callback")
            if callback is None:
                return _ServerCall(call, args, kwargs, None)
            recorder = CallbackRecorder(call, self._route, callback)
            if len(args) > 1:
                return _ServerCall(call, (args[0], recorder.callback, *args[2:]), kwargs, recorder)
            return _ServerCall(call, args, {**kwargs, "callback": recorder.callback}, recorder)
        except Exception as error:
            internal_errors.log_once("starting a call of xllamacpp", error)
            return None

    def _record(self, call: Call, result: Any) -> None:
        try:
            response = _parse_response(self._route, result, call.request)
        except Exception as error:
            internal_errors.log_once("reading a response of xllamacpp", error)
            response = Response()
        call.finish(response)


class CallbackRecorder:
    """Records the values that a callback receives: the chunks of a stream, or a plain response."""

    def __init__(self, call: Call, route: LlamaCppRoute, callback: Callable[[Any], Any]) -> None:
        self._call = call
        self._route = route
        self._callback = callback
        self._observer = StreamObserver(
            call, route.accumulator(call.request, call.content_max_chars)
        )
        self._body: Any = None

    def callback(self, value: Any) -> Any:
        """Record a value and call the application's callback, which can stop the stream."""
        try:
            body = _parse(value)
            if not self._call.request.stream:
                self._body = body
            elif get_field(body, "error") is not None:
                self._observer.on_reported_error(describe_reported_error(get_field(body, "error")))
            else:
                self._observer.on_chunk(body)
        except Exception as error:
            internal_errors.log_once("reading a chunk of xllamacpp", error)
        return self._callback(value)

    def on_return(self) -> None:
        """End the call after the method has returned."""
        if self._call.request.stream:
            self._observer.on_end()
        else:
            self._call.finish(_parse_response(self._route, self._body, self._call.request))

    def on_error(self, error: BaseException) -> None:
        """End the call after the method has raised."""
        self._observer.on_error(error)


def _parse(value: Any) -> Any:
    if isinstance(value, str):
        return parse_body(value.encode("utf-8", "replace"), "")
    return parse_body(value, "") if isinstance(value, bytes) else value


def _parse_response(route: LlamaCppRoute, value: Any, request: Request) -> Response:
    body = _parse(value)
    if body is None:
        return Response()
    error = describe_reported_error(get_field(body, "error"))
    return route.parse_response(body, request) if error is None else Response(error=error)
