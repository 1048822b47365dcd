"""Metric names by option, and the attributes that only OpenAI's responses add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

V1_41 = {
    "gen_ai.client.token.usage",
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
}
LATEST = {
    "gen_ai.client.inference.duration",
    "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.inference.time_per_output_chunk",
    "gen_ai.client.inference.operation.input_tokens",
    "gen_ai.client.inference.operation.output_tokens",
    "gen_ai.client.inference.usage.input_tokens",
    "gen_ai.client.inference.usage.output_tokens",
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    "gen_ai.client.inference.usage.reasoning.output_tokens",
}
SERVER = {
    "gen_ai.server.request.duration",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.time_per_output_token",
}


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., None]]:
    def instrument(**options: Any) -> None:
        config = LlamaTelemetryConfig(**options)
        OpenAIInstrumentor().instrument(**recorder.providers, config=config)

    yield instrument
    OpenAIInstrumentor().uninstrument()


def stream(**options: Any) -> None:
    last = {"usage": payloads.USAGE, "timings": payloads.TIMINGS}
    body = payloads.sse(payloads.chat_chunks(**last))
    client = payloads.client(lambda _: payloads.stream_response(body), **options)
    list(client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True))


@pytest.mark.parametrize(
    ("names", "expected"), [("v1.41", V1_41), ("latest", LATEST), ("both", V1_41 | LATEST)]
)
def test_metric_names_option_renames_client_metrics_only(instrument, recorder, names, expected):
    instrument(metric_names=names)
    stream()
    assert set(recorder.metrics()) == expected | SERVER
    for name in expected:
        if name.endswith("time_per_output_chunk"):
            assert [point.count for point in recorder.points(name)] == [3]
        if name.endswith("usage.input_tokens"):
            assert [point.value for point in recorder.points(name)] == [21]


@pytest.mark.parametrize(
    ("opted_in", "expected"),
    [
        ("gen_ai_latest_experimental", LATEST),
        ("http,gen_ai_latest_experimental/dup", V1_41 | LATEST),
        ("http", V1_41),
    ],
)
def test_semconv_stability_variable_selects_metric_names(
    instrument, recorder, monkeypatch, opted_in, expected
):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opted_in)
    instrument()
    stream()
    assert set(recorder.metrics()) == expected | SERVER


def test_failed_call_records_zero_tokens(instrument, recorder):
    instrument(metric_names="latest")
    client = payloads.client(lambda _: payloads.error_response(429, type="tokens"))
    with pytest.raises(Exception, match="429"):
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    (usage,) = recorder.points("gen_ai.client.inference.usage.input_tokens")
    assert usage.value == 0
    assert usage.attributes["gen_ai.token.modality"] == "unknown"
    (duration,) = recorder.points("gen_ai.client.inference.duration")
    assert duration.attributes["error.type"] == "tokens"


TIER, FINGERPRINT = "openai.response.service_tier", "openai.response.system_fingerprint"
REPLIED = {"service_tier": "flex", "system_fingerprint": "fp_44709d6fcb"}


@pytest.mark.parametrize("names", ["v1.41", "latest"])
@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1", {TIER: "flex", FINGERPRINT: "fp_44709d6fcb"}),
        ("https://corp.openai.azure.com/v1", {TIER: "flex", FINGERPRINT: "fp_44709d6fcb"}),
        # A self-hosted server would get one time series for each build.
        ("http://vllm.internal:8000/v1", {TIER: "flex"}),
        # The openai.* attributes would contradict the name of another provider.
        ("https://api.groq.com/openai/v1", {}),
    ],
)
def test_openai_metrics_have_service_tier_and_fingerprint(
    instrument, recorder, names, base_url, expected
):
    instrument(metric_names=names)
    chunks = [{**chunk, **REPLIED} for chunk in payloads.chat_chunks(usage=payloads.USAGE)]
    client = payloads.client(
        lambda _: payloads.stream_response(payloads.sse(chunks)), base_url=base_url
    )
    list(client.chat.completions.create(model="gpt", messages=payloads.MESSAGES, stream=True))
    found = {
        name: {key: value for key, value in point.attributes.items() if key.startswith("openai.")}
        for name in recorder.metrics()
        for point in recorder.points(name)
    }
    assert found == {name: {} if "chunk" in name else expected for name in found}
    assert len(found) == len(V1_41 if names == "v1.41" else LATEST)


def test_llama_cpp_metrics_have_no_service_tier_or_fingerprint(instrument, recorder):
    instrument()
    reply = payloads.chat(**REPLIED, timings=payloads.TIMINGS)
    client = payloads.client(lambda _: payloads.json_response(reply))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert not {TIER, FINGERPRINT} & set(duration.attributes)
