"""Calls of the function of an HTTP library that sends a request, with their outcome recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_llamacpp._http_call import HttpCall

    Arguments = tuple[Any, ...]
    Keywords = Mapping[str, Any]


def observe_send(
    http_call: HttpCall, wrapped: Callable[..., Any], args: Arguments, kwargs: Keywords
) -> Any:
    """Call the library's function that sends the request, and record its response or exception."""
    try:
        response = wrapped(*args, **kwargs)
    except BaseException as error:
        http_call.on_error(error)
        raise
    http_call.on_response(response)
    return response


async def observe_send_async(
    http_call: HttpCall, wrapped: Callable[..., Any], args: Arguments, kwargs: Keywords
) -> Any:
    """Do the same as `observe_send` for a coroutine function."""
    try:
        response = await wrapped(*args, **kwargs)
    except GeneratorExit:
        http_call.on_destroyed()
        raise
    except BaseException as error:
        http_call.on_error(error)
        raise
    http_call.on_response(response)
    return response
