"""Parser of Ollama's native routes: `/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings`.

A stream is one JSON object a line. Its last object has `done: true` and the counts. Sources:
`api/types.go` and `server/routes.go` of Ollama.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.chat_accumulator import ChoicesContentAccumulator
from llamatelemetry.genai.content.messages import parse_chat_request, parse_choices
from llamatelemetry.genai.content.parts import ParsedPart, blob_part, text_part
from llamatelemetry.genai.engines import read_engine
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.json_access import (
    as_count,
    as_dict,
    as_fields,
    as_list,
    as_str,
    get_field,
    model_name,
)
from llamatelemetry.genai.model import Content, Response, Usage
from llamatelemetry.genai.wire.openai_chat import parse_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo

_SAME_OPTIONS: Final = (
    *("temperature", "top_p", "top_k", "seed", "stop"),
    *("frequency_penalty", "presence_penalty"),
)


def parse_ollama_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the request parameters as span attributes. Most of them are in `options`."""
    options = as_dict(body.get("options"))
    known = {name: options.get(name) for name in _SAME_OPTIONS}
    known["n_predict"] = options.get("num_predict")  # -1 is without limit
    known["dimensions"] = body.get("dimensions")
    known["reasoning_effort"] = body.get("think")  # a level; or a boolean, which is not one
    output_format = body.get("format")
    if output_format == "json":
        known["response_format"] = {"type": "json_object"}
    elif isinstance(output_format, dict):
        known["response_format"] = {"type": "json_schema"}
    return parse_parameters(known)


def parse_ollama_chat_request(body: Mapping[str, Any]) -> Content:
    """Parse the messages and tools of `/api/chat`."""
    messages = [_as_openai_message(message) for message in as_list(body.get("messages"))]
    return parse_chat_request({"messages": messages, "tools": body.get("tools")})


def parse_ollama_generate_request(body: Mapping[str, Any]) -> Content:
    """Parse the prompt, the images and the system prompt of `/api/generate`."""
    parts = [*text_part(body.get("prompt")), *_image_parts(body.get("images"))]
    return Content(
        inputs=[{"role": "user", "parts": parts}] if parts else [],
        instructions=text_part(body.get("system")),
    )


def _as_openai_message(message: Any) -> Any:
    """Return a message in the form of OpenAI, which has images among the content."""
    fields = as_dict(message)
    images = _image_parts(fields.get("images"))
    content = fields.get("content")
    if images:
        content = [*([{"type": "text", "text": content}] if content else []), *images]
    return {
        **fields,
        "name": fields.get("tool_name") or fields.get("name"),
        "content": content,
        "reasoning_content": fields.get("thinking") or fields.get("reasoning_content"),
    }


def _image_parts(images: Any) -> list[ParsedPart]:
    return [
        ParsedPart(blob_part(BlobData(image), "image"))
        for image in as_list(images)
        if isinstance(image, str)
    ]


def parse_ollama_response(reply: Any) -> Response:
    """Parse a response of any native route."""
    fields = as_fields(reply)
    reason = as_str(fields.get("done_reason"))
    provider, timings = read_engine(fields, None)
    return Response(
        model=model_name(fields.get("model")),
        finish_reasons=() if reason is None else (reason,),
        usage=Usage(
            input_tokens=as_count(fields.get("prompt_eval_count")),
            output_tokens=as_count(fields.get("eval_count")),
            cache_read_tokens=as_count(fields.get("prompt_eval_cached_count")),
        ),
        timings=timings,
        provider=provider,
        error=find_reported_error(fields),
        read_content=lambda: parse_choices(
            [{"message": _as_openai_message(_message_of(fields)), "finish_reason": reason}]
        ),
    )


def _message_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message of a chat, or that of a completion in the same form."""
    message = fields.get("message")
    if isinstance(message, dict):
        return dict(as_dict(message))
    names = {"response": "content", "thinking": "thinking"}
    return {ours: fields[name] for name, ours in names.items() if name in fields}


_KEPT_FIELDS: Final = (
    *("model", "done", "done_reason", "load_duration", "prompt_eval_count"),
    *("prompt_eval_cached_count", "prompt_eval_duration", "eval_count", "eval_duration"),
)


class OllamaAccumulator:
    """Accumulator for the objects of a native stream.

    Args:
        content_max_chars: Maximum number of characters to keep of each text; `None` keeps no text.
    """

    __slots__ = ("_calls", "_content", "_error", "_last")

    def __init__(self, content_max_chars: int | None = None) -> None:
        self._content = (
            None if content_max_chars is None else ChoicesContentAccumulator(content_max_chars)
        )
        self._last: dict[str, Any] = {}
        self._calls = 0
        self._error: ErrorInfo | None = None

    def add(self, chunk: Any) -> bool:
        """Add one object. Return whether it carries a token: text, thinking or a tool call."""
        fields = as_fields(chunk)
        self._error = self._error or find_reported_error(fields)
        self._last = {name: fields[name] for name in _KEPT_FIELDS if name in fields}
        message = _message_of(fields)
        calls = as_list(message.get("tool_calls"))
        if self._content is not None:
            self._content.add(0, {"delta": self._delta(message, calls)})
        return bool(message.get("content") or message.get("thinking") or calls)

    def _delta(self, message: Mapping[str, Any], calls: Sequence[Any]) -> dict[str, Any]:
        """Return a message in the form of a chunk of OpenAI, whose arguments are text."""
        deltas: list[dict[str, Any]] = []
        for call in calls:
            function = get_field(call, "function")
            named = {
                "name": get_field(function, "name"),
                "arguments": json.dumps(get_field(function, "arguments")),
            }
            # A call arrives as a whole. Its own index is missing in older versions.
            deltas.append({"index": self._calls, "id": get_field(call, "id"), "function": named})
            self._calls += 1
        texts = {name: message.get(name) for name in ("role", "content")}
        return {**texts, "reasoning_content": message.get("thinking"), "tool_calls": deltas}

    @property
    def model(self) -> Any:
        """Model of the last object."""
        return self._last.get("model")

    def response(self) -> Response:
        """Return the response accumulated so far."""
        response = parse_ollama_response(self._last)
        response.error = self._error
        reason = self._last.get("done_reason")
        choices = {} if self._content is None else self._content.results()
        response.read_content = lambda: parse_choices(
            [{"finish_reason": reason, **choice} for choice in choices.values()]
        )
        return response
