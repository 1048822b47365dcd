"""Reading token counts: every spelling of ``usage`` that OpenAI's APIs and compatible servers have.

=====================  =====================================================================
server, API            what is its own
=====================  =====================================================================
OpenAI chat            ``prompt_tokens``, ``completion_tokens``, details of each
OpenAI Responses       ``input_tokens``, ``output_tokens``, details of each; images likewise
OpenAI transcription   ``input_token_details``; or ``seconds`` and no tokens at all
DeepSeek               ``prompt_cache_hit_tokens`` beside ``prompt_tokens``
Moonshot               streams: ``usage`` in the last choice instead of the chunk
Groq                   streams: ``x_groq.usage`` in the last chunk
Anthropic, LiteLLM     ``cache_read_input_tokens``, ``cache_creation_input_tokens``
llama.cpp              streams: no ``usage`` unless asked for, but always ``timings``
=====================  =====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.fields import count, get, items
from llamatelemetry.genai.model import Usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from llamatelemetry.genai.model import EngineTimings, Request, Response


def find_usage(reply: Any) -> Any:
    """Give the usage object of a reply or of a stream's last chunk, wherever the server put it."""
    usage = get(reply, "usage")
    if usage is not None:
        return usage
    groq = get(reply, "x_groq")
    if groq is not None:
        return get(groq, "usage")
    choices = items(get(reply, "choices"))
    return get(choices[0], "usage") if choices else None


def read_usage(usage: Any, timings: EngineTimings | None = None) -> Usage:
    """Read the token counts of a usage object; ``timings`` give those that it does not."""
    read = Usage()
    if usage is not None:
        _read_totals(usage, read)
        _read_input_details(usage, read)
        _read_output_details(usage, read)
    if timings is not None:
        if read.input_tokens is None:
            read.input_tokens = timings.prompt_tokens + (timings.cached_tokens or 0)
        if read.output_tokens is None:
            read.output_tokens = timings.predicted_tokens
        if read.cache_read_tokens is None:
            read.cache_read_tokens = timings.cached_tokens
    return read


def correct_undercount(response: Response, request: Request) -> None:
    """Take back counts that are of one answer where there were several.

    llama.cpp counts and times the first of several answers only, and of several prompts the
    first: plain replies give no way to know the rest. (A stream does; so does a native reply.)
    """
    timings, usage = response.timings, response.usage
    if timings is None or request.choice_count <= 1:
        return
    if usage.output_tokens == timings.predicted_tokens:
        usage.output_tokens = None
    prompts = request.choice_count // (
        count(request.parameters.get(names.GEN_AI_REQUEST_CHOICE_COUNT)) or 1
    )
    first_prompt = timings.prompt_tokens + (timings.cached_tokens or 0)
    if prompts > 1 and usage.input_tokens == first_prompt:
        usage.input_tokens = usage.cache_read_tokens = None


def _read_totals(usage: Any, read: Usage) -> None:
    read.input_tokens = count(_first(usage, "prompt_tokens", "input_tokens"))
    read.output_tokens = count(_first(usage, "completion_tokens", "output_tokens"))


def _read_input_details(usage: Any, read: Usage) -> None:
    details = _first(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    if details is not None:
        read.cache_read_tokens = count(get(details, "cached_tokens"))
        read.cache_write_tokens = count(get(details, "cache_write_tokens"))
        read.text_input_tokens = count(get(details, "text_tokens"))
        read.image_input_tokens = count(get(details, "image_tokens"))
        read.audio_input_tokens = count(get(details, "audio_tokens"))
        cached = get(details, "cached_tokens_details")
        if cached is not None:
            read.text_cache_read_tokens = count(get(cached, "text_tokens"))
            read.image_cache_read_tokens = count(get(cached, "image_tokens"))
            read.audio_cache_read_tokens = count(get(cached, "audio_tokens"))
    if read.cache_read_tokens is None:
        read.cache_read_tokens = count(
            _first(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens")
        )
    if read.cache_write_tokens is None:
        read.cache_write_tokens = count(get(usage, "cache_creation_input_tokens"))


def _read_output_details(usage: Any, read: Usage) -> None:
    details = _first(
        usage, "completion_tokens_details", "output_tokens_details", "output_token_details"
    )
    if details is not None:
        read.reasoning_tokens = count(get(details, "reasoning_tokens"))
        read.text_output_tokens = count(get(details, "text_tokens"))
        read.image_output_tokens = count(get(details, "image_tokens"))
        read.audio_output_tokens = count(get(details, "audio_tokens"))


def _first(source: Any, *fields: str) -> Any:
    for field in fields:
        value = get(source, field)
        if value is not None:
            return value
    return None
