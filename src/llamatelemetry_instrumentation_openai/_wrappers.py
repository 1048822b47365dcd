"""What the wrappers do that `_patches` puts into the openai client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import Call, current_call, internal_errors, provider_from_models
from llamatelemetry_instrumentation_openai._replies import deliver, note_signature, read_failed
from llamatelemetry_instrumentation_openai._requests import (
    parse_parameters,
    read_body,
    read_request,
    server_of_client,
)
from llamatelemetry_instrumentation_openai._routes import MODELS, find_route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_openai._patches import Owner
    from llamatelemetry_instrumentation_openai._routes import Route

    _Keywords = Mapping[str, Any]


class Wrappers:
    """The wrappers, as methods: of ``request``, and of the hooks that run inside of it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def sync(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap ``OpenAI.request``."""
        options = args[1] if len(args) > 1 else kwargs.get("options")
        route = _route(options)
        call = None if route is None else self._begin(client, route, options, kwargs)
        if route is None or call is None:
            result = wrapped(*args, **kwargs)
            return self._learn(client, result) if route is MODELS else result
        token = call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.deactivate(token)
            call.fail(error, read_failed(call, route, error))
            raise
        call.deactivate(token)
        deliver(call, route, result, is_async=False)
        return result

    async def asynchronous(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """Wrap ``AsyncOpenAI.request``."""
        options = args[1] if len(args) > 1 else kwargs.get("options")
        route = _route(options)
        call = None if route is None else self._begin(client, route, options, kwargs)
        if route is None or call is None:
            result = await wrapped(*args, **kwargs)
            return self._learn(client, result) if route is MODELS else result
        token = call.activate()
        try:
            result = await wrapped(*args, **kwargs)
        except GeneratorExit:
            # The coroutine is being destroyed, in whatever context the collector runs in:
            # nothing may be recorded here, and the context is not this one's to restore.
            call.abandon()
            raise
        except BaseException as error:
            call.deactivate(token)
            call.fail(error, read_failed(call, route, error))
            raise
        call.deactivate(token)
        deliver(call, route, result, is_async=True)
        return result

    def attempt(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """The client is about to send a request: the first one of the call, or a retry."""
        call = current_call()
        if call is not None:
            call.start_attempt()
            try:
                # Built for this attempt from a copy of what the caller gave.
                request = args[0] if args else kwargs["request"]
                call.instrumenter.propagation.inject(
                    request.headers, client._client, request.url, call.span.get_span_context()
                )
            except Exception as error:
                internal_errors.log_once("passing the trace context on", error)
        return wrapped(*args, **kwargs)

    def response(
        self, wrapped: Callable[..., Any], _client: Any, args: tuple[Any, ...], kwargs: _Keywords
    ) -> Any:
        """A good response has come; of a stream, its headers."""
        call = current_call()
        if call is not None:
            call.mark_headers_received()
            try:
                call.http_response = kwargs["response"]
                note_signature(call, kwargs["response"])
            except Exception as error:
                internal_errors.log_once("reading response headers", error)
        return wrapped(*args, **kwargs)

    def _begin(self, client: Any, route: Route, options: Any, kwargs: _Keywords) -> Call | None:
        if route is MODELS:
            return None
        try:
            body = read_body(options)
            request = read_request(client, route, body, bool(kwargs.get("stream")))
            call = self._owner.instrumenter.start(request)
            if call is not None and call.recording:
                request.parameters = parse_parameters(route, options, body)
            return call
        except Exception as error:
            internal_errors.log_once("starting a call of the openai client", error)
            return None

    def _learn(self, client: Any, models: Any) -> Any:
        """Note whose server it is that has given a list of models, and pass the list on."""
        try:
            provider = provider_from_models(models)
            server = None if provider is None else server_of_client(client)
            if provider is not None and server is not None:
                self._owner.instrumenter.servers.remember(server, provider)
        except Exception as error:
            internal_errors.log_once("reading a list of models", error)
        return models


def _route(options: Any) -> Route | None:
    try:
        return find_route(options.method, options.url)
    except Exception as error:
        internal_errors.log_once("reading a request of the openai client", error)
        return None
