"""The option `stream_usage`: request the token counts of streams, and hide the chunk that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import as_dict
from llamatelemetry_instrumentation_openai._routes import ROUTES

if TYPE_CHECKING:
    from llamatelemetry.genai import Call
    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute

_ROUTES: Final = (ROUTES["post", "/chat/completions"], ROUTES["post", "/completions"])
# The client marks requests whose response the application reads itself.
_RAW_RESPONSE: Final = "x-stainless-raw-response"


def request_usage(call: Call, route: OpenAIRoute, options: Any) -> bool:
    """Add `stream_options.include_usage` to the request of a stream. Return whether it was added.

    Nothing is added if the option is off, if the application has set it to true or false, or if it
    reads the raw response, where the additional chunk cannot be hidden.
    """
    if not call.instrumenter.config.stream_usage or route not in _ROUTES:
        return False
    if any(str(name).lower() == _RAW_RESPONSE for name in as_dict(options.headers)):
        return False
    # The client merges `extra_body` into the body.
    field = "extra_json" if "stream_options" in as_dict(options.extra_json) else "json_data"
    body = as_dict(getattr(options, field))
    present = as_dict(body.get("stream_options"))
    if "include_usage" in present:
        return False
    setattr(options, field, {**body, "stream_options": {**present, "include_usage": True}})
    return True


def hide_usage(stream: Any, *, is_async: bool) -> None:
    """Keep the additional chunk, which has no choices, from the application."""
    if hasattr(stream, "_iterator"):
        stream._iterator = (_AsyncFilter if is_async else _Filter)(stream._iterator)


def _is_additional(chunk: Any) -> bool:
    return getattr(chunk, "choices", None) == [] and getattr(chunk, "usage", None) is not None


class _Filter:
    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> _Filter:
        return self

    def __next__(self) -> Any:
        while True:
            chunk = next(self._source)
            if not _is_additional(chunk):
                return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class _AsyncFilter:
    def __init__(self, source: Any) -> None:
        self._source = source

    def __aiter__(self) -> _AsyncFilter:
        return self

    async def __anext__(self) -> Any:
        while True:
            chunk = await anext(self._source)
            if not _is_additional(chunk):
                return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
