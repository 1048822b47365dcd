"""The wrappers that `_patches` puts into the `openai` client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import Call, current_call, internal_errors, provider_from_models
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
from llamatelemetry_instrumentation_openai._routes import MODELS, ROUTES, find_fetch_route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_openai._patches import InstrumentorState
    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute

    _Keywords = Mapping[str, Any]


class Wrappers:
    """The wrappers of `request` and of the hooks that run inside it, as methods."""

    def __init__(self, state: InstrumentorState) -> None:
        self._state = state

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
        try:
            token = call.activate()
            result = wrapped(*args, **kwargs)
            call.deactivate(token)
            record_result(call, route, result, is_stream=is_stream, is_async=False)
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
        try:
            token = call.activate()
            result = await wrapped(*args, **kwargs)
            call.deactivate(token)
            record_result(call, route, result, is_stream=is_stream, is_async=True)
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
        if call is not None:
            call.start_attempt()
            try:
                # The client builds this request for one attempt, from a copy of the arguments.
                request = args[0] if args else kwargs["request"]
                call.instrumenter.propagation.inject(
                    request.headers, client._client, request.url, call.span.get_span_context()
                )
            except Exception as error:
                internal_errors.log_once("propagating the trace context", error)
        return wrapped(*args, **kwargs)

    def process_response(
        self, wrapped: Callable[..., Any], _client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap `_process_response`, which gets a successful response; of a stream, its headers."""
        call = current_call()
        if call is not None:
            call.mark_headers_received()
            try:
                call.http_response = kwargs["response"]
                record_headers(call, kwargs["response"])
            except Exception as error:
                internal_errors.log_once("reading response headers", error)
        return wrapped(*args, **kwargs)

    def _start(self, client: Any, route: OpenAIRoute, options: Any, is_stream: bool) -> Call | None:
        if route is MODELS:
            return None
        try:
            body = read_body(options)
            request = parse_request(client, route, body, is_stream=is_stream)
            call = self._state.instrumenter.start(request)
            if call is not None and call.recording:
                request.parameters = parse_parameters(route, options, body)
            return call
        except Exception as error:
            internal_errors.log_once("starting a call of the openai client", error)
            return None

    def _remember_provider(self, client: Any, models: Any) -> Any:
        """Detect the engine of the server that returned a list of models. Return that list."""
        try:
            provider = provider_from_models(models)
            server = None if provider is None else server_of_client(client)
            if provider is not None and server is not None:
                self._state.instrumenter.servers.remember(server, provider)
        except Exception as error:
            internal_errors.log_once("reading a list of models", error)
        return models


def _route(options: Any) -> OpenAIRoute | None:
    try:
        endpoint = options.method, options.url
        return ROUTES.get(endpoint) or find_fetch_route(*endpoint)
    except Exception as error:
        internal_errors.log_once("reading a request of the openai client", error)
        return None
