"""What is wrapped in xllamacpp: llama.cpp's own server, called in this process instead of over HTTP.

Its ``Server`` is a class of an extension module, whose methods can be replaced all the same. A
request is a dict, or JSON as text or bytes; a reply comes as the result or through a callback,
as what the request was.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from llamatelemetry_instrumentation_llamacpp._routes import Route, match_path, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_llamacpp._owner import Owner

_MODULE = "xllamacpp.xllamacpp"
# The method, and the path at which the server over HTTP does the same.
_METHODS = (
    ("handle_completions", "/v1/completions"),
    ("handle_chat_completions", "/v1/chat/completions"),
    ("handle_embeddings", "/v1/embeddings"),
    ("handle_rerank", "/v1/rerank"),
)


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table. What ``owner`` holds is looked up per call: it changes with re-instrumenting."""
    points: list[PatchPoint] = []
    for method, path in _METHODS:
        match = match_path(path)
        if match is not None:
            wrapper = _Handler(owner, match.route)
            points.append(PatchPoint(_MODULE, f"Server.{method}", wrapper, optional=True))
    return tuple(points)


@dataclass(slots=True)
class _Running:
    """A call, and what it is made with in place of what the application gave."""

    call: Call
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    told: _Told | None


class _Handler:
    """The wrapper of one ``handle_*`` method."""

    def __init__(self, owner: Owner, route: Route) -> None:
        self._owner = owner
        self._route = route

    def __call__(
        self,
        wrapped: Callable[..., Any],
        _server: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        running = self._begin(args, kwargs)
        if running is None:
            return wrapped(*args, **kwargs)
        call = running.call
        token = call.activate()
        try:
            result = wrapped(*running.args, **running.kwargs)
        except BaseException as error:
            call.deactivate(token)
            self._failed(running, error)
            raise
        call.deactivate(token)
        self._answered(running, result)
        return result

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Running | None:
        try:
            prompt = args[0] if args else kwargs.get("prompt")
            request = read_request(self._route, _body(prompt), None)
            call = self._owner.instrumenter.start(request, SpanKind.INTERNAL)
            if call is None:
                return None
            call.start_attempt()
            callback = args[1] if len(args) > 1 else kwargs.get("callback")
            if callback is None:
                return _Running(call, args, kwargs, None)
            told = _Told(call, self._route, callback)
            if len(args) > 1:
                return _Running(call, (args[0], told.callback, *args[2:]), kwargs, told)
            return _Running(call, args, {**kwargs, "callback": told.callback}, told)
        except Exception as error:
            internal_errors.log_once("starting a call of xllamacpp", error)
            return None

    def _failed(self, running: _Running, error: BaseException) -> None:
        if running.told is None:
            running.call.fail(error)
        else:
            running.told.failed(error)

    def _answered(self, running: _Running, result: Any) -> None:
        if running.told is not None:
            running.told.finished()
            return
        try:
            response = _read_reply(self._route, result, running.call.request)
        except Exception as error:
            internal_errors.log_once("reading a reply of xllamacpp", error)
            response = Response()
        running.call.finish(response)


class _Told:
    """What a callback is told: the chunks of a stream, or one plain reply."""

    def __init__(self, call: Call, route: Route, callback: Callable[[Any], Any]) -> None:
        self._call = call
        self._route = route
        self._callback = callback
        self._watch = StreamObserver(call, route.fold(call.request, call.content_max_chars))
        self._reply: Any = None

    def callback(self, told: Any) -> Any:
        """Stand in for the application's callback, which stops the stream by what it returns."""
        try:
            reply = _parse(told)
            if not self._call.request.stream:
                self._reply = reply
            elif get_field(reply, "error") is not None:
                self._watch.on_reported_error(describe_reported_error(get_field(reply, "error")))
            else:
                self._watch.on_chunk(reply)
        except Exception as error:
            internal_errors.log_once("reading a chunk of xllamacpp", error)
        return self._callback(told)

    def finished(self) -> None:
        """The method has returned."""
        if self._call.request.stream:
            self._watch.on_end()
        else:
            self._call.finish(_read_reply(self._route, self._reply, self._call.request))

    def failed(self, error: BaseException) -> None:
        """The method has raised."""
        self._watch.on_error(error)


def _parse(value: Any) -> Any:
    if isinstance(value, str):
        return parse_body(value.encode("utf-8", "replace"), "")
    return parse_body(value, "") if isinstance(value, bytes) else value


def _body(prompt: Any) -> Mapping[str, Any]:
    return as_dict(_parse(prompt))


def _read_reply(route: Route, reply: Any, request: Request) -> Response:
    parsed = _parse(reply)
    if parsed is None:
        return Response()
    error = describe_reported_error(get_field(parsed, "error"))
    return route.read_reply(parsed, request) if error is None else Response(error=error)
