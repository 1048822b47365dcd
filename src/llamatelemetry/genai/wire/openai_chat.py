"""Parser of the OpenAI wire format: JSON, or models created from it.

llama.cpp, vLLM, Ollama and most other servers use this format. Fields of individual servers, such as
llama.cpp's `timings`, are parsed wherever they occur.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.messages import parse_choices
from llamatelemetry.genai.engines import (
    ENGINE_CHOICE_FIELDS,
    ENGINE_FIELDS,
    ENGINE_USAGE_FIELDS,
    read_engine,
)
from llamatelemetry.genai.engines.proofs import PROVING_PREFIXES
from llamatelemetry.genai.errors import (
    ERROR_FIELDS,
    describe_reported_error,
    find_reported_error,
)
from llamatelemetry.genai.json_access import (
    as_count,
    as_dict,
    as_fields,
    as_float,
    as_int,
    as_list,
    as_str,
    get_field,
    get_strs,
    model_name,
)
from llamatelemetry.genai.model import Response, Usage
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import EngineTimings, Request


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


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


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
    # Of llama.cpp's server: they decide which part of a prompt it need not evaluate again.
    "cache_prompt": (names.REQUEST_CACHE_PROMPT, _flag),
    "id_slot": (names.REQUEST_ID_SLOT, as_int),
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

    It may be of a chat or text completion, embedding, image, transcription or moderation request.
    """
    fields = as_fields(reply)
    usage, choices = fields.get("usage"), fields.get("choices")
    if usage is None:
        usage = find_usage(fields)
    response_id, tier, fingerprint = get_strs(fields, "id", "service_tier", "system_fingerprint")
    provider, timings = None, None
    if mentions_engine(fields, usage, fingerprint):
        provider, timings = read_engine(fields, usage)
    # Fields are assigned, because a call with this many keyword arguments takes twice as long.
    response = Response(usage=parse_usage(usage, timings))
    response.id = response_id
    response.model = model_name(fields.get("model"))
    response.finish_reasons = _finish_reasons(choices)
    response.timings = timings
    response.provider = provider
    response.service_tier = tier
    response.system_fingerprint = fingerprint
    response.read_content = partial(parse_choices, choices)
    # Fast path: a response with choices and without these fields is not an error.
    if not choices or not ERROR_FIELDS.isdisjoint(fields):
        response.error = find_reported_error(reply)
    if "error" in response.finish_reasons:
        response.error = response.error or find_choice_error(as_list(choices))
    return response


def find_choice_error(choices: Sequence[Any]) -> ErrorInfo | None:
    """Describe the error of a choice: OpenRouter and vLLM end it with the reason `error`."""
    for choice in choices:
        if get_field(choice, "finish_reason") == "error":
            return describe_reported_error(get_field(choice, "error") or {"type": "_OTHER"})
    return None


def mentions_engine(fields: Mapping[str, Any], usage: Any, fingerprint: str | None) -> bool:
    """Return whether a response has fields that `read_engine` knows. Most responses have none."""
    if not ENGINE_FIELDS.isdisjoint(fields) or (
        fingerprint is not None and fingerprint.startswith(PROVING_PREFIXES)
    ):
        return True
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and "weight_version" in metadata:
        return True
    if _has_undeclared(usage, ENGINE_USAGE_FIELDS):
        return True
    choices: Any = fields.get("choices")
    if not choices or not isinstance(choices, (list, tuple)):
        return False
    return _has_undeclared(choices[0], ENGINE_CHOICE_FIELDS)


def _has_undeclared(value: Any, fields: frozenset[str]) -> bool:
    """Return whether a value has one of some fields, which no client's model declares.

    The undeclared fields of a model are few, and merging them with the declared ones would take
    ten times as long.
    """
    found = getattr(value, "__pydantic_extra__", value)
    return bool(found) and not fields.isdisjoint(as_dict(found))


def _finish_reasons(choices: Any) -> tuple[str, ...]:
    """Return one reason per choice, in order; `error` for a choice without one beside others."""
    if not isinstance(choices, (list, tuple)):
        return ()
    found = [get_strs(choice, "finish_reason")[0] for choice in choices]  # type: ignore[reportUnknownVariableType]
    if len(found) == 1:
        return () if found[0] is None else (found[0],)
    return tuple(reason or "error" for reason in found) if any(found) else ()


def correct_undercount(response: Response, request: Request) -> None:
    """Remove counts that cover only one of several choices or prompts.

    llama.cpp counts and times only the first of several choices, and only the first of several
    prompts. A plain response does not contain the rest. A stream and a native response do.
    """
    timings, usage = response.timings, response.usage
    if timings is None or request.choice_count <= 1:
        return
    if not timings.is_queue_derivable and request.has_queue:
        # Other engines add up the times of several choices, or report those of the last one.
        response.timings = None
        return
    if usage.output_tokens == timings.predicted_tokens:
        usage.output_tokens = None
    prompts = request.choice_count // (
        as_count(request.parameters.get(names.GEN_AI_REQUEST_CHOICE_COUNT)) or 1
    )
    first_prompt = (timings.prompt_tokens or 0) + (timings.cached_tokens or 0)
    if prompts > 1 and usage.input_tokens == first_prompt:
        usage.input_tokens = usage.cache_read_tokens = None


_TOTALS: Final = frozenset(
    {"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"}
)
# Field of the response to field of `Usage`.
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
    ("reasoning_tokens", "reasoning_tokens"),  # Perplexity
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
    """Return the usage object of a response or of a stream's last chunk.

    It is `usage`, but in streams of Groq `x_groq.usage`, and in those of Moonshot it is in a choice.
    """
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
    """Parse the token counts of a usage object, in every known spelling.

    `timings` supply the missing counts: a stream of llama.cpp has no usage unless requested.

    | Server or API | Difference |
    |---|---|
    | OpenAI chat | `prompt_tokens`, `completion_tokens`, details of each |
    | OpenAI Responses, images | `input_tokens`, `output_tokens`, details of each |
    | OpenAI transcription | `input_token_details`; or `seconds` and no tokens |
    | DeepSeek | `prompt_cache_hit_tokens` next to `prompt_tokens` |
    | Anthropic, LiteLLM | `cache_read_input_tokens`, `cache_creation_input_tokens` |
    | OpenRouter | `cost` of the call |
    | xAI, Perplexity | reasoning tokens that are not part of the output tokens |
    """
    read = Usage()
    if usage is not None:
        fields = as_fields(usage)
        _read_counts(fields, read)
        if read.reasoning_tokens:
            _include_reasoning(_token_count(fields.get("total_tokens")), read)
    if timings is not None:
        if read.input_tokens is None and timings.prompt_tokens is not None:
            read.input_tokens = timings.prompt_tokens + (timings.cached_tokens or 0)
        if read.output_tokens is None:
            read.output_tokens = timings.predicted_tokens
        if read.cache_read_tokens is None:
            read.cache_read_tokens = timings.cached_tokens
    return read


def _include_reasoning(total: int | None, read: Usage) -> None:
    """Add the reasoning tokens to the output tokens if the server has counted them separately.

    The proof is the total, or more reasoning tokens than output tokens.
    """
    prompt, output, reasoning = read.input_tokens, read.output_tokens, read.reasoning_tokens
    if output is None or reasoning is None:
        return
    is_in_total = prompt is not None and prompt + output + reasoning == total
    if is_in_total or reasoning > output:
        read.output_tokens = output + reasoning


def _read_counts(fields: Mapping[str, Any], into: Usage) -> None:
    # Of two spellings, the first one counts.
    into.input_tokens = _token_count(fields.get("prompt_tokens"))
    if into.input_tokens is None:
        into.input_tokens = _token_count(fields.get("input_tokens"))
    into.output_tokens = _token_count(fields.get("completion_tokens"))
    if into.output_tokens is None:
        into.output_tokens = _token_count(fields.get("output_tokens"))
    is_counted_beside = False
    for field, value in fields.items():
        if value is None or field in _TOTALS:
            continue
        if field == "cost":
            into.cost = as_float(value)
        elif field in _DETAILS:
            details = as_fields(value)
            _read_fields(details, _DETAILS[field], into)
            cached = details.get("cached_tokens_details")
            if cached is not None:
                _read_fields(as_fields(cached), _CACHED, into)
        elif field in _BESIDE_NAMES:
            is_counted_beside = True
    if is_counted_beside:
        _read_fields(fields, _BESIDE_TOTALS, into)


def _token_count(value: Any) -> int | None:
    """Return a number of tokens. Servers with one type of number send it as `20.0`."""
    # Fast path: most counts are small integers.
    if value is None or (type(value) is int and 0 <= value <= _CERTAIN_COUNT):
        return value
    is_whole = isinstance(value, float) and value.is_integer()
    return as_count(int(value) if is_whole else value)


def _read_fields(
    fields: Mapping[str, Any], spellings: tuple[tuple[str, str], ...], into: Usage
) -> None:
    for field, name in spellings:
        value = fields.get(field)
        if value is not None and getattr(into, name) is None:
            setattr(into, name, _token_count(value))
