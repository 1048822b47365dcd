"""Results of `OpenAI.request`: a model, a stream, or a raw response that holds either of them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    Limit,
    Response,
    internal_errors,
    model_name,
    parse_body,
    provider_from_headers,
    read_engine_headers,
)
from llamatelemetry.semconv.operations import PROVIDER_AZURE_OPENAI
from llamatelemetry_instrumentation_openai._streams import RawResponseObserver, observe_stream

if TYPE_CHECKING:
    from llamatelemetry.genai import Call
    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute


def record_result(
    call: Call, route: OpenAIRoute, result: Any, *, is_stream: bool, is_async: bool
) -> None:
    """End the call with its response, or arrange that the end of the response ends the call.

    The application gets `result` as without instrumentation. `is_stream` is what it requested.
    """
    try:
        # Not `type(result)`: another instrumentation may have put a proxy around the result.
        kind = _kind_of(result.__class__)
        if kind is _Kind.STREAM:
            observe_stream(call, route, result, is_async=is_async)
        elif kind is _Kind.PARSED:
            call.finish(route.parse_response(result))
        else:
            http = result.http_response if kind is _Kind.RAW else result
            if "_content" in http.__dict__ and not is_stream:
                call.finish(_parse_content(route, http.content))
            else:
                RawResponseObserver(
                    call, route, result, http, is_stream=is_stream, is_async=is_async
                )
    except Exception as error:
        call.finish(Response())
        internal_errors.log_once("reading a response of the openai client", error)


def parse_failed_call(
    call: Call, route: OpenAIRoute, error: BaseException, *, is_stream: bool
) -> Response:
    """Return the known part of the response to a call that has raised.

    `parse` raises if the output was cut off by a limit or does not fit the schema, although the
    server has counted its tokens. An error response has the same headers as any other response.
    """
    try:
        failed_response = error.__dict__.get("response")
        if failed_response is not None:
            record_headers(call, failed_response)
        http = call.http_response
        if http is None or is_stream or "_content" not in http.__dict__:
            return Response()
        return _parse_content(route, http.content)
    except Exception as failure:
        internal_errors.log_once("reading a response of the openai client", failure)
        return Response()


def record_headers(call: Call, http: Any) -> None:
    """Record the provider, the served model and requested headers of an HTTP response."""
    headers = http.headers
    if call.instrumenter.config.response_headers:
        call.record_response_headers(headers)
    provider = provider_from_headers(headers)
    if provider is not None:
        call.set_provider(provider)
        call.header_timings = read_engine_headers(headers, provider)
    elif call.request.provider == PROVIDER_AZURE_OPENAI:
        # The body has the name of the deployment, this header the model behind it.
        call.served_model = model_name(headers.get("x-ms-served-model"))


class _Kind(Enum):
    PARSED = "a model, text, or binary content"
    STREAM = "Stream or AsyncStream"
    RAW = "LegacyAPIResponse, APIResponse, or a subclass"
    HTTP = "the HTTP response itself"


@Limit("openai_classes", 256, "Classes of responses of openai").cached
def _kind_of(kind: type[Any]) -> _Kind:
    # Checks the class, because looking up a missing attribute of a pydantic instance is slow.
    if hasattr(kind, "__stream__"):
        return _Kind.STREAM
    if hasattr(kind, "http_request") and hasattr(kind, "parse"):
        return _Kind.RAW
    return _Kind.HTTP if hasattr(kind, "raise_for_status") else _Kind.PARSED


def _parse_content(route: OpenAIRoute, content: bytes) -> Response:
    """Parse a complete body. Return an empty response if it is not JSON."""
    if not route.is_json:
        return Response()
    body = parse_body(content, route.bulk, is_bulk_wanted=route.is_bulk_wanted)
    return Response() if body is None else route.parse_response(body)
