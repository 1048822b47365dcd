"""Parser of Anthropic's Messages format, which llama.cpp serves at `POST /v1/messages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai.errors import describe_reported_error, find_reported_error
from llamatelemetry.genai.json_access import as_str, get_field, model_name
from llamatelemetry.genai.model import Response, Usage
from llamatelemetry.genai.wire.openai_chat import parse_usage

if TYPE_CHECKING:
    from llamatelemetry.genai.errors import ErrorInfo


def parse_messages_response(reply: Any) -> Response:
    """Parse a response of `POST /v1/messages`."""
    reason = as_str(get_field(reply, "stop_reason"))
    return Response(
        id=as_str(get_field(reply, "id")),
        model=model_name(get_field(reply, "model")),
        finish_reasons=() if reason is None else (reason,),
        usage=_messages_usage(get_field(reply, "usage")),
        error=find_reported_error(reply),
    )


def _messages_usage(usage: Any) -> Usage:
    """Return the usage. Anthropic's input tokens exclude cached and cache-writing tokens."""
    read = parse_usage(usage)
    if read.input_tokens is not None:
        read.input_tokens += (read.cache_read_tokens or 0) + (read.cache_write_tokens or 0)
    return read


class AnthropicAccumulator:
    """Accumulator for the events of a stream of `POST /v1/messages`."""

    __slots__ = ("_error", "_message", "_stop_reason", "_usage")

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._stop_reason: Any = None
        self._error: ErrorInfo | None = None

    def add(self, event: Any) -> bool:
        """Add one event. Return whether it carries a token: text, thinking or a tool's input."""
        kind = get_field(event, "type")
        if kind == "content_block_delta":
            delta = get_field(event, "delta")
            return any(get_field(delta, name) for name in ("text", "thinking", "partial_json"))
        if kind == "message_start":
            message = get_field(event, "message")
            self._message = {name: get_field(message, name) for name in ("id", "model")}
            self._add_usage(get_field(message, "usage"))
        elif kind == "message_delta":
            self._stop_reason = get_field(get_field(event, "delta"), "stop_reason")
            self._add_usage(get_field(event, "usage"))
        elif kind == "error":
            self._error = describe_reported_error(get_field(event, "error") or event)
        elif kind is None:
            self._error = find_reported_error(event) or self._error
        return False

    def _add_usage(self, usage: Any) -> None:
        # The last event contains only the changed values.
        if isinstance(usage, dict):
            counts = cast("dict[str, Any]", usage)
            self._usage.update({name: value for name, value in counts.items() if value is not None})

    @property
    def model(self) -> Any:
        """Model named by the first event."""
        return self._message.get("model")

    def response(self) -> Response:
        """Return the response accumulated so far."""
        message = {**self._message, "stop_reason": self._stop_reason, "usage": self._usage}
        response = parse_messages_response(message)
        response.error = response.error or self._error
        return response
