"""The wrappers that `_patches` puts into the `openai` client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import Call, current_call, internal_errors, provider_from_models
from llamatelemetry_instrumentation_openai._patches import CLIENT_KEY
from llamatelemetry_instrumentation_openai._requests import (
    parse_parameters,
    parse_request,
    read_body,
    server_of_client,
)
from llamatelemetry_instrumentation_openai._responses import (
    parse_failed_call,
    record_headers,
    record_result,
)
from llamatelemetry_instrumentation_openai._routes import MODELS, ROUTES, find_other_route
from llamatelemetry_instrumentation_openai._stream_usage import hide_usage, request_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Instrumenter
    from llamatelemetry_instrumentation_openai._patches import ClientPatches
    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute

    _Keywords = Mapping[str, Any]


class Wrappers:
    """The wrappers of `request`, of the hooks that run inside it, and of `copy`, as methods."""

    def __init__(self, patches: ClientPatches) -> None:
        self._patches = patches

    def _instrumenter(self, client: Any) -> Instrumenter | None:
        """Return the instrumenter of a client; `None` if its calls are not recorded."""
        mark = client.__dict__.get(CLIENT_KEY)
        # Read at each call, because instrumenting again replaces it.
        return mark.instrumenter if mark else self._patches.instrumenter

    def request(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `OpenAI.request`."""
        options = args[1] if len(args) > 1 else kwargs.get("options")
        route = _route(options)
        is_stream = bool(kwargs.get("stream"))
        call = None if route is None else self._start(client, route, options, is_stream)
        if route is None or call is None:
            result = wrapped(*args, **kwargs)
            return self._remember_provider(client, result) if route is MODELS else result
        is_usage_added = is_stream and self._request_usage(call, route, options)
        try:
            token = call.activate()
            result = wrapped(*args, **kwargs)
            call.deactivate(token)
            record_result(call, route, result, is_stream=is_stream, is_async=False)
            if is_usage_added:
                hide_usage(result, is_async=False)
        except BaseException as error:
            # A signal handler can raise anywhere above, also before `token` is assigned.
            call.restore_context()
            call.fail(error, parse_failed_call(call, route, error, is_stream=is_stream))
            raise
        return result

    async def request_async(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `AsyncOpenAI.request`."""
        options = args[1] if len(args) > 1 else kwargs.get("options")
        route = _route(options)
        is_stream = bool(kwargs.get("stream"))
        call = None if route is None else self._start(client, route, options, is_stream)
        if route is None or call is None:
            result = await wrapped(*args, **kwargs)
            return self._remember_provider(client, result) if route is MODELS else result
        is_usage_added = is_stream and self._request_usage(call, route, options)
        try:
            token = call.activate()
            result = await wrapped(*args, **kwargs)
            call.deactivate(token)
            record_result(call, route, result, is_stream=is_stream, is_async=True)
            if is_usage_added:
                hide_usage(result, is_async=True)
        except GeneratorExit:
            # The coroutine is being destroyed, perhaps by the garbage collector in a foreign
            # context. Nothing may be recorded here, and that context must not be changed.
            call.abandon()
            raise
        except BaseException as error:
            call.restore_context()
            call.fail(error, parse_failed_call(call, route, error, is_stream=is_stream))
            raise
        return result

    def prepare_attempt(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `_prepare_request`, which runs before the first attempt and before each retry."""
        call = current_call()
        if call is not None and self._instrumenter(client) is not None:
            call.start_attempt()
            try:
                # The client builds this request for one attempt, from a copy of the arguments.
                request = args[0] if args else kwargs["request"]
                call.instrumenter.propagation.inject(
                    request.headers, client._client, request.url, call.span.get_span_context()
                )
                if call.diagnostics is not None:
                    is_async = hasattr(client._client, "aclose")
                    call.diagnostics.attach(request, is_async=is_async)
            except Exception as error:
                internal_errors.log_once("preparing a request", error)
        return wrapped(*args, **kwargs)

    def process_response(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `_process_response`, which gets a successful response; of a stream, its headers."""
        call = current_call()
        if call is not None and self._instrumenter(client) is not None:
            call.mark_headers_received()
            try:
                call.http_response = kwargs["response"]
                if call.diagnostics is not None:
                    call.diagnostics.on_response(kwargs["response"])
                record_headers(call, kwargs["response"])
            except Exception as error:
                internal_errors.log_once("reading response headers", error)
        return wrapped(*args, **kwargs)

    def copy(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `copy`. A copy of a marked client is marked too."""
        copied = wrapped(*args, **kwargs)
        try:
            mark = client.__dict__.get(CLIENT_KEY)
            if mark:
                copied.__dict__.setdefault(CLIENT_KEY, mark)
        except Exception as error:
            internal_errors.log_once("instrumenting a copy of an openai client", error)
        return copied

    def _start(self, client: Any, route: OpenAIRoute, options: Any, is_stream: bool) -> Call | None:
        if route is MODELS:
            return None
        try:
            instrumenter = self._instrumenter(client)
            if instrumenter is None:
                return None
            body = read_body(options)
            request = parse_request(client, route, options.url, body, is_stream=is_stream)
            call = instrumenter.start(request)
            if call is not None and call.recording:
                request.parameters = parse_parameters(route, options, body)
            return call
        except Exception as error:
            internal_errors.log_once("starting a call of the openai client", error)
            return None

    def _request_usage(self, call: Call, route: OpenAIRoute, options: Any) -> bool:
        try:
            return request_usage(call, route, options)
        except Exception as error:
            internal_errors.log_once("requesting the usage of a stream", error)
            return False

    def _remember_provider(self, client: Any, models: Any) -> Any:
        """Detect the engine of the server that returned a list of models. Return that list."""
        try:
            provider = provider_from_models(models)
            server = None if provider is None else server_of_client(client)
            instrumenter = self._instrumenter(client)
            if provider is not None and server is not None and instrumenter is not None:
                instrumenter.servers.remember(server, provider)
        except Exception as error:
            internal_errors.log_once("reading a list of models", error)
        return models


def _route(options: Any) -> OpenAIRoute | None:
    try:
        endpoint = options.method, options.url
        return ROUTES.get(endpoint) or find_other_route(*endpoint)
    except Exception as error:
        internal_errors.log_once("reading a request of the openai client", error)
        return None
