"""Every metric of a call under each set of names: name, kind, unit, buckets, attributes, values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics.export import Histogram, Sum

from llamatelemetry.genai import Usage
from llamatelemetry.otel import client_metrics as module
from llamatelemetry.otel.client_metrics import (
    CallMeasurement,
    client_metrics,
    record_measurements,
)
from tests.support.bucket_boundaries import DURATION, TOKENS
from tests.support.recorder import Recorder

BASE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt",
    "gen_ai.response.model": "gpt-1",
    "server.address": "api.openai.com",
    "server.port": 443,
}
PRICED = {
    **BASE,
    "openai.response.service_tier": "default",
    "openai.response.system_fingerprint": "fp",
}
FAILED = {**PRICED, "error.type": "timeout"}
UNKNOWN = {**PRICED, "gen_ai.token.modality": "unknown"}
USAGE = Usage(
    input_tokens=21,
    output_tokens=8,
    cache_read_tokens=16,
    cache_write_tokens=3,
    reasoning_tokens=2,
)


@dataclass
class Exported:
    """One metric as an exporter sees it. The values of a histogram are its sums."""

    kind: str
    unit: str
    buckets: tuple[float, ...] | None
    points: list[tuple[Any, dict[str, Any]]]


def exported(recorder: Recorder) -> dict[str, Exported]:
    found = {}
    for name, metric in recorder.metrics().items():
        data = metric.data
        assert metric.description
        if isinstance(data, Histogram):
            buckets = {tuple(point.explicit_bounds) for point in data.data_points}
            points = [(point.sum, dict(point.attributes)) for point in data.data_points]
            assert {point.count for point in data.data_points} == {1}
            found[name] = Exported("histogram", metric.unit, *buckets, points)
        else:
            assert isinstance(data, Sum)
            assert data.is_monotonic
            points = [(point.value, dict(point.attributes)) for point in data.data_points]
            assert all(type(value) is int for value, _ in points)
            found[name] = Exported("counter", metric.unit, None, points)
    return found


def record(
    recorder: Recorder,
    names: str,
    *,
    operation: str = "chat",
    tokens: Usage = USAGE,
    error_type: str | None = None,
    stream: bool = True,
) -> dict[str, Exported]:
    """Record one call as an instrumentation does, and return the exported metrics."""
    metrics = client_metrics(get_meter("test", "1", recorder.meter_provider), names)
    base = {**BASE, "gen_ai.operation.name": operation}
    if stream:
        record_measurements(metrics.first_chunk_measurements(0.25, base))
        record_measurements((each, 0.5, base) for each in metrics.chunk_histograms)
    attributes = {**PRICED, "gen_ai.operation.name": operation}
    call = CallMeasurement(operation, 1.5, tokens, attributes, error_type)
    record_measurements([*metrics.token_measurements(call), *metrics.duration_measurements(call)])
    return exported(recorder)


V1_41 = {
    "gen_ai.client.token.usage": Exported(
        "histogram",
        "{token}",
        TOKENS,
        [
            (21, {**PRICED, "gen_ai.token.type": "input"}),
            (8, {**PRICED, "gen_ai.token.type": "output"}),
        ],
    ),
    "gen_ai.client.operation.duration": Exported("histogram", "s", DURATION, [(1.5, PRICED)]),
    "gen_ai.client.operation.time_to_first_chunk": Exported(
        "histogram", "s", DURATION, [(0.25, BASE)]
    ),
    "gen_ai.client.operation.time_per_output_chunk": Exported(
        "histogram", "s", DURATION, [(0.5, BASE)]
    ),
}
LATEST = {
    "gen_ai.client.inference.duration": Exported("histogram", "s", DURATION, [(1.5, PRICED)]),
    "gen_ai.client.inference.time_to_first_chunk": Exported(
        "histogram", "s", DURATION, [(0.25, BASE)]
    ),
    "gen_ai.client.inference.time_per_output_chunk": Exported(
        "histogram", "s", DURATION, [(0.5, BASE)]
    ),
    "gen_ai.client.inference.operation.input_tokens": Exported(
        "histogram", "{token}", TOKENS, [(21, PRICED)]
    ),
    "gen_ai.client.inference.operation.output_tokens": Exported(
        "histogram", "{token}", TOKENS, [(8, PRICED)]
    ),
    "gen_ai.client.inference.usage.input_tokens": Exported(
        "counter", "{token}", None, [(21, UNKNOWN)]
    ),
    "gen_ai.client.inference.usage.output_tokens": Exported(
        "counter", "{token}", None, [(8, UNKNOWN)]
    ),
    "gen_ai.client.inference.usage.cache_read.input_tokens": Exported(
        "counter", "{token}", None, [(16, UNKNOWN)]
    ),
    "gen_ai.client.inference.usage.cache_write.input_tokens": Exported(
        "counter", "{token}", None, [(3, UNKNOWN)]
    ),
    "gen_ai.client.inference.usage.reasoning.output_tokens": Exported(
        "counter", "{token}", None, [(2, UNKNOWN)]
    ),
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [("v1.41", V1_41), ("latest", LATEST), ("both", {**V1_41, **LATEST})],
)
def test_inference_records_exactly_the_metrics_of_its_names(recorder, names, expected):
    assert record(recorder, names) == expected


def test_embeddings_have_separate_metrics_under_latest_names(recorder):
    usage = Usage(input_tokens=21)
    found = record(recorder, "both", operation="embeddings", tokens=usage, stream=False)
    attributes = {**PRICED, "gen_ai.operation.name": "embeddings"}
    assert found == {
        "gen_ai.client.token.usage": Exported(
            "histogram", "{token}", TOKENS, [(21, {**attributes, "gen_ai.token.type": "input"})]
        ),
        "gen_ai.client.operation.duration": Exported(
            "histogram", "s", DURATION, [(1.5, attributes)]
        ),
        "gen_ai.client.embeddings.operation.input_tokens": Exported(
            "histogram", "{token}", TOKENS, [(21, attributes)]
        ),
        "gen_ai.client.embeddings.duration": Exported(
            "histogram", "s", DURATION, [(1.5, attributes)]
        ),
    }


def test_embeddings_record_only_duration_when_usage_is_unknown(recorder):
    found = record(recorder, "latest", operation="embeddings", tokens=Usage(), stream=False)
    assert list(found) == ["gen_ai.client.embeddings.duration"]


@pytest.mark.parametrize("names", ["v1.41", "latest", "both"])
@pytest.mark.parametrize("operation", ["retrieval", "fetch_response", "moderation"])
def test_other_operation_records_one_duration_under_v1_41_name(recorder, names, operation):
    found = record(recorder, names, operation=operation, tokens=Usage(), stream=False)
    assert list(found) == ["gen_ai.client.operation.duration"]
    (point,) = found["gen_ai.client.operation.duration"].points
    assert point == (1.5, {**PRICED, "gen_ai.operation.name": operation})


def test_v1_41_skips_unknown_token_counts(recorder):
    found = record(recorder, "v1.41", tokens=Usage(output_tokens=0))
    assert [
        (value, attributes["gen_ai.token.type"])
        for value, attributes in found["gen_ai.client.token.usage"].points
    ] == [(0, "output")]


COUNTERS = {
    f"gen_ai.client.inference.usage.{kind}_tokens"
    for kind in ("input", "output", "cache_read.input", "cache_write.input", "reasoning.output")
}
PER_OPERATION = {f"gen_ai.client.inference.operation.{kind}_tokens" for kind in ("input", "output")}


@pytest.mark.parametrize("operation", ["chat", "text_completion", "generate_content"])
def test_latest_counts_zero_of_unknown_modality_when_inference_has_no_usage(recorder, operation):
    found = record(recorder, "latest", operation=operation, tokens=Usage())
    named = {"gen_ai.operation.name": operation}
    assert {name: found[name].points for name in COUNTERS | PER_OPERATION} == {
        **{key: [(0, {**UNKNOWN, **named})] for key in COUNTERS},
        **{key: [(0, {**PRICED, **named})] for key in PER_OPERATION},
    }


def test_latest_skips_parts_missing_from_reported_usage(recorder):
    found = record(recorder, "latest", tokens=Usage(input_tokens=21, output_tokens=8))
    assert COUNTERS & set(found) == {
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens",
    }


def test_latest_puts_error_type_of_failed_inference_on_histograms_only(recorder):
    found = record(recorder, "latest", tokens=Usage(), error_type="timeout")
    assert {name: metric.points for name, metric in found.items()} == {
        **{key: [(0, UNKNOWN)] for key in COUNTERS},
        **{key: [(0, FAILED)] for key in PER_OPERATION},
        "gen_ai.client.inference.duration": [(1.5, FAILED)],
        "gen_ai.client.inference.time_to_first_chunk": [(0.25, BASE)],
        "gen_ai.client.inference.time_per_output_chunk": [(0.5, BASE)],
    }


def test_constant_removes_failed_calls_from_token_histograms(recorder, monkeypatch):
    monkeypatch.setattr(module, "_HISTOGRAMS_OF_FAILED_CALLS", False)
    found = record(recorder, "latest", tokens=Usage(), error_type="timeout")
    assert not PER_OPERATION & set(found)
    assert set(found) >= COUNTERS
    again = record(Recorder(), "latest", tokens=Usage())
    assert set(again) >= PER_OPERATION


def test_v1_41_puts_error_type_on_duration_and_not_on_tokens(recorder):
    found = record(recorder, "v1.41", error_type="timeout")
    assert found["gen_ai.client.operation.duration"].points == [(1.5, FAILED)]
    assert found["gen_ai.client.token.usage"] == V1_41["gen_ai.client.token.usage"]


@pytest.mark.parametrize(
    ("split", "points"),
    [
        ({"text_input_tokens": 15, "audio_input_tokens": 6}, {"text": 15, "audio": 6}),
        ({"image_input_tokens": 6}, {"image": 6, "unknown": 15}),
        ({"audio_input_tokens": 0}, {"unknown": 21}),
        ({"text_input_tokens": 15, "audio_input_tokens": 0}, {"text": 15, "unknown": 6}),
        ({"text_input_tokens": 22}, {"unknown": 21}),  # more than all there is
    ],
)
def test_latest_splits_input_tokens_by_reported_modality(recorder, split, points):
    usage = Usage(input_tokens=21, output_tokens=8, **split)
    found = record(recorder, "latest", tokens=usage)
    counter = found["gen_ai.client.inference.usage.input_tokens"]
    assert {a["gen_ai.token.modality"]: value for value, a in counter.points} == points
    # percentiles of modalities do not add up: the histogram is of all of them
    assert found["gen_ai.client.inference.operation.input_tokens"].points == [(21, PRICED)]


@pytest.mark.parametrize("kind", ["output", "cache_read.input"])
def test_latest_splits_output_and_cached_tokens_by_modality(recorder, kind):
    usage = Usage(
        input_tokens=10,
        output_tokens=8,
        text_output_tokens=5,
        audio_output_tokens=3,
        cache_read_tokens=8,
        text_cache_read_tokens=5,
        audio_cache_read_tokens=3,
    )
    found = record(recorder, "latest", tokens=usage)
    counter = found[f"gen_ai.client.inference.usage.{kind}_tokens"]
    assert {a["gen_ai.token.modality"]: value for value, a in counter.points} == {
        "text": 5,
        "audio": 3,
    }


@pytest.mark.parametrize("names", ["v1.41", "latest", "both"])
def test_exemplars_point_to_span_of_call(recorder, names):
    tracer = trace.get_tracer("test", tracer_provider=recorder.tracer_provider)
    span = tracer.start_span("call")
    context = trace.set_span_in_context(span)
    metrics = client_metrics(get_meter("test", "1", recorder.meter_provider), names)
    record_measurements(metrics.first_chunk_measurements(0.25, BASE), context)
    call = CallMeasurement("chat", 1.5, USAGE, PRICED)
    record_measurements(
        [*metrics.token_measurements(call), *metrics.duration_measurements(call)], context
    )
    led_to = {
        exemplar.span_id
        for metric in recorder.metrics().values()
        for point in metric.data.data_points
        for exemplar in point.exemplars or [None]
    }
    assert led_to == {span.get_span_context().span_id}
    span.end()


@pytest.mark.parametrize("names", ["v1.41", "latest", "both"])
def test_measurements_leave_given_attributes_unchanged(recorder, names):
    attributes = dict(PRICED)
    metrics = client_metrics(get_meter("test", "1", recorder.meter_provider), names)
    call = CallMeasurement("chat", 1.5, USAGE, attributes, "timeout")
    record_measurements([*metrics.token_measurements(call), *metrics.duration_measurements(call)])
    assert attributes == PRICED
