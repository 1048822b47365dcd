"""The clients with the llama.cpp plugin active: one span per call, not two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support.llama_clients import Driver
from tests.support.llama_server import LlamaServer
from tests.support.recorder import Recorder

HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def instrumented(recorded: Recorder) -> Iterator[Recorder]:
    LlamaCppInstrumentor().instrument(**recorded.providers)
    yield recorded
    LlamaCppInstrumentor().uninstrument()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_call_records_one_span_and_one_measurement_when_httpx_is_instrumented(
    kind, stream, instrumented, llama_server: LlamaServer
):
    with Driver(kind, llama_server.url) as driver:
        driver("chat", HELLO, max_tokens=3, stream=stream)
        driver("complete", "Hello", n_predict=3, stream=stream)
        driver("tokenize", "Hello")
    spans = instrumented.calls()
    assert [span.name for span in spans] == ["chat", "text_completion"]
    for span in spans:
        assert span.instrumentation_scope.name == "llamatelemetry.llama"
        assert "http.request.resend_count" not in span.attributes
        assert set(instrumented.phases(span)) == {"queue", "prefill", "decode"}
    assert instrumented.tokens("output") == 6
    points = instrumented.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in points) == 2
