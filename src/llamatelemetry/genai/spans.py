"""Attributes of a call's span, its phases as child spans, and the observer of dropped spans."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry.trace import NonRecordingSpan, Status, StatusCode

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.engines.latency_names import latency_attributes
from llamatelemetry.genai.external_usage import missing_usage
from llamatelemetry.genai.server_metadata import server_metadata_cache
from llamatelemetry.genai.servers import known_servers
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    OPENAI_PROVIDERS,
    PROVIDER_LLAMA_CPP,
    PROVIDER_OPENAI,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.model import (
        EngineTimings,
        Outcome,
        Phases,
        Request,
        Response,
        Usage,
    )


class DroppedSpanObserver(Protocol):
    """Interface of an observer of calls whose spans the sampler drops. It raises nothing.

    Span processors never see a span that the sampler drops, although the engine does its work.
    Code that divides the energy of an engine among its calls must count these calls too.
    """

    def on_dropped_span_start(
        self, span: Span, request: Request, kind: SpanKind, scope: str
    ) -> None:
        """Handle the start of a call. `span` stands for the dropped one and records nothing."""

    def on_dropped_span_end(self, span: Span) -> None:
        """Handle the end of the call."""


class DroppedSpans:
    """Holds the observer of dropped spans; `None` if there is none."""

    observer: DroppedSpanObserver | None = None


def is_dropped(span: Span) -> bool:
    """Return whether a span was dropped by a sampler, so that no span processor sees it."""
    # `is_recording()` is also false for a span that has ended. Without an SDK, all calls have
    # one invalid span.
    return isinstance(span, NonRecordingSpan) and span.get_span_context().is_valid


def call_attributes(request: Request, response_model: str | None) -> dict[str, AttributeValue]:
    """Return the attributes that spans and metrics of a call share: few, of low cardinality."""
    attributes: dict[str, AttributeValue] = {names.GEN_AI_PROVIDER_NAME: request.provider}
    if request.operation is not None:
        attributes[names.GEN_AI_OPERATION_NAME] = request.operation
    if request.model is not None:
        attributes[names.GEN_AI_REQUEST_MODEL] = request.model
    if response_model is not None:
        attributes[names.GEN_AI_RESPONSE_MODEL] = response_model
    server = request.server
    if server is not None:
        attributes[names.SERVER_ADDRESS] = server.address
        if server.port is not None:
            attributes[names.SERVER_PORT] = server.port
    return attributes


def start_attributes(request: Request) -> dict[str, AttributeValue]:
    """Return the attributes that a span starts with, which a sampler may decide by."""
    attributes = call_attributes(request, None)
    if request.task is not None:
        attributes[names.TASK] = request.task
    return attributes


def record_span(span: Span, outcome: Outcome, started_provider: str) -> None:
    """Set the attributes of a call's span, and its status if the call failed.

    The span already has its start attributes, with `started_provider` among them.
    """
    attributes = _span_attributes(outcome)
    if outcome.request.provider != started_provider:  # The response has proved another one.
        attributes[names.GEN_AI_PROVIDER_NAME] = outcome.request.provider
    span.set_attributes(attributes)
    if outcome.error is not None:
        span.set_status(Status(StatusCode.ERROR, outcome.error.description))


def record_latency_names(span: Span, outcome: Outcome) -> None:
    """Set `gen_ai.latency.*` on the span of a call. Of several choices, no figure covers all."""
    timings = outcome.response.timings
    if timings is not None and outcome.request.choice_count == 1:
        span.set_attributes(latency_attributes(timings))


def event_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    """Return the attributes of an event about the call: those of its span, without content."""
    return {**start_attributes(outcome.request), **_span_attributes(outcome)}


def _span_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    request, response = outcome.request, outcome.response
    attributes = dict(request.parameters)
    _add_response(attributes, response)
    if outcome.resend_count:
        attributes[names.HTTP_REQUEST_RESEND_COUNT] = outcome.resend_count
    if request.stream:
        attributes[names.GEN_AI_REQUEST_STREAM] = True
    if outcome.first_chunk_s is not None:
        attributes[names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = outcome.first_chunk_s
    if outcome.error is not None:
        attributes.update(_known(_error_attributes(outcome.error)))
    if outcome.phases is not None:
        attributes.update(_phase_attributes(outcome, outcome.phases))
    elif request.provider == PROVIDER_LLAMA_CPP:
        attributes.update(_known(_untimed_attributes(outcome)))
    # Fast path: most servers have no such attributes.
    if known_servers.descriptions or server_metadata_cache.has_any:
        attributes.update(_server_attributes(outcome))
    attributes.update(response.attributes)
    if request.provider not in OPENAI_PROVIDERS:
        for name in _OPENAI_ATTRIBUTES:
            attributes.pop(name, None)
    return attributes


def _add_response(attributes: dict[str, AttributeValue], response: Response) -> None:
    """Add the fields of a response. Most responses have the first six, and few have another one."""
    usage = response.usage
    if response.finish_reasons:
        attributes[names.GEN_AI_RESPONSE_FINISH_REASONS] = response.finish_reasons
    if response.id is not None:
        attributes[names.GEN_AI_RESPONSE_ID] = response.id
    if response.model is not None:
        attributes[names.GEN_AI_RESPONSE_MODEL] = response.model
    if response.system_fingerprint is not None:
        attributes[names.OPENAI_RESPONSE_SYSTEM_FINGERPRINT] = response.system_fingerprint
    if usage.input_tokens is not None:
        attributes[names.GEN_AI_USAGE_INPUT_TOKENS] = usage.input_tokens
    if usage.output_tokens is not None:
        attributes[names.GEN_AI_USAGE_OUTPUT_TOKENS] = usage.output_tokens
    for attribute_by_field, values, unknown in (
        (_RARE_FIELDS, _rare_fields_of(response), _NO_RARE_FIELDS),
        (_USAGE_DETAILS, _usage_details_of(usage), _NO_USAGE_DETAILS),
    ):
        if values != unknown:
            found = zip(attribute_by_field.values(), values, strict=True)
            attributes.update(_known(found))


def _error_attributes(error: ErrorInfo) -> Iterator[tuple[str, AttributeValue | None]]:
    yield names.ERROR_TYPE, error.type
    yield names.HTTP_RESPONSE_STATUS_CODE, error.status_code


def enrich_span(span: Span, outcome: Outcome, *, provider_proved: bool) -> None:
    """Add the engine's figures to another instrumentation's span, and tokens that it lacks.

    The owner may set the same token counts later, or never: several do not read them from streams
    or from chat completions. The span's provider is corrected if it is `openai`, which most
    instrumentations record for any server with that protocol, and the response has proved another
    one.
    """
    attributes = {**_server_attributes(outcome), **outcome.response.attributes}
    if outcome.phases is not None:
        attributes.update(_phase_attributes(outcome, outcome.phases))
    present: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    if provider_proved and present.get(names.GEN_AI_PROVIDER_NAME) == PROVIDER_OPENAI:
        attributes[names.GEN_AI_PROVIDER_NAME] = outcome.request.provider
    attributes.update(missing_usage(span, present, outcome.response.usage))
    span.set_attributes(attributes)


def _server_attributes(outcome: Outcome) -> dict[str, AttributeValue]:
    """Return the attributes of the server, as far as they are known."""
    request, response = outcome.request, outcome.response
    managed = known_servers.description_of(request.server)
    # Responses of llama.cpp to embeddings and rerank requests repeat the requested model name.
    model = None if response.timings is None else response.model
    fetched = server_metadata_cache.attributes_of(
        request.server, model, response.system_fingerprint
    )
    return {**managed, **fetched}


def _known(pairs: Iterable[tuple[str, AttributeValue | None]]) -> dict[str, AttributeValue]:
    return {name: value for name, value in pairs if value is not None}


_RARE_FIELDS: Final = {
    "status": names.GEN_AI_RESPONSE_STATUS,
    "conversation_id": names.GEN_AI_CONVERSATION_ID,
    "service_tier": names.OPENAI_RESPONSE_SERVICE_TIER,
    "compacted": names.GEN_AI_CONVERSATION_COMPACTED,
}
_USAGE_DETAILS: Final = {
    "cache_read_tokens": names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    "cache_write_tokens": names.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    "reasoning_tokens": names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    "text_input_tokens": names.GEN_AI_USAGE_TEXT_INPUT_TOKENS,
    "image_input_tokens": names.GEN_AI_USAGE_IMAGE_INPUT_TOKENS,
    "audio_input_tokens": names.GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    "text_cache_read_tokens": names.GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS,
    "image_cache_read_tokens": names.GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS,
    "audio_cache_read_tokens": names.GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS,
    "text_output_tokens": names.GEN_AI_USAGE_TEXT_OUTPUT_TOKENS,
    "image_output_tokens": names.GEN_AI_USAGE_IMAGE_OUTPUT_TOKENS,
    "audio_output_tokens": names.GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
    "cost": names.GEN_AI_USAGE_COST,
}
# Read and compared at once, because every call passes here.
_rare_fields_of: Final[Callable[[Response], tuple[Any, ...]]] = attrgetter(*_RARE_FIELDS)
_usage_details_of: Final[Callable[[Usage], tuple[Any, ...]]] = attrgetter(*_USAGE_DETAILS)
_NO_RARE_FIELDS: Final = (None,) * len(_RARE_FIELDS)
_NO_USAGE_DETAILS: Final = (None,) * len(_USAGE_DETAILS)
_OPENAI_ATTRIBUTES: Final[tuple[str, ...]] = tuple(
    value for name, value in vars(names).items() if name.startswith("OPENAI_")
)


def _untimed_attributes(outcome: Outcome) -> Iterator[tuple[str, AttributeValue | None]]:
    """Yield the client's measurements of a stream without `timings`: closed early, or Anthropic's."""
    if outcome.first_token_s is not None:
        yield names.TTFT_MS, outcome.first_token_s * 1000
    if outcome.headers_s is not None and outcome.first_chunk_s is not None:
        yield names.QUEUE_DURATION, outcome.headers_s
        yield names.QUEUE_SOURCE, "header"


def _phase_attributes(outcome: Outcome, phases: Phases) -> dict[str, AttributeValue]:
    timings = outcome.response.timings
    attributes = _queue_attributes(phases)
    if timings is not None:
        attributes |= _prefill_attributes(timings, phases)
        attributes |= _decode_attributes(timings, phases)
    # The client's measurement if there is one, otherwise the server's figure.
    first_token_s = outcome.first_token_s
    if first_token_s is None:
        first_token_s = phases.time_to_first_token_s
    if first_token_s is not None:
        attributes[names.TTFT_MS] = first_token_s * 1000
    if phases.time_to_first_token_s is not None:
        attributes[names.SERVER_TIME_TO_FIRST_TOKEN] = phases.time_to_first_token_s
    if phases.time_per_output_token_s is not None:
        attributes[names.SERVER_TIME_PER_OUTPUT_TOKEN] = phases.time_per_output_token_s
    return attributes


def _queue_attributes(phases: Phases) -> dict[str, AttributeValue]:
    if phases.queue_source is None or phases.queue_s is None:
        return {}
    return {names.QUEUE_DURATION: phases.queue_s, names.QUEUE_SOURCE: phases.queue_source}


def _prefill_attributes(timings: EngineTimings, phases: Phases) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    if phases.prefill_s is not None:
        attributes[names.PREFILL_MS] = phases.prefill_s * 1000
    if timings.prompt_tokens is not None:
        attributes[names.PROMPT_TOKENS] = timings.prompt_tokens
    if timings.cached_tokens is not None:
        attributes[names.CACHED_TOKENS] = timings.cached_tokens
    return attributes


def _decode_attributes(timings: EngineTimings, phases: Phases) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    if phases.decode_s is not None:
        attributes[names.DECODE_MS] = phases.decode_s * 1000
    if phases.time_per_output_token_s is not None:
        attributes[names.TPOT_MS] = phases.time_per_output_token_s * 1000
    if timings.predicted_tokens is not None:
        attributes[names.PREDICTED_TOKENS] = timings.predicted_tokens
    if timings.drafted_tokens is not None:
        attributes[names.DRAFTED_TOKENS] = timings.drafted_tokens
    if timings.accepted_tokens is not None:
        attributes[names.ACCEPTED_TOKENS] = timings.accepted_tokens
    return attributes


def record_phase_spans(tracer: Tracer, context: Context, outcome: Outcome) -> None:
    """Record queue, prefill and decode as children of the span in `context`, at their real times.

    They follow one another from the moment the last attempt was sent. If the duration of one is
    unknown, so is the start of those after it, and they are not recorded. It raises nothing: a
    sampler or a span processor of the application may fail.
    """
    phases, timings = outcome.phases, outcome.response.timings
    if phases is None or timings is None or phases.queue_s is None:
        return
    at_ns = outcome.attempt_wall_ns
    for name, duration_s, attributes in (
        *([("queue", phases.queue_s, _queue_attributes(phases))] if phases.queue_source else []),
        ("prefill", phases.prefill_s, _prefill_attributes(timings, phases)),
        ("decode", phases.decode_s, _decode_attributes(timings, phases)),
    ):
        if duration_s is None:
            return
        until_ns = at_ns + round(duration_s * 1e9)
        attributes[names.PHASE] = name
        try:
            tracer.start_span(name, context, attributes=attributes, start_time=at_ns).end(until_ns)
        except Exception as error:
            internal_errors.log_once("recording a phase", error)
        at_ns = until_ns
