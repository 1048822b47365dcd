"""What comes out of ``OpenAI.request``: a model, a stream, or a raw response that holds either."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    Response,
    StreamObserver,
    StreamWrapper,
    internal_errors,
    model_name,
    provider_from_headers,
)
from llamatelemetry.semconv.operations import PROVIDER_AZURE_OPENAI
from llamatelemetry_instrumentation_openai._closing import CloseHook, end, is_running
from llamatelemetry_instrumentation_openai._raw import RawReply, read_content

if TYPE_CHECKING:
    from llamatelemetry.genai import Call
    from llamatelemetry_instrumentation_openai._routes import Route


def deliver(call: Call, route: Route, result: Any, *, is_async: bool) -> None:
    """End the call with its reply, or leave that to the reply's end. The result stays what it is."""
    try:
        # Not `type`: an instrumentation further in may have put a proxy around it.
        kind = _kind_of(cast("type[Any]", result.__class__))
        if kind is _Kind.STREAM:
            _watch_stream(call, route, result, is_async)
        elif kind is _Kind.REPLY:
            call.finish(route.read_reply(result))
        else:
            http = result.http_response if kind is _Kind.RAW else result
            if "_content" in http.__dict__ and not call.request.stream:
                call.finish(read_content(route, http.content))
            else:
                RawReply(call, route, result, http, is_async=is_async)
    except Exception as error:
        internal_errors.log_once("reading an openai reply", error)
        call.finish(Response())


def read_failed(call: Call, route: Route, error: BaseException) -> Response:
    """Give what is known of a call that has raised.

    ``parse`` raises when the answer was cut off by a limit or does not fit the schema: it has
    been paid for. And a server that answers with an error signs it like any other reply.
    """
    try:
        refused = error.__dict__.get("response")
        if refused is not None:
            note_signature(call, refused)
        http = call.http_response
        if http is None or call.request.stream or "_content" not in http.__dict__:
            return Response()
        return read_content(route, http.content)
    except Exception as failure:
        internal_errors.log_once("reading an openai reply", failure)
        return Response()


def note_signature(call: Call, http: Any) -> None:
    """Note what the headers of an HTTP response tell about its server."""
    provider = provider_from_headers(http.headers)
    if provider is not None:
        call.set_provider(provider)
    elif call.request.provider == PROVIDER_AZURE_OPENAI:
        # The body has the deployment's name, this the model that is behind it.
        call.served_model = model_name(http.headers.get("x-ms-served-model"))


class _Kind(Enum):
    REPLY = "a model, text, or binary content"
    STREAM = "Stream or AsyncStream"
    RAW = "LegacyAPIResponse, APIResponse, or their like"
    HTTP = "the HTTP response itself"


@lru_cache(maxsize=256)
def _kind_of(kind: type[Any]) -> _Kind:
    # By what a class has: looking up what an instance of a model does not have is slow.
    if hasattr(kind, "__stream__"):
        return _Kind.STREAM
    if hasattr(kind, "http_request") and hasattr(kind, "parse"):
        return _Kind.RAW
    return _Kind.HTTP if hasattr(kind, "raise_for_status") else _Kind.REPLY


def _watch_stream(call: Call, route: Route, stream: Any, is_async: bool) -> None:
    """Tap a ``Stream`` or ``AsyncStream`` in place: its type and its methods stay its own."""
    source: Any = stream._iterator

    def closing(error: BaseException | None) -> None:
        if not is_running(source):
            end(watch, error)

    hook = CloseHook(stream.response, is_async, closing)
    watch = StreamObserver(call, route.fold(call.content_max_chars), on_end=hook.remove)
    stream._iterator = (AsyncStreamWrapper if is_async else StreamWrapper)(source, watch)
