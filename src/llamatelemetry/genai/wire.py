"""Reading requests and responses of the OpenAI wire format: plain JSON, or models made of it.

llama.cpp, vLLM, Ollama and most others speak it too. What only some servers send, such as
llama.cpp's ``timings``, is read wherever it turns up.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.fields import count, get, integer, items, model_name, number, text
from llamatelemetry.genai.messages import read_choices
from llamatelemetry.genai.model import EngineTimings, Response, Usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue


def _stop_sequences(value: Any) -> tuple[str, ...] | None:
    given = (value,) if isinstance(value, str) else items(value)
    return tuple(sequence for item in given if (sequence := text(item)) is not None) or None


def _choice_count(value: Any) -> int | None:
    # The conventions want it only where it is not 1.
    wanted = count(value)
    return wanted if wanted != 1 else None


_OUTPUT_TYPES = {"text": "text", "json_object": "json", "json_schema": "json"}


def _output_type(value: Any) -> str | None:
    kind = text(get(value, "type")) if isinstance(value, dict) else None
    return _OUTPUT_TYPES.get(kind) if kind is not None else None


def _requested_tier(value: Any) -> str | None:
    tier = text(value)
    return tier if tier != "auto" else None


def _encoding_formats(value: Any) -> tuple[str, ...] | None:
    encoding = text(value)
    return None if encoding is None else (encoding,)


_PARAMETERS: Mapping[str, tuple[str, Callable[[Any], AttributeValue | None]]] = {
    "temperature": (names.GEN_AI_REQUEST_TEMPERATURE, number),
    "top_p": (names.GEN_AI_REQUEST_TOP_P, number),
    "top_k": (names.GEN_AI_REQUEST_TOP_K, integer),
    "max_tokens": (names.GEN_AI_REQUEST_MAX_TOKENS, integer),
    "max_completion_tokens": (names.GEN_AI_REQUEST_MAX_TOKENS, integer),
    "frequency_penalty": (names.GEN_AI_REQUEST_FREQUENCY_PENALTY, number),
    "presence_penalty": (names.GEN_AI_REQUEST_PRESENCE_PENALTY, number),
    "seed": (names.GEN_AI_REQUEST_SEED, integer),
    "stop": (names.GEN_AI_REQUEST_STOP_SEQUENCES, _stop_sequences),
    "n": (names.GEN_AI_REQUEST_CHOICE_COUNT, _choice_count),
    "response_format": (names.GEN_AI_OUTPUT_TYPE, _output_type),
    "service_tier": (names.OPENAI_REQUEST_SERVICE_TIER, _requested_tier),
    "reasoning_effort": (names.GEN_AI_REQUEST_REASONING_LEVEL, text),
    "dimensions": (names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT, count),
    "encoding_format": (names.GEN_AI_REQUEST_ENCODING_FORMATS, _encoding_formats),
}


def read_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Give the request parameters as span attributes; the body is read, never iterated into."""
    found: dict[str, AttributeValue] = {}
    for name, value in body.items():
        known = _PARAMETERS.get(name)
        if known is None or value is None:
            continue
        attribute, read = known
        parameter = read(value)
        if parameter is not None:
            found[attribute] = parameter
    return found


def read_response(reply: Any) -> Response:
    """Read a chat completion, a text completion or embeddings: JSON, a model, or a folded stream."""
    timings = read_timings(get(reply, "timings"))
    choices = get(reply, "choices")
    return Response(
        id=text(get(reply, "id")),
        model=model_name(get(reply, "model")),
        finish_reasons=_finish_reasons(choices),
        usage=_read_usage(get(reply, "usage"), timings),
        timings=timings,
        service_tier=text(get(reply, "service_tier")),
        system_fingerprint=text(get(reply, "system_fingerprint")),
        read_content=partial(read_choices, choices),
    )


def _finish_reasons(choices: Any) -> tuple[str, ...]:
    """One reason per choice, in order; ``error`` where one was expected and none came."""
    found = [text(get(choice, "finish_reason")) for choice in items(choices)]
    return tuple(reason or "error" for reason in found) if any(found) else ()


def _read_usage(usage: Any, timings: EngineTimings | None) -> Usage:
    read = Usage()
    if usage is not None:
        prompt = get(usage, "prompt_tokens_details")
        completion = get(usage, "completion_tokens_details")
        read.input_tokens = count(get(usage, "prompt_tokens"))
        read.output_tokens = count(get(usage, "completion_tokens"))
        if prompt is not None:
            read.cache_read_tokens = count(get(prompt, "cached_tokens"))
            read.cache_write_tokens = count(get(prompt, "cache_write_tokens"))
            read.audio_input_tokens = count(get(prompt, "audio_tokens"))
        if completion is not None:
            read.reasoning_tokens = count(get(completion, "reasoning_tokens"))
            read.audio_output_tokens = count(get(completion, "audio_tokens"))
    if timings is not None:
        # A llama.cpp chat stream has no usage unless it was asked for, but always timings.
        if read.input_tokens is None:
            read.input_tokens = timings.prompt_tokens + (timings.cached_tokens or 0)
        if read.output_tokens is None:
            read.output_tokens = timings.predicted_tokens
        if read.cache_read_tokens is None:
            read.cache_read_tokens = timings.cached_tokens
    return read


# Ten years: the end of a phase must still be a point in time that OTLP can carry.
_LONGEST_MS = 10 * 365 * 86400 * 1000


def read_timings(timings: Any) -> EngineTimings | None:
    """Read llama.cpp's ``timings``, or ``None`` when the object is not one."""
    if timings is None:
        return None
    prompt_tokens = count(get(timings, "prompt_n"))
    prefill_ms = number(get(timings, "prompt_ms"))
    predicted_tokens = count(get(timings, "predicted_n"))
    decode_ms = number(get(timings, "predicted_ms"))
    if prompt_tokens is None or prefill_ms is None or predicted_tokens is None or decode_ms is None:
        return None
    if not (0 <= prefill_ms <= _LONGEST_MS and 0 <= decode_ms <= _LONGEST_MS):
        return None
    return EngineTimings(
        prompt_tokens=prompt_tokens,
        prefill_ms=prefill_ms,
        predicted_tokens=predicted_tokens,
        decode_ms=decode_ms,
        cached_tokens=count(get(timings, "cache_n")),
        drafted_tokens=count(get(timings, "draft_n")),
        accepted_tokens=count(get(timings, "draft_n_accepted")),
    )
