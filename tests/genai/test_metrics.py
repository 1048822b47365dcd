"""Points of calls that wait, of which only the values are kept, are those of each call by itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.genai.errors import ErrorInfo
from llamatelemetry.genai.metrics import all_points, layout_of, series_of
from llamatelemetry.genai.model import Request, Response, Server, Usage
from llamatelemetry.genai.phases import Phases
from llamatelemetry.genai.spans import Outcome
from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
from llamatelemetry.otel.late_points import LatePoints
from llamatelemetry.otel.points import record_each
from tests.otel.test_points import timeless

URL = "https://api.openai.com:443"
SERVERS = [
    None,
    Server("api.openai.com", 443, URL, "openai"),
    Server("api.openai.com", 443, URL),  # by a client that is for nobody in particular
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
    phases=Phases(0.1, 0.2, 0.3, "header", 0.02),
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


KINDS = {
    f"{part}.{field}={value}": varied(part, field, value)
    for part, fields in VARIATIONS.items()
    for field, values in fields.items()
    for value in values
}


def collected(calls: list[tuple[Outcome, bool]], names: str, *, is_late: bool) -> Any:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("m")
    metrics = GenAIMetrics(meter, names=names)
    late: LatePoints[Outcome] = LatePoints(
        meter,
        metrics.server_request_duration,
        partial(all_points, metrics),
        partial(layout_of, metrics),
    )
    for number, (outcome, sampled) in enumerate(calls, 1):
        span = SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(sampled))
        context = trace.set_span_in_context(NonRecordingSpan(span))
        if is_late:
            late.record(outcome, series_of(outcome), span, context)
        else:
            record_each(all_points(metrics, outcome), context)
    data = reader.get_metrics_data()
    provider.shutdown()
    found = [] if data is None else timeless(data.to_json())["resource_metrics"][0]["scope_metrics"]
    points = {
        metric["name"]: metric["data"]["data_points"] for one in found for metric in one["metrics"]
    }
    for point in points.values():
        point.sort(key=lambda each: sorted(map(str, each["attributes"].items())))
        for each in point:
            if "bucket_counts" not in each:
                del each["exemplars"]  # of a sum, the SDK keeps some that it draws by lot
    return points


@pytest.mark.parametrize("names", ["v1.41", "latest", "both"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_calls_that_wait_have_the_points_of_each_by_itself(names, kind):
    turns = [FULL, kind, kind, FULL, FULL, kind, FULL]
    calls = [
        (replace(outcome, duration_s=outcome.duration_s + number), number % 3 > 0)
        for number, outcome in enumerate(turns)
    ]
    by_itself = collected(calls, names, is_late=False)
    assert by_itself
    assert collected(calls, names, is_late=True) == by_itself


def test_of_a_series_that_has_begun_the_values_are_kept_and_not_the_call():
    metrics = GenAIMetrics(MeterProvider().get_meter("m"))
    outcome = replace(FULL, first_chunk_s=None, phases=None)
    layout = layout_of(metrics, outcome)
    assert layout is not None
    assert sorted(layout.read(outcome)) == [0.7, 5, 21]
    assert [histogram for histogram, _ in layout.places].count(metrics.client.token_usage) == 2
    assert layout_of(GenAIMetrics(MeterProvider().get_meter("m"), names="latest"), outcome) is None


def test_a_server_that_signs_each_reply_anew_has_one_series():
    by_reply = [
        replace(
            FULL,
            request=replace(FULL.request, server=SERVERS[3]),
            response=replace(FULL.response, system_fingerprint=fingerprint),
        )
        for fingerprint in ("fp-1", "fp-2")
    ]
    assert len({series_of(outcome) for outcome in by_reply}) == 1
    of_openai = [replace(outcome, request=FULL.request) for outcome in by_reply]
    assert len({series_of(outcome) for outcome in of_openai}) == 2
