"""Name, type, unit, buckets and attributes of every metric of a call."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram

from tests.support import payloads
from tests.support.recorder import Recorder

DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (
    *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536),
    *(262144, 1048576, 4194304, 16777216, 67108864),
)
FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "llama_cpp",
    "gen_ai.request.model": "smol",
    "gen_ai.response.model": "smol-v1",
    "server.address": "llm.test",
    "server.port": 8080,
}


@pytest.fixture
def stream(instrumented: Recorder) -> Recorder:
    """Make one streamed call with timings to a known llama.cpp server."""
    body = payloads.sse(payloads.chat_chunks(timings=payloads.TIMINGS))
    client = payloads.client(lambda _: payloads.stream_response(body, server="llama.cpp"))
    list(client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True))
    return instrumented


@pytest.mark.parametrize(
    ("name", "unit", "boundaries", "counts"),
    [
        ("gen_ai.client.token.usage", "{token}", TOKENS, [1, 1]),
        ("gen_ai.client.operation.duration", "s", DURATION, [1]),
        ("gen_ai.client.operation.time_to_first_chunk", "s", DURATION, [1]),
        ("gen_ai.client.operation.time_per_output_chunk", "s", DURATION, [3]),
        ("gen_ai.server.request.duration", "s", DURATION, [1]),
        ("gen_ai.server.time_to_first_token", "s", FIRST_TOKEN, [1]),
        ("gen_ai.server.time_per_output_token", "s", PER_TOKEN, [1]),
    ],
)
def test_streamed_call_records_each_histogram(
    stream: Recorder, name: str, unit: str, boundaries: tuple[float, ...], counts: list[int]
) -> None:
    metric = stream.metrics()[name]
    assert metric.unit == unit
    assert metric.description
    assert isinstance(metric.data, Histogram)
    assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert [point.count for point in stream.points(name)] == counts
    for point in stream.points(name):
        assert tuple(point.explicit_bounds) == boundaries
        attributes: dict[str, Any] = dict(point.attributes)
        if name == "gen_ai.client.token.usage":
            assert attributes.pop("gen_ai.token.type") in {"input", "output"}
        assert attributes == CALL


def test_streamed_call_records_no_other_metric(stream: Recorder) -> None:
    assert len(stream.metrics()) == 7


def test_metric_values_equal_values_in_response(stream: Recorder) -> None:
    assert stream.tokens("input") == 21
    assert stream.tokens("output") == 5
    (per_token,) = stream.points("gen_ai.server.time_per_output_token")
    assert per_token.sum == pytest.approx(0.001)
    (first_token,) = stream.points("gen_ai.server.time_to_first_token")
    (request,) = stream.points("gen_ai.server.request.duration")
    assert request.sum == pytest.approx(first_token.sum + 0.004)


def test_plain_call_records_no_chunk_metrics(instrumented: Recorder) -> None:
    payloads.client(lambda _: payloads.json_response(payloads.chat())).chat.completions.create(
        model="smol", messages=payloads.MESSAGES
    )
    assert set(instrumented.metrics()) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
    }


def test_data_point_has_exemplar_with_trace_of_call(instrumented: Recorder) -> None:
    payloads.client(lambda _: payloads.json_response(payloads.chat())).chat.completions.create(
        model="smol", messages=payloads.MESSAGES
    )
    (duration,) = instrumented.points("gen_ai.client.operation.duration")
    (exemplar,) = duration.exemplars
    assert exemplar.span_id == instrumented.call().context.span_id


def test_server_metrics_are_left_out_for_several_choices(
    instrumented: Recorder,
) -> None:
    reply = payloads.chat(timings=payloads.TIMINGS)
    payloads.client(lambda _: payloads.json_response(reply)).chat.completions.create(
        model="smol", messages=payloads.MESSAGES, n=2
    )
    assert not any(name.startswith("gen_ai.server.") for name in instrumented.metrics())
    span = instrumented.call()
    assert span.attributes["gen_ai.request.choice.count"] == 2
    assert span.attributes["gen_ai.prefill_ms"] == 2.0
    assert "llamatelemetry.queue_duration" not in span.attributes
    assert instrumented.phases(span) == {}
