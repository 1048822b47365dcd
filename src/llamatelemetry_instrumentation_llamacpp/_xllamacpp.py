"""Patch points of xllamacpp: llama.cpp's own server, called inside this process.

`Server` is a class of an extension module, but its methods can be replaced. A request is a dict, or
JSON as text or bytes. The response has the same type; it is the result, or it is passed to a
callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    InferenceRoute,
    match_path,
    parse_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]

_MODULE = "xllamacpp.xllamacpp"
# Each method, and the path of the same endpoint over HTTP.
_METHODS = (
    ("handle_completions", "/v1/completions"),
    ("handle_chat_completions", "/v1/chat/completions"),
    ("handle_embeddings", "/v1/embeddings"),
    ("handle_rerank", "/v1/rerank"),
)


def patch_points(instrumentor: LlamaCppInstrumentor, _library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrappers read `instrumentor` at each call: it can change."""
    points: list[PatchPoint] = []
    for method, path in _METHODS:
        match = match_path(path)
        if match is not None:
            wrapper = _HandleWrapper(instrumentor, match.route)
            points.append(PatchPoint(_MODULE, f"Server.{method}", wrapper, optional=True))
    return tuple(points)


class _HandleWrapper:
    """The wrapper of one `handle_*` method."""

    def __init__(self, instrumentor: LlamaCppInstrumentor, route: InferenceRoute) -> None:
        self._instrumentor = instrumentor
        self._route = route

    def __call__(
        self, wrapped: Callable[..., Any], _server: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        recorder = self._start(args, kwargs)
        if recorder is None:
            return wrapped(*args, **kwargs)
        args, kwargs = recorder.replace_callback(args, kwargs)
        token = recorder.call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            recorder.call.deactivate(token)
            recorder.on_error(error)
            raise
        recorder.call.deactivate(token)
        recorder.on_return(result)
        return result

    def _start(self, args: _Arguments, kwargs: _Keywords) -> _Recorder | None:
        try:
            prompt = args[0] if args else kwargs.get("prompt")
            request = parse_request(self._route, as_dict(_parse(prompt)), None)
            call = self._instrumentor.instrumenter.start(request, SpanKind.INTERNAL)
            if call is None:
                return None
            call.start_attempt()
            callback = args[1] if len(args) > 1 else kwargs.get("callback")
            return _Recorder(call, self._route, callback)
        except Exception as error:
            internal_errors.log_once("starting a call of xllamacpp", error)
            return None


class _Recorder:
    """Records the response of one call: the result, or the values that the callback receives.

    The callback receives the chunks of a stream, or one plain response.
    """

    def __init__(
        self, call: Call, route: InferenceRoute, callback: Callable[[Any], Any] | None
    ) -> None:
        self.call = call
        self._route = route
        self._callback = callback
        self._observer = None
        if callback is not None:
            accumulator = route.make_accumulator(call.request, call.content_max_chars)
            self._observer = StreamObserver(call, accumulator)
        self._body: Any = None

    def replace_callback(self, args: _Arguments, kwargs: _Keywords) -> tuple[_Arguments, _Keywords]:
        """Return the arguments with `_call_back` in place of the application's callback."""
        if self._callback is None:
            return args, kwargs
        if len(args) > 1:
            return (args[0], self._call_back, *args[2:]), kwargs
        return args, {**kwargs, "callback": self._call_back}

    def _call_back(self, value: Any) -> Any:
        """Record a value and call the application's callback, whose result can stop the stream."""
        observer, callback = self._observer, self._callback
        if observer is None or callback is None:
            return None
        try:
            body = _parse(value)
            if not self.call.request.stream:
                self._body = body
            elif get_field(body, "error") is not None:
                observer.on_reported_error(describe_reported_error(get_field(body, "error")))
            else:
                observer.on_chunk(body)
        except Exception as error:
            internal_errors.log_once("reading a chunk of xllamacpp", error)
        return callback(value)

    def on_return(self, result: Any) -> None:
        """End the call after the method has returned."""
        if self._observer is not None and self.call.request.stream:
            self._observer.on_end()
            return
        try:
            body = self._body if self._observer is not None else _parse(result)
            response = _parse_response(self._route, body, self.call.request)
        except Exception as error:
            internal_errors.log_once("reading a response of xllamacpp", error)
            response = Response()
        self.call.finish(response)

    def on_error(self, error: BaseException) -> None:
        """End the call after the method has raised."""
        if self._observer is None:
            self.call.fail(error)
        else:
            self._observer.on_error(error)


def _parse(value: Any) -> Any:
    if isinstance(value, str):
        return parse_body(value.encode("utf-8", "replace"), "")
    return parse_body(value, "") if isinstance(value, bytes) else value


def _parse_response(route: InferenceRoute, body: Any, request: Request) -> Response:
    return Response() if body is None else route.parse_response(body, request)
