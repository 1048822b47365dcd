"""GenAIMetrics on a real SDK meter: what arrives at an exporter."""

from __future__ import annotations

import inspect

import pytest
from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics.export import AggregationTemporality

from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
from llamatelemetry.semconv import metrics as specs
from tests.support.recorder import Recorder

COMMON = {"gen_ai_system": "llama.cpp", "operation": "chat", "model": "smol"}
RECORDED = {
    "gen_ai.provider.name": "llama_cpp",
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "smol",
}
# One method each, with the instrument it records to.
DURATIONS = {
    "record_operation_duration": "gen_ai.client.operation.duration",
    "record_server_duration": "gen_ai.server.request.duration",
    "record_ttft": "gen_ai.server.time_to_first_token",
    "record_tpot": "gen_ai.server.time_per_output_token",
}


def metrics_on(recorder: Recorder) -> GenAIMetrics:
    return GenAIMetrics(get_meter("test", "1", recorder.meter_provider))


@pytest.fixture
def metrics(recorder):
    return metrics_on(recorder)


def test_server_instruments_match_conventions(metrics, recorder):
    metrics.server_request_duration.record(0.5)
    metrics.server_time_to_first_token.record(0.5)
    metrics.server_time_per_output_token.record(0.5)
    exported = {
        name: (
            metric.unit,
            metric.description,
            tuple(metric.data.data_points[0].explicit_bounds),
            metric.data.aggregation_temporality,
        )
        for name, metric in recorder.metrics().items()
    }
    assert exported == {
        spec.name: (spec.unit, spec.description, spec.boundaries, AggregationTemporality.CUMULATIVE)
        for spec in (
            specs.SERVER_REQUEST_DURATION,
            specs.SERVER_TIME_TO_FIRST_TOKEN,
            specs.SERVER_TIME_PER_OUTPUT_TOKEN,
        )
    }


def test_record_token_usage_records_input_and_output_types(metrics, recorder):
    metrics.record_token_usage(11, 300, **COMMON, server_address="localhost", server_port=8080)
    base = {**RECORDED, "server.address": "localhost", "server.port": 8080}
    points = recorder.points("gen_ai.client.token.usage")
    assert list(recorder.metrics()) == ["gen_ai.client.token.usage"]
    assert [(dict(p.attributes), p.sum, p.count) for p in points] == [
        ({**base, "gen_ai.token.type": "input"}, 11, 1),
        ({**base, "gen_ai.token.type": "output"}, 300, 1),
    ]
    # up to 1, 4, 16, 64, 256, 1024 ...
    assert list(points[0].bucket_counts[:6]) == [0, 0, 1, 0, 0, 0]
    assert list(points[1].bucket_counts[:6]) == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("counts", "recorded"),
    [
        ((5, None), {"input": 5}),
        ((None, 7), {"output": 7}),
        ((None, None), {}),
        ((0, 0), {"input": 0, "output": 0}),
    ],
)
def test_record_token_usage_skips_unknown_counts_and_records_zero(
    metrics, recorder, counts, recorded
):
    metrics.record_token_usage(*counts, **COMMON)
    points = recorder.points("gen_ai.client.token.usage")
    assert {p.attributes["gen_ai.token.type"]: p.sum for p in points} == recorded


@pytest.mark.parametrize(("method", "name"), DURATIONS.items())
def test_duration_methods_record_to_their_histogram_with_all_attributes(
    metrics, recorder, method, name
):
    getattr(metrics, method)(
        0.3,
        **COMMON,
        server_address="localhost",
        response_model="smol-q4",
        error_type="timeout",
        team="search",
        unknown=None,
        **{"gen_ai.response.id": "r"},
    )
    assert list(recorder.metrics()) == [name]
    (point,) = recorder.points(name)
    assert (point.count, point.sum) == (1, 0.3)
    assert dict(point.attributes) == {
        **RECORDED,
        "server.address": "localhost",
        "gen_ai.response.model": "smol-q4",
        "error.type": "timeout",
        "team": "search",
        "gen_ai.response.id": "r",
    }


@pytest.mark.parametrize("method", [*DURATIONS, "record_token_usage"])
def test_duration_methods_omit_unknown_model(metrics, recorder, method):
    values = (1, None) if method == "record_token_usage" else (1.0,)
    getattr(metrics, method)(*values, gen_ai_system="openai", operation="chat", model=None)
    (metric,) = recorder.metrics().values()
    (point,) = metric.data.data_points
    attributes = dict(point.attributes)
    attributes.pop("gen_ai.token.type", None)
    assert attributes == {"gen_ai.provider.name": "openai", "gen_ai.operation.name": "chat"}


@pytest.mark.parametrize("method", [*DURATIONS, "record_token_usage"])
def test_record_methods_require_system_operation_and_model_keywords(method):
    parameters = inspect.signature(getattr(GenAIMetrics, method)).parameters
    wanted = {
        name
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert wanted == {"gen_ai_system", "operation", "model"}


def test_names_default_to_v1_41(recorder):
    meter = get_meter("test", "1", recorder.meter_provider)
    for names in ({}, {"names": "v1.41"}):
        GenAIMetrics(meter, **names).record_operation_duration(1.0, **COMMON)
    assert list(recorder.metrics()) == ["gen_ai.client.operation.duration"]


def test_record_token_usage_skips_unknown_counts_under_latest_names(recorder):
    metrics = GenAIMetrics(get_meter("test", "1", recorder.meter_provider), names="latest")
    metrics.record_operation_duration(1.0, **COMMON)
    metrics.record_token_usage(5, None, **COMMON)
    metrics.record_token_usage(None, None, **COMMON)
    assert set(recorder.metrics()) == {
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.operation.input_tokens",
    }
    (point,) = recorder.points("gen_ai.client.inference.usage.input_tokens")
    assert (point.value, dict(point.attributes)) == (
        5,
        {**RECORDED, "gen_ai.token.modality": "unknown"},
    )


def test_unknown_names_raise_value_error_with_accepted_names(recorder):
    with pytest.raises(ValueError, match=r"one of v1\.41, latest, both, got 'v2'"):
        GenAIMetrics(get_meter("test", "1", recorder.meter_provider), names="v2")


def test_instances_on_two_meters_are_independent():
    first, second = Recorder(), Recorder()
    metrics_on(first).record_operation_duration(1.0, **COMMON)
    metrics_on(second).record_operation_duration(2.0, **COMMON)
    metrics_on(second).record_operation_duration(4.0, **COMMON)
    name = "gen_ai.client.operation.duration"
    assert [(p.count, p.sum) for p in first.points(name)] == [(1, 1.0)]
    assert [(p.count, p.sum) for p in second.points(name)] == [(2, 6.0)]


def test_instance_created_after_shutdown_records():
    before, after = Recorder(), Recorder()
    metrics_on(before).record_ttft(0.1, **COMMON)
    before.meter_provider.shutdown()
    metrics_on(after).record_ttft(0.2, **COMMON)
    assert [p.sum for p in after.points("gen_ai.server.time_to_first_token")] == [0.2]
