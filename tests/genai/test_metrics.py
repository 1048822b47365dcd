"""Metrics of calls: deferred recording yields the same data as immediate recording."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.genai import ErrorInfo, Phases, Request, Response, Server, Usage
from llamatelemetry.genai import metrics as call_metrics
from llamatelemetry.genai.metrics import CallMetrics
from llamatelemetry.genai.model import Outcome
from llamatelemetry.otel.client_metrics import record_measurements
from tests.genai.meters import without_times

URL = "https://api.openai.com:443"
SERVERS = [
    None,
    Server("api.openai.com", 443, URL, "openai"),
    Server("api.openai.com", 443, URL),  # A client that works with any provider.
    Server("127.0.0.1", 8080, "http://127.0.0.1:8080"),
]


FULL = Outcome(
    Request("chat", "openai", "a", SERVERS[1]),
    Response(
        model="a",
        usage=Usage(21, 5, cache_read_tokens=3, audio_input_tokens=2),
        service_tier="flex",
        system_fingerprint="fp",
    ),
    error=None,
    duration_s=0.7,
    attempt_s=0.7,
    attempt_wall_ns=0,
    ended_wall_ns=0,
    resend_count=0,
    first_chunk_s=0.1,
    phases=Phases(0.1, 0.2, 0.3, "header", 0.02, 0.4, 0.6),
)
VARIATIONS: dict[str, dict[str, list[Any]]] = {
    "request": {
        "operation": ["embeddings", "fetch_response", None],
        "provider": ["llama_cpp"],
        "model": ["b", None],
        "server": [SERVERS[0], SERVERS[2], SERVERS[3]],
        "choice_count": [2],
    },
    "response": {
        "model": ["b", None],
        "usage": [Usage(), Usage(7), Usage(None, 7), Usage(7, 7)],
        "service_tier": ["default", None],
        "system_fingerprint": ["other", None],
    },
    "phases": {
        "queue_s": [None, 0.0],
        "time_per_output_token_s": [None, 0.5],
    },
    "": {
        "error": [ErrorInfo("timeout", "late"), ErrorInfo("429", "too many")],
        "first_chunk_s": [None, 30.0],
        "phases": [None],
        "duration_s": [30.0],
    },
}


def varied(part: str, field: str, value: Any) -> Outcome:
    if not part:
        return replace(FULL, **{field: value})
    return replace(FULL, **{part: replace(getattr(FULL, part), **{field: value})})


VARIANTS = {
    f"{part}.{field}={value}": varied(part, field, value)
    for part, fields in VARIATIONS.items()
    for field, values in fields.items()
    for value in values
}


def collected(calls: list[tuple[Outcome, bool]], names: str, *, is_deferred: bool) -> Any:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics = CallMetrics(provider.get_meter("m"), names)
    for number, (outcome, sampled) in enumerate(calls, 1):
        span = NonRecordingSpan(
            SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(sampled))
        )
        if is_deferred:
            metrics.record(outcome, span)
        else:
            record_measurements(metrics.measurements(outcome), trace.set_span_in_context(span))
    data = reader.get_metrics_data()
    provider.shutdown()
    scopes = (
        []
        if data is None
        else without_times(data.to_json())["resource_metrics"][0]["scope_metrics"]
    )
    points = {
        metric["name"]: metric["data"]["data_points"]
        for scope in scopes
        for metric in scope["metrics"]
    }
    for point in points.values():
        point.sort(key=lambda each: sorted(map(str, each["attributes"].items())))
        for each in point:
            if "bucket_counts" not in each:
                del each["exemplars"]  # The SDK keeps a random sample of them for a sum.
    return points


@pytest.mark.parametrize("names", ["v1.41", "latest", "both"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_deferred_metrics_equal_immediate_metrics(names, variant):
    outcomes = [FULL, variant, variant, FULL, FULL, variant, FULL]
    calls = [
        (replace(outcome, duration_s=outcome.duration_s + number), number % 3 > 0)
        for number, outcome in enumerate(outcomes)
    ]
    immediate = collected(calls, names, is_deferred=False)
    assert immediate
    assert collected(calls, names, is_deferred=True) == immediate


def test_only_engine_metrics_are_recorded_when_client_is_false():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics = CallMetrics(provider.get_meter("m"), "v1.41")
    for _ in range(3):
        metrics.record(FULL, trace.INVALID_SPAN, client=False)
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    counts = {metric.name: metric.data.data_points[0].count for metric in scope.metrics}
    assert counts == {
        "gen_ai.server.time_to_first_token": 3,
        "gen_ai.server.time_per_output_token": 3,
        "gen_ai.server.request.duration": 3,
    }
    provider.shutdown()


def test_queued_measurements_do_not_change_when_call_changes():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics = CallMetrics(provider.get_meter("m"), "v1.41")
    calls = [replace(FULL, request=replace(FULL.request)) for _ in range(3)]
    for outcome in calls:
        metrics.record(outcome, trace.INVALID_SPAN)
    for outcome in calls:
        outcome.request.provider = "another"
        outcome.duration_s = 100.0
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    (duration,) = [m for m in scope.metrics if m.name == "gen_ai.client.operation.duration"]
    (point,) = duration.data.data_points
    assert point.sum == pytest.approx(3 * FULL.duration_s)
    assert point.attributes["gen_ai.provider.name"] == "openai"
    provider.shutdown()


def test_system_fingerprint_starts_series_for_openai_server_only():
    outcomes = [
        replace(
            FULL,
            request=replace(FULL.request, server=SERVERS[3]),
            response=replace(FULL.response, system_fingerprint=fingerprint),
        )
        for fingerprint in ("fp-1", "fp-2")
    ]
    assert len({call_metrics._series_of(outcome, True) for outcome in outcomes}) == 1
    openai_outcomes = [replace(outcome, request=FULL.request) for outcome in outcomes]
    assert len({call_metrics._series_of(outcome, True) for outcome in openai_outcomes}) == 2
