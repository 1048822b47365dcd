"""Another package's wrapper around the method that the plugin wraps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import wrapt

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder


@pytest.fixture
def proxied(recorder: Recorder) -> Iterator[Recorder]:
    """Wrap each result in a proxy below the plugin, as OpenInference does with streams."""

    def other_wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapt.ObjectProxy(wrapped(*args, **kwargs))

    wrapt.wrap_function_wrapper("openai._client", "OpenAI.request", other_wrapper)
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield recorder
    OpenAIInstrumentor().uninstrument()
    del openai.OpenAI.request


def test_stream_in_object_proxy_is_recorded(proxied: Recorder) -> None:
    body = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE, timings=payloads.TIMINGS))
    client = payloads.client(lambda _: payloads.stream_response(body))
    stream = client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True)
    assert proxied.calls() == []
    assert len(list(stream)) == 4
    attributes = proxied.call().attributes
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.decode_ms"] == 4.0
    assert "gen_ai.response.time_to_first_chunk" in attributes


def test_response_in_object_proxy_is_recorded(proxied: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert proxied.call().attributes["gen_ai.usage.output_tokens"] == 5


def test_raw_response_in_object_proxy_is_recorded(proxied: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    raw = client.chat.completions.with_raw_response.create(model="smol", messages=payloads.MESSAGES)
    assert raw.parse().id == "chatcmpl-1"
    assert proxied.call().attributes["gen_ai.usage.output_tokens"] == 5
