"""What a call that has ended writes on its span, and its phases as child spans."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import attrgetter, is_not
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import Status, StatusCode

from llamatelemetry.genai.metrics import metric_attributes
from llamatelemetry.genai.phases import Phases, measure_phases
from llamatelemetry.genai.server_metadata import server_metadata_cache
from llamatelemetry.genai.servers import known_servers
from llamatelemetry.otel.span_attributes import set_attributes
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    OPENAI_PROVIDERS,
    PROVIDER_LLAMA_CPP,
    PROVIDER_OPENAI,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import EngineTimings, Request, Response


@dataclass(slots=True)
class Outcome:
    """All that is known of a call when it ends. Times in seconds; ``None`` is unknown."""

    request: Request
    response: Response
    error: ErrorInfo | None
    duration_s: float
    attempt_s: float
    attempt_wall_ns: int
    ended_wall_ns: int
    resend_count: int
    headers_s: float | None = None
    first_chunk_s: float | None = None
    first_token_s: float | None = None
    first_token_attempt_s: float | None = None
    phases: Phases | None = None


def phases_of(outcome: Outcome, timings: EngineTimings) -> Phases:
    """Find the phases of a call of which everything else is known."""
    return measure_phases(
        timings,
        attempt_s=outcome.attempt_s,
        headers_s=outcome.headers_s,
        choice_count=outcome.request.choice_count,
        first_token_s=outcome.first_token_attempt_s,
        has_queue=outcome.request.has_queue,
    )


def sampling_attributes(request: Request) -> dict[str, AttributeValue]:
    """The attributes a span starts with: those that a sampler may want to decide by."""
    attributes = dict(metric_attributes(request, None))
    if request.task is not None:
        attributes[names.TASK] = request.task
    return attributes


def record_span(span: Span, outcome: Outcome) -> None:
    """Set the attributes of the call's span, and its status when the call failed."""
    set_attributes(span, _span_attributes(outcome))
    if outcome.error is not None:
        span.set_status(Status(StatusCode.ERROR, outcome.error.description))


def event_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    """The attributes of an event about the call: all that its span has, content apart."""
    return {**sampling_attributes(outcome.request), **_span_attributes(outcome)}


def _span_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    request, response = outcome.request, outcome.response
    values = _values_of(response)
    attributes = dict(request.parameters)
    attributes.update(compress(zip(_ATTRIBUTES, values, strict=True), map(_is_known, values)))
    if response.finish_reasons:
        attributes[names.GEN_AI_RESPONSE_FINISH_REASONS] = response.finish_reasons
    if outcome.resend_count:
        attributes[names.HTTP_REQUEST_RESEND_COUNT] = outcome.resend_count
    if request.stream:
        attributes[names.GEN_AI_REQUEST_STREAM] = True
    if outcome.first_chunk_s is not None:
        attributes[names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = outcome.first_chunk_s
    if outcome.error is not None:
        attributes.update(_known(_error_attributes(outcome.error)))
    if outcome.phases is not None:
        attributes.update(_known(_phase_attributes(outcome, outcome.phases)))
    elif request.provider == PROVIDER_LLAMA_CPP:
        attributes.update(_known(_untimed_attributes(outcome)))
    if known_servers.has_descriptions or server_metadata_cache.has_any:  # of most nothing is known
        attributes.update(_server_attributes(outcome))
    attributes.update(response.attributes)
    if request.provider not in OPENAI_PROVIDERS:
        _drop_openais(attributes)
    return attributes


def _drop_openais(attributes: dict[str, AttributeValue]) -> None:
    for name in [name for name in attributes if name.startswith("openai.")]:
        del attributes[name]


def _error_attributes(error: ErrorInfo) -> Iterator[tuple[str, AttributeValue | None]]:
    yield names.ERROR_TYPE, error.type
    yield names.HTTP_RESPONSE_STATUS_CODE, error.status_code


def enrich_span(span: Span, outcome: Outcome, *, provider_proved: bool) -> None:
    """Add to another instrumentation's span what only the engine knows.

    Its provider is corrected if it says ``openai``, as most do of any server that speaks that
    protocol, and the reply has proved otherwise.
    """
    attributes = {**_server_attributes(outcome), **outcome.response.attributes}
    if outcome.phases is not None:
        attributes.update(_known(_phase_attributes(outcome, outcome.phases)))
    theirs: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    if provider_proved and theirs.get(names.GEN_AI_PROVIDER_NAME) == PROVIDER_OPENAI:
        attributes[names.GEN_AI_PROVIDER_NAME] = outcome.request.provider
    span.set_attributes(attributes)


def _server_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    """What the server is, where that is known."""
    request, response = outcome.request, outcome.response
    started_here = known_servers.description_of(request.server)
    # To embeddings and rankings llama.cpp answers under the name it was asked by.
    model = None if response.timings is None else response.model
    asked = server_metadata_cache.attributes_of(request.server, model, response.system_fingerprint)
    return {**started_here, **asked}


def _known(pairs: Iterable[tuple[str, AttributeValue | None]]) -> dict[str, AttributeValue]:
    return {name: value for name, value in pairs if value is not None}


_ATTRIBUTE_BY_FIELD: Final = {
    "id": names.GEN_AI_RESPONSE_ID,
    "model": names.GEN_AI_RESPONSE_MODEL,
    "status": names.GEN_AI_RESPONSE_STATUS,
    "conversation_id": names.GEN_AI_CONVERSATION_ID,
    "service_tier": names.OPENAI_RESPONSE_SERVICE_TIER,
    "system_fingerprint": names.OPENAI_RESPONSE_SYSTEM_FINGERPRINT,
    "compacted": names.GEN_AI_CONVERSATION_COMPACTED,
    "usage.input_tokens": names.GEN_AI_USAGE_INPUT_TOKENS,
    "usage.output_tokens": names.GEN_AI_USAGE_OUTPUT_TOKENS,
    "usage.cache_read_tokens": names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    "usage.cache_write_tokens": names.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    "usage.reasoning_tokens": names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    "usage.text_input_tokens": names.GEN_AI_USAGE_TEXT_INPUT_TOKENS,
    "usage.image_input_tokens": names.GEN_AI_USAGE_IMAGE_INPUT_TOKENS,
    "usage.audio_input_tokens": names.GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    "usage.text_cache_read_tokens": names.GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS,
    "usage.image_cache_read_tokens": names.GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS,
    "usage.audio_cache_read_tokens": names.GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS,
    "usage.text_output_tokens": names.GEN_AI_USAGE_TEXT_OUTPUT_TOKENS,
    "usage.image_output_tokens": names.GEN_AI_USAGE_IMAGE_OUTPUT_TOKENS,
    "usage.audio_output_tokens": names.GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
}
_ATTRIBUTES: Final = tuple(_ATTRIBUTE_BY_FIELD.values())
# Without a loop of Python's: every call passes here, and most fields are not known.
_values_of: Final[Callable[[Response], tuple[Any, ...]]] = attrgetter(*_ATTRIBUTE_BY_FIELD)
_is_known: Final[Callable[[Any], bool]] = partial(is_not, None)


def _untimed_attributes(outcome: Outcome) -> Iterator[tuple[str, AttributeValue | None]]:
    """What the client sees of the phases of a stream without ``timings``: broken off, or Anthropic's."""
    if outcome.first_token_s is not None:
        yield names.TTFT_MS, outcome.first_token_s * 1000
    if outcome.headers_s is not None and outcome.first_chunk_s is not None:
        yield names.QUEUE_DURATION, outcome.headers_s
        yield names.QUEUE_SOURCE, "header"


def _phase_attributes(
    outcome: Outcome, phases: Phases
) -> Iterator[tuple[str, AttributeValue | None]]:
    yield from _queue_attributes(phases)
    yield from _prefill_attributes(outcome, phases)
    yield from _decode_attributes(outcome, phases)
    # What the client saw comes first; the server's own figure stands in where it saw nothing.
    first_token_s = (
        outcome.first_token_s if outcome.first_token_s is not None else phases.time_to_first_token_s
    )
    yield names.TTFT_MS, None if first_token_s is None else first_token_s * 1000
    yield names.SERVER_TIME_TO_FIRST_TOKEN, phases.time_to_first_token_s
    yield names.SERVER_TIME_PER_OUTPUT_TOKEN, phases.time_per_output_token_s


def _queue_attributes(phases: Phases) -> Iterator[tuple[str, AttributeValue | None]]:
    if phases.queue_source is not None:
        yield names.QUEUE_DURATION, phases.queue_s
        yield names.QUEUE_SOURCE, phases.queue_source


def _prefill_attributes(
    outcome: Outcome, phases: Phases
) -> Iterator[tuple[str, AttributeValue | None]]:
    timings = outcome.response.timings
    if timings is not None:
        yield names.PREFILL_MS, phases.prefill_s * 1000
        yield names.PROMPT_TOKENS, timings.prompt_tokens
        yield names.CACHED_TOKENS, timings.cached_tokens


def _decode_attributes(
    outcome: Outcome, phases: Phases
) -> Iterator[tuple[str, AttributeValue | None]]:
    timings = outcome.response.timings
    if timings is not None:
        per_token_s = phases.time_per_output_token_s
        yield names.DECODE_MS, phases.decode_s * 1000
        yield names.TPOT_MS, None if per_token_s is None else per_token_s * 1000
        yield names.PREDICTED_TOKENS, timings.predicted_tokens
        yield names.DRAFTED_TOKENS, timings.drafted_tokens
        yield names.ACCEPTED_TOKENS, timings.accepted_tokens


def record_phase_spans(tracer: Tracer, context: Context, outcome: Outcome) -> None:
    """Write queue, prefill and decode as children of the span in ``context``, at the times they really had.

    They follow one another from the moment the last attempt was sent. Without a known queue
    there is no moment to place the others at, and so no children.
    """
    phases = outcome.phases
    if phases is None or phases.queue_s is None:
        return
    at_ns = outcome.attempt_wall_ns
    for name, duration_s, attributes in (
        *([("queue", phases.queue_s, _queue_attributes(phases))] if phases.queue_source else []),
        ("prefill", phases.prefill_s, _prefill_attributes(outcome, phases)),
        ("decode", phases.decode_s, _decode_attributes(outcome, phases)),
    ):
        until_ns = at_ns + round(duration_s * 1e9)
        known = _known(attributes)
        known[names.PHASE] = name
        tracer.start_span(name, context, attributes=known, start_time=at_ns).end(until_ns)
        at_ns = until_ns
