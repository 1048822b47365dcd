"""What a tool was given and what it gave back, where content is captured on spans."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.limits import compact_json, limit_parts
from llamatelemetry.genai.content.parts import plain_json
from llamatelemetry.pipeline._instruments import content_max_chars
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span


def record_arguments(
    span: Span, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Put the arguments on a tool's span, by the names of its parameters."""
    max_chars = content_max_chars()
    if max_chars is None or not span.is_recording():
        return
    try:
        try:
            given = inspect.signature(function).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):  # a builtin without a signature, or arguments it refuses
            given = {"args": list(args), **kwargs}
        span.set_attribute(names.GEN_AI_TOOL_CALL_ARGUMENTS, _json(given, max_chars))
    except Exception as error:
        internal_errors.log_once("recording the arguments of a tool", error)


def record_result(span: Span, result: Any) -> None:
    """Put what a tool gave back on its span."""
    max_chars = content_max_chars()
    if max_chars is None or not span.is_recording():
        return
    try:
        span.set_attribute(names.GEN_AI_TOOL_CALL_RESULT, _json(result, max_chars))
    except Exception as error:
        internal_errors.log_once("recording the result of a tool", error)


def _json(value: Any, max_chars: int) -> str:
    (part,) = limit_parts([{"value": plain_json(value)}], max_chars)
    return compact_json(part["value"])
