"""What is wrapped in the openai client, and what the wrappers do.

``OpenAI.request`` and ``AsyncOpenAI.request`` are where every resource of every client meets:
chat, completions, embeddings, ``parse``, the stream helpers, raw responses, Azure. The two hooks
beside them run inside ``request``: once per attempt, and once with the response's headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import Call, Instrumenter, PatchPoint, current_call, guard
from llamatelemetry.genai.servers import provider_from_headers
from llamatelemetry_instrumentation_openai._replies import deliver
from llamatelemetry_instrumentation_openai._requests import read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _Owner(Protocol):
    instrumenter: Instrumenter


def patch_points(owner: _Owner) -> tuple[PatchPoint, ...]:
    """The patch table. ``owner.instrumenter`` is looked up per call: it changes with re-instrumenting."""

    def begin(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
        try:
            # request(cast_to, options, ...): by position or by name
            options = args[1] if len(args) > 1 else kwargs["options"]
            request = read_request(client, options, bool(kwargs.get("stream")))
            return None if request is None else owner.instrumenter.start(request)
        except Exception as error:
            guard.report("starting a call of the openai client", error)
            return None

    def request(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        call = begin(instance, args, kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        token = call.activate()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.deactivate(token)
            call.fail(error)
            raise
        call.deactivate(token)
        deliver(call, result)
        return result

    async def request_async(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        call = begin(instance, args, kwargs)
        if call is None:
            return await wrapped(*args, **kwargs)
        token = call.activate()
        try:
            result = await wrapped(*args, **kwargs)
        except GeneratorExit:
            # The coroutine is being destroyed, in whatever context the collector runs in:
            # nothing may be recorded here, and the context is not this one's to restore.
            call.abandon(call)
            raise
        except BaseException as error:
            call.deactivate(token)
            call.fail(error)
            raise
        call.deactivate(token)
        deliver(call, result)
        return result

    return (
        PatchPoint("openai._client", "OpenAI.request", request),
        PatchPoint("openai._client", "AsyncOpenAI.request", request_async),
        PatchPoint("openai._client", "OpenAI._prepare_request", _note_attempt, optional=True),
        PatchPoint("openai._client", "AsyncOpenAI._prepare_request", _note_attempt, optional=True),
        PatchPoint("openai._client", "OpenAI._process_response", _note_response, optional=True),
        PatchPoint(
            "openai._client", "AsyncOpenAI._process_response", _note_response, optional=True
        ),
    )


def _note_attempt(
    wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The client is about to send a request: the first one of the call, or a retry."""
    call = current_call()
    if call is not None:
        call.begin_attempt()
        try:
            # Built for this attempt from a copy of what the caller gave.
            request = args[0] if args else kwargs["request"]
            call.instrumenter.propagation.inject(request.headers, instance._client, request.url)
        except Exception as error:
            guard.report("passing the trace context on", error)
    return wrapped(*args, **kwargs)


def _note_response(
    wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """A good response has come; of a stream, its headers."""
    call = current_call()
    if call is not None:
        call.note_headers()
        try:
            provider = provider_from_headers(kwargs["response"].headers)
            if provider is not None:
                call.note_provider(provider)
        except Exception as error:
            guard.report("reading response headers", error)
    return wrapped(*args, **kwargs)
