"""Parser of the OpenAI wire format: JSON, or models created from it.

llama.cpp, vLLM, Ollama and most other servers use this format. Fields of individual servers, such as
llama.cpp's `timings`, are parsed wherever they occur.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.messages import parse_choices
from llamatelemetry.genai.json_access import (
    as_count,
    as_fields,
    as_float,
    as_int,
    as_list,
    as_str,
    get_field,
    model_name,
)
from llamatelemetry.genai.model import EngineTimings, Response
from llamatelemetry.genai.usage import find_usage, parse_usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue


def _stop_sequences(value: Any) -> tuple[str, ...] | None:
    given = (value,) if isinstance(value, str) else as_list(value)
    return tuple(sequence for item in given if (sequence := as_str(item)) is not None) or None


def _choice_count(value: Any) -> int | None:
    # The conventions require it only if it is not 1.
    wanted = as_count(value)
    return wanted if wanted != 1 else None


_OUTPUT_TYPES = {"text": "text", "json_object": "json", "json_schema": "json"}


def _output_type(value: Any) -> str | None:
    kind = as_str(get_field(value, "type")) if isinstance(value, dict) else None
    return _OUTPUT_TYPES.get(kind) if kind is not None else None


def _responses_output_type(value: Any) -> str | None:
    return _output_type(get_field(value, "format")) if isinstance(value, dict) else None


def _output_modality(value: Any) -> str | None:
    return "speech" if "audio" in as_list(value) else None


def _reasoning_level(value: Any) -> str | None:
    return as_str(get_field(value, "effort")) if isinstance(value, dict) else None


def _id_of(value: Any) -> str | None:
    """Return an id given as `"conv_1"` or `{"id": "conv_1"}`."""
    return as_str(get_field(value, "id")) if isinstance(value, dict) else as_str(value)


def _template_id(value: Any) -> str | None:
    # A string is the prompt itself. An object names a template.
    return _id_of(value) if isinstance(value, dict) else None


def _requested_tier(value: Any) -> str | None:
    tier = as_str(value)
    return tier if tier != "auto" else None


def _encoding_formats(value: Any) -> tuple[str, ...] | None:
    encoding = as_str(value)
    return None if encoding is None else (encoding,)


_PARAMETERS: Mapping[str, tuple[str, Callable[[Any], AttributeValue | None]]] = {
    "temperature": (names.GEN_AI_REQUEST_TEMPERATURE, as_float),
    "top_p": (names.GEN_AI_REQUEST_TOP_P, as_float),
    "top_k": (names.GEN_AI_REQUEST_TOP_K, as_int),
    "max_tokens": (names.GEN_AI_REQUEST_MAX_TOKENS, as_int),
    "max_completion_tokens": (names.GEN_AI_REQUEST_MAX_TOKENS, as_int),
    "max_output_tokens": (names.GEN_AI_REQUEST_MAX_TOKENS, as_int),
    "n_predict": (names.GEN_AI_REQUEST_MAX_TOKENS, as_count),
    "frequency_penalty": (names.GEN_AI_REQUEST_FREQUENCY_PENALTY, as_float),
    "presence_penalty": (names.GEN_AI_REQUEST_PRESENCE_PENALTY, as_float),
    "seed": (names.GEN_AI_REQUEST_SEED, as_int),
    "stop": (names.GEN_AI_REQUEST_STOP_SEQUENCES, _stop_sequences),
    "n": (names.GEN_AI_REQUEST_CHOICE_COUNT, _choice_count),
    "response_format": (names.GEN_AI_OUTPUT_TYPE, _output_type),
    "text": (names.GEN_AI_OUTPUT_TYPE, _responses_output_type),
    "modalities": (names.GEN_AI_OUTPUT_TYPE, _output_modality),
    "service_tier": (names.OPENAI_REQUEST_SERVICE_TIER, _requested_tier),
    "reasoning_effort": (names.GEN_AI_REQUEST_REASONING_LEVEL, as_str),
    "reasoning": (names.GEN_AI_REQUEST_REASONING_LEVEL, _reasoning_level),
    "previous_response_id": (names.GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID, as_str),
    "conversation": (names.GEN_AI_CONVERSATION_ID, _id_of),
    "prompt": (names.GEN_AI_PROMPT_NAME, _template_id),
    "dimensions": (names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT, as_count),
    "encoding_format": (names.GEN_AI_REQUEST_ENCODING_FORMATS, _encoding_formats),
}


_COUNTED: Final = frozenset({"n_cmpl", "n", "prompt"})


def parse_choice_count(body: Mapping[str, Any]) -> int:
    """Return the number of requested choices: `n` for each prompt."""
    if _COUNTED.isdisjoint(body):
        return 1
    wanted = as_count(body.get("n_cmpl")) or as_count(body.get("n")) or 1
    prompts = as_list(body.get("prompt"))
    # A list that contains numbers is one prompt of tokens.
    is_one = not prompts or any(isinstance(part, int) for part in prompts)
    return wanted if is_one else wanted * len(prompts)


def parse_parameters(body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the request parameters as span attributes."""
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


def parse_response(reply: Any) -> Response:
    """Parse a response of any format except the Responses API: JSON, a model, or an accumulated stream.

    Supports chat and text completions, embeddings, images, transcriptions and moderations. Missing fields
    stay unknown.
    """
    fields = as_fields(reply)
    raw_timings, usage = fields.get("timings"), fields.get("usage")
    timings = None if raw_timings is None else parse_timings(raw_timings)
    choices = fields.get("choices")
    return Response(
        id=as_str(fields.get("id")),
        model=model_name(fields.get("model")),
        finish_reasons=_finish_reasons(choices),
        usage=parse_usage(find_usage(fields) if usage is None else usage, timings),
        timings=timings,
        service_tier=as_str(fields.get("service_tier")),
        system_fingerprint=as_str(fields.get("system_fingerprint")),
        read_content=partial(parse_choices, choices),
    )


def _finish_reasons(choices: Any) -> tuple[str, ...]:
    """Return one reason per choice, in order; `error` for a choice without one beside others."""
    found = [as_str(as_fields(choice).get("finish_reason")) for choice in as_list(choices)]
    if len(found) == 1:
        return () if found[0] is None else (found[0],)
    return tuple(reason or "error" for reason in found) if any(found) else ()


# Ten years. The end of a phase must be a time that OTLP can represent.
_LONGEST_MS = 10 * 365 * 86400 * 1000


def parse_timings(timings: Any) -> EngineTimings | None:
    """Parse llama.cpp's `timings`. Return `None` if the value is something else."""
    if timings is None:
        return None
    prompt_tokens = as_count(get_field(timings, "prompt_n"))
    prefill_ms = as_float(get_field(timings, "prompt_ms"))
    predicted_tokens = as_count(get_field(timings, "predicted_n"))
    decode_ms = as_float(get_field(timings, "predicted_ms"))
    if prompt_tokens is None or prefill_ms is None or predicted_tokens is None or decode_ms is None:
        return None
    if not (0 <= prefill_ms <= _LONGEST_MS and 0 <= decode_ms <= _LONGEST_MS):
        return None
    return EngineTimings(
        prompt_tokens=prompt_tokens,
        prefill_ms=prefill_ms,
        predicted_tokens=predicted_tokens,
        decode_ms=decode_ms,
        cached_tokens=as_count(get_field(timings, "cache_n")),
        drafted_tokens=as_count(get_field(timings, "draft_n")),
        accepted_tokens=as_count(get_field(timings, "draft_n_accepted")),
    )
