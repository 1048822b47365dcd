"""Accumulators that build an ordinary response from the chunks of an OpenAI stream.

No chunk is kept, only the few fields that matter. A stream of any length uses constant memory, and one
parser serves streams and plain responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai.content.chat_accumulator import ChoicesContentAccumulator
from llamatelemetry.genai.content.messages import parse_choices
from llamatelemetry.genai.engines import ENGINE_FIELDS
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.json_access import as_count, as_dict, as_fields, as_list, get_field
from llamatelemetry.genai.wire.openai_chat import find_choice_error, find_usage, parse_response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import Response

# Fields of a delta that carry a token. The role does not, nor does an empty delta: llama.cpp opens
# each chat stream with a role and null content.
_TOKEN_FIELDS = (
    *("content", "reasoning_content", "reasoning"),
    *("tool_calls", "refusal", "function_call"),
)
_HEAD_FIELDS = ("id", "model", "service_tier", "system_fingerprint")


class Accumulator(Protocol):
    """Interface of an accumulator. There is one implementation per format of stream."""

    def add(self, chunk: Any, /) -> bool:
        """Add one chunk. Return whether it carries a token: content, reasoning or a tool call.

        Only the first `True` matters. Later results may be either.
        """
        ...

    @property
    def model(self) -> Any:
        """Model named so far; `None` if unknown."""
        ...

    def response(self) -> Response:
        """Return the response accumulated so far."""
        ...


class ChatAccumulator:
    """Accumulator for the chunks of a chat or text completion.

    Args:
        content_max_chars: Maximum number of characters to keep of each text; `None` keeps no text.
    """

    __slots__ = (
        *("_at_finish", "_at_usage", "_content", "_engine", "_error", "_finish_reasons"),
        *("_has_token", "_head", "_is_named", "timings", "usage"),
    )

    def __init__(self, content_max_chars: int | None = None) -> None:
        self._content = (
            None if content_max_chars is None else ChoicesContentAccumulator(content_max_chars)
        )
        self._head: dict[str, Any] = {}
        self._is_named = False
        self._has_token = False
        self._error: ErrorInfo | None = None
        self._finish_reasons: dict[int, str | None] = {}
        self.usage: Any = None
        self.timings: Any = None
        self._engine: dict[str, Any] = {}
        # With several choices, llama.cpp reports the tokens of each choice at its end.
        self._at_finish: dict[int, int | None] = {}
        self._at_usage: list[int | None] = []

    def add(self, chunk: Any) -> bool:
        """Add one chunk. Return whether a chunk so far carries a token."""
        # Speed matters here: most chunks take few calls.
        fields = as_fields(chunk)
        if not self._is_named:
            self._read_head(fields)
        usage, timings = fields.get("usage"), fields.get("timings")
        choices: Any = fields.get("choices")
        if usage is not None or timings is not None:
            self._add_counts(usage, timings, as_list(choices))
            self._add_engine(fields)
        if not choices:
            self._error = self._error or find_reported_error(fields)
            return self._has_token
        for position, choice in enumerate(as_list(choices)):
            # Not `as_fields`: the models declare these fields, and this takes half as long.
            parts: Mapping[str, Any] = getattr(choice, "__dict__", None) or as_dict(choice)
            if not self._has_token:
                self._has_token = _carries_token(parts)
            reason, index = parts.get("finish_reason"), parts.get("index")
            key = index if isinstance(index, int) else position
            if reason is not None or key not in self._finish_reasons:
                self._finish_reasons[key] = reason
                if reason is not None:
                    self._add_end(choice, fields)
            if self._content is not None:
                self._content.add(key, choice)
        return self._has_token

    def _add_end(self, choice: Any, fields: Mapping[str, Any]) -> None:
        if self.usage is None:
            self.usage = find_usage(fields)  # Groq and Moonshot send it there.
        self._error = find_choice_error([choice]) or self._error
        self._add_engine(fields)

    def _add_counts(self, usage: Any, timings: Any, choices: Sequence[Any]) -> None:
        if usage is not None:
            self.usage = usage
        if timings is None:
            return
        self.timings = timings
        predicted = as_count(get_field(timings, "predicted_n"))
        if not choices:
            self._at_usage.append(predicted)
        elif get_field(choices[0], "finish_reason") is not None:
            self._at_finish[as_count(get_field(choices[0], "index")) or 0] = predicted

    def _add_engine(self, fields: Mapping[str, Any]) -> None:
        """Keep the fields of the last chunks that have figures of the engine or prove it."""
        for name in ENGINE_FIELDS & fields.keys():
            self._engine[name] = fields[name]
        # vLLM has it in the last chunk only.
        fingerprint = fields.get("system_fingerprint")
        if fingerprint is not None:
            self._head["system_fingerprint"] = fingerprint

    def _read_head(self, chunk: Mapping[str, Any]) -> None:
        # The first chunk may lack the names: Azure's contains filter results and empty names.
        for name in _HEAD_FIELDS:
            if not self._head.get(name):
                self._head[name] = chunk.get(name)
        self._is_named = bool(self._head["id"] and self._head["model"])

    @property
    def model(self) -> Any:
        """Model of the first chunk that names one."""
        return self._head.get("model")

    def result(self) -> dict[str, Any]:
        """Return the response in the format of a plain one."""
        return {**self._counts(), "choices": self._choices()}

    def _counts(self) -> dict[str, Any]:
        reasons = self._finish_reasons
        result = {
            **self._engine,
            **self._head,
            "choices": [{"finish_reason": reasons[index]} for index in sorted(reasons)],
            "usage": self.usage,
        }
        if self.timings is not None:
            result["timings"] = self.timings
        return result

    def _choices(self) -> list[dict[str, Any]]:
        contents = {} if self._content is None else self._content.results()
        return [
            {"finish_reason": self._finish_reasons[index], **contents.get(index, {})}
            for index in sorted(self._finish_reasons)
        ]

    def response(self) -> Response:
        """Return the response accumulated so far."""
        response = parse_response(self._counts())
        response.error = self._error or response.error
        # Read by itself, so that a failure there cannot lose the counts.
        response.read_content = lambda: parse_choices(self._choices())
        predicted = self._at_usage or list(self._at_finish.values())
        if len(predicted) > 1 and None not in predicted:
            response.usage.output_tokens = sum(tokens or 0 for tokens in predicted)
        return response


def _carries_token(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))  # text completion
    return any(get_field(delta, name) for name in _TOKEN_FIELDS)
