"""The points of the GenAI metrics that a call has: what the client measured, and the engine."""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.servers import is_run_by_openai
from llamatelemetry.otel.client_metrics import CallMeasurement, V141Metrics
from llamatelemetry.otel.late_points import Layout
from llamatelemetry.otel.points import AttributeSet, record_each
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import FETCH_RESPONSE, OPENAI_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram

    from llamatelemetry.genai.model import Request, Response
    from llamatelemetry.genai.spans import Outcome
    from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
    from llamatelemetry.otel.points import Point


def measures_chunks(request: Request) -> bool:
    """Whether the chunks of a stream tell how fast a model is.

    A response that is fetched was made earlier, and the metrics are of named operations only.
    """
    return request.operation is not None and request.operation != FETCH_RESPONSE


def metric_attributes(request: Request, response_model: str | None) -> AttributeSet:
    """The attributes that every GenAI metric of a call carries: few, and of low cardinality."""
    server = request.server
    where = (None, None) if server is None else (server.address, server.port)
    return _metric_attributes(
        request.provider, request.operation, request.model, response_model, where
    )


@lru_cache(maxsize=512)  # the calls of a program differ little in these
def _metric_attributes(
    provider: str,
    operation: str | None,
    request_model: str | None,
    response_model: str | None,
    where: tuple[str | None, int | None],
) -> AttributeSet:
    known = (
        (names.GEN_AI_PROVIDER_NAME, provider),
        (names.GEN_AI_OPERATION_NAME, operation),
        (names.GEN_AI_REQUEST_MODEL, request_model),
        (names.GEN_AI_RESPONSE_MODEL, response_model),
        (names.SERVER_ADDRESS, where[0]),
        (names.SERVER_PORT, where[1]),
    )
    return AttributeSet({name: value for name, value in known if value is not None})


def series_of(outcome: Outcome) -> Hashable:
    """Give what tells apart the series of metrics that a call has points in."""
    request, response, phases = outcome.request, outcome.response, outcome.phases
    server = request.server
    return (
        request.provider,
        request.operation,
        request.model,
        None if server is None else server.origin,
        None if server is None else server.provider,
        response.model,
        response.service_tier,
        _fingerprint(request, response),
        None if outcome.error is None else outcome.error.type,
        outcome.first_chunk_s is None,
        response.usage.input_tokens is None,
        response.usage.output_tokens is None,
        phases is None
        or (
            request.choice_count == 1,
            phases.queue_s is None,
            phases.time_per_output_token_s is None,
        ),
    )


def layout_of(metrics: GenAIMetrics, outcome: Outcome) -> Layout | None:
    """Give where the points of a call and of all others of its series go.

    ``None`` where it goes nowhere, and under the newest names: of their counters, the modalities
    that a usage tells of decide which there are.
    """
    client, points = metrics.client, all_points(metrics, outcome)
    if not points or not isinstance(client, V141Metrics):
        return None
    field_by_instrument: dict[object, str] = {
        client.operation_duration: "duration_s",
        client.time_to_first_chunk: "first_chunk_s",
        metrics.server_time_to_first_token: "phases.time_to_first_token_s",
        metrics.server_time_per_output_token: "phases.time_per_output_token_s",
        metrics.server_request_duration: "phases.request_s",
    }
    fields = [
        field_by_instrument.get(instrument)
        or f"response.usage.{attributes[names.GEN_AI_TOKEN_TYPE]}_tokens"
        for instrument, _, attributes in points
    ]
    places = tuple((instrument, attributes) for instrument, _, attributes in points)
    return Layout(places, _reader(fields))


def _reader(fields: Sequence[str]) -> Callable[[Outcome], Sequence[Any]]:
    read = attrgetter(*fields)
    return read if len(fields) > 1 else lambda outcome: (read(outcome),)


def all_points(metrics: GenAIMetrics, outcome: Outcome) -> list[Point]:
    """Give the points of a call: what the client measured, and the engine."""
    try:
        return [*client_points(metrics, outcome), *server_points(metrics, outcome)]
    except Exception as error:  # here it may be a collection that asks, and there are other calls
        internal_errors.log_once("measuring a call", error)
        return []


def client_points(metrics: GenAIMetrics, outcome: Outcome) -> list[Point]:
    """Give the points of what the client measured. Chunk gaps are recorded as the chunks pass."""
    request, response = outcome.request, outcome.response
    if request.operation is None:
        return []  # each GenAI metric is one of a named operation
    client, attributes = metrics.client, metric_attributes(request, response.model)
    call = CallMeasurement(
        operation=request.operation,
        duration_s=outcome.duration_s,
        tokens=response.usage,
        attributes=_openai_attributes(attributes, request, response),
        error_type=None if outcome.error is None else outcome.error.type,
    )
    points = [*client.token_points(call), *client.duration_points(call)]
    if outcome.first_chunk_s is not None:
        points += client.first_chunk_points(outcome.first_chunk_s, attributes)
    return points


def _openai_attributes(
    attributes: AttributeSet, request: Request, response: Response
) -> AttributeSet:
    if request.provider not in OPENAI_PROVIDERS:
        return attributes
    if response.service_tier is not None:
        attributes = attributes.plus(names.OPENAI_RESPONSE_SERVICE_TIER, response.service_tier)
    fingerprint = _fingerprint(request, response)
    if fingerprint is not None:
        attributes = attributes.plus(names.OPENAI_RESPONSE_SYSTEM_FINGERPRINT, fingerprint)
    return attributes


def _fingerprint(request: Request, response: Response) -> str | None:
    # A server of one's own has one per build, or per reply: there would be a series for each.
    return response.system_fingerprint if is_run_by_openai(request.server) else None


def server_points(metrics: GenAIMetrics, outcome: Outcome) -> list[Point]:
    """Give the points of what the engine measured of a call, when it said so."""
    phases = outcome.phases
    # With several choices the timings are those of the first alone: true, but not the request's.
    if phases is None or outcome.request.choice_count != 1 or outcome.request.operation is None:
        return []
    attributes = metric_attributes(outcome.request, outcome.response.model)
    measured: list[tuple[Histogram, float | None]] = []
    if outcome.error is None:  # the conventions want these two of good replies only
        measured = [
            (metrics.server_time_to_first_token, phases.time_to_first_token_s),
            (metrics.server_time_per_output_token, phases.time_per_output_token_s),
        ]
    else:
        attributes = attributes.plus(names.ERROR_TYPE, outcome.error.type)
    measured.append((metrics.server_request_duration, phases.request_s))
    return [(histogram, value, attributes) for histogram, value in measured if value is not None]


def record_server_metrics(metrics: GenAIMetrics, outcome: Outcome, context: Context) -> None:
    """Record `server_points`, with exemplars that lead to the span in ``context``."""
    record_each(server_points(metrics, outcome), context)
