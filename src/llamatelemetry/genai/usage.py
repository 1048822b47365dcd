"""Parsing of token counts: every spelling of `usage` in OpenAI's APIs and compatible servers.

| Server or API | Difference |
|---|---|
| OpenAI chat | `prompt_tokens`, `completion_tokens`, details of each |
| OpenAI Responses, images | `input_tokens`, `output_tokens`, details of each |
| OpenAI transcription | `input_token_details`; or `seconds` and no tokens |
| DeepSeek | `prompt_cache_hit_tokens` next to `prompt_tokens` |
| Moonshot | streams: `usage` in the last choice instead of the chunk |
| Groq | streams: `x_groq.usage` in the last chunk |
| Anthropic, LiteLLM | `cache_read_input_tokens`, `cache_creation_input_tokens` |
| llama.cpp | streams: no `usage` unless requested, but always `timings` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.json_access import as_count, as_fields, as_list, get_field
from llamatelemetry.genai.model import Usage
from llamatelemetry.semconv import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.model import EngineTimings, Request, Response


# Field of the response to field of `Usage`. Of several spellings, the first one counts.
_TOTALS: Final = {
    "prompt_tokens": "input_tokens",
    "input_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "output_tokens": "output_tokens",
}
_INPUT: Final = (
    ("cached_tokens", "cache_read_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("text_tokens", "text_input_tokens"),
    ("image_tokens", "image_input_tokens"),
    ("audio_tokens", "audio_input_tokens"),
)
_CACHED: Final = (
    ("text_tokens", "text_cache_read_tokens"),
    ("image_tokens", "image_cache_read_tokens"),
    ("audio_tokens", "audio_cache_read_tokens"),
)
_OUTPUT: Final = (
    ("reasoning_tokens", "reasoning_tokens"),
    ("text_tokens", "text_output_tokens"),
    ("image_tokens", "image_output_tokens"),
    ("audio_tokens", "audio_output_tokens"),
)
_BESIDE_TOTALS: Final = (
    ("prompt_cache_hit_tokens", "cache_read_tokens"),
    ("cache_read_input_tokens", "cache_read_tokens"),
    ("cache_creation_input_tokens", "cache_write_tokens"),
)
_CERTAIN_COUNT: Final = 2**31
_BESIDE_NAMES: Final = frozenset(dict(_BESIDE_TOTALS))
_DETAILS: Final = {
    **dict.fromkeys(
        ("prompt_tokens_details", "input_tokens_details", "input_token_details"), _INPUT
    ),
    **dict.fromkeys(
        ("completion_tokens_details", "output_tokens_details", "output_token_details"), _OUTPUT
    ),
}


def find_usage(reply: Any) -> Any:
    """Return the usage object of a response or of a stream's last chunk, wherever it is."""
    fields = as_fields(reply)
    usage = fields.get("usage")
    if usage is not None:
        return usage
    groq = fields.get("x_groq")
    if groq is not None:
        return get_field(groq, "usage")
    choices = as_list(fields.get("choices"))
    return get_field(choices[0], "usage") if choices else None


def parse_usage(usage: Any, timings: EngineTimings | None = None) -> Usage:
    """Parse the token counts of a usage object. `timings` supply the missing ones."""
    read = Usage()
    if usage is not None:
        _read_counts(as_fields(usage), read)
    if timings is not None:
        if read.input_tokens is None and timings.prompt_tokens is not None:
            read.input_tokens = timings.prompt_tokens + (timings.cached_tokens or 0)
        if read.output_tokens is None:
            read.output_tokens = timings.predicted_tokens
        if read.cache_read_tokens is None:
            read.cache_read_tokens = timings.cached_tokens
    return read


def _read_counts(fields: Mapping[str, Any], into: Usage) -> None:
    for field, value in fields.items():
        if value is None:
            continue
        total = _TOTALS.get(field)
        if total is not None:
            if getattr(into, total) is None:
                # Fast path: most counts are small integers.
                is_count = type(value) is int and 0 <= value <= _CERTAIN_COUNT
                setattr(into, total, value if is_count else as_count(value))
        elif field in _DETAILS:
            _read_details(as_fields(value), _DETAILS[field], into)
    if not _BESIDE_NAMES.isdisjoint(fields):
        _read_fields(fields, _BESIDE_TOTALS, into)


def _read_details(
    fields: Mapping[str, Any], spellings: tuple[tuple[str, str], ...], into: Usage
) -> None:
    _read_fields(fields, spellings, into)
    cached = fields.get("cached_tokens_details")
    if cached is not None:
        _read_fields(as_fields(cached), _CACHED, into)


def _read_fields(
    fields: Mapping[str, Any], spellings: tuple[tuple[str, str], ...], into: Usage
) -> None:
    for field, name in spellings:
        value = fields.get(field)
        if value is not None and getattr(into, name) is None:
            setattr(into, name, as_count(value))


def correct_undercount(response: Response, request: Request) -> None:
    """Remove counts that cover only one of several choices or prompts.

    llama.cpp counts and times only the first of several choices, and only the first of several
    prompts. A plain response does not contain the rest. A stream and a native response do.
    """
    timings, usage = response.timings, response.usage
    if timings is None or request.choice_count <= 1:
        return
    if usage.output_tokens == timings.predicted_tokens:
        usage.output_tokens = None
    prompts = request.choice_count // (
        as_count(request.parameters.get(attributes.GEN_AI_REQUEST_CHOICE_COUNT)) or 1
    )
    first_prompt = (timings.prompt_tokens or 0) + (timings.cached_tokens or 0)
    if prompts > 1 and usage.input_tokens == first_prompt:
        usage.input_tokens = usage.cache_read_tokens = None
