"""A real vLLM through HTTP libraries: the phases of each call equal the figures of its response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import requests
import urllib3

from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support.recorder import Recorder
from tests.support.vllm_server import MODEL, VllmServer

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(600)]

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hello " * 20}],
    "max_tokens": 8,
}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


def send_with_httpx2(url: str, body: dict[str, Any]) -> str:
    return httpx2.post(url, json=body, timeout=60).text


def send_with_requests(url: str, body: dict[str, Any]) -> str:
    return requests.post(url, json=body, timeout=60).text


def send_with_urllib3(url: str, body: dict[str, Any]) -> str:
    return urllib3.request("POST", url, json=body, timeout=60).data.decode()


def send_with_aiohttp(url: str, body: dict[str, Any]) -> str:
    aiohttp = pytest.importorskip("aiohttp")

    async def send() -> str:
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            return await response.text()

    return asyncio.run(send())


@pytest.fixture
def recorder(recorder: Recorder) -> Iterator[Recorder]:
    LlamaCppInstrumentor().instrument(**recorder.providers)
    yield recorder
    LlamaCppInstrumentor().uninstrument()


def metrics_in(text: str) -> dict[str, Any]:
    """Return `metrics` of a plain response, or of the last event of a stream that has them."""
    if text.startswith("{"):
        return json.loads(text)["metrics"]
    lines = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line]
    return next(
        each["metrics"] for line in reversed(lines) if "metrics" in (each := json.loads(line))
    )


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "send", [send_with_httpx2, send_with_requests, send_with_urllib3, send_with_aiohttp]
)
def test_phases_equal_the_figures_of_the_response(
    recorder: Recorder, server: VllmServer, send: Callable[..., str], body: dict[str, Any]
) -> None:
    metrics = metrics_in(send(f"{server.url}/chat/completions", body))
    (span,) = recorder.calls()
    found = dict(span.attributes or {})
    assert found["gen_ai.provider.name"] == "vllm"
    assert found["gen_ai.prefill_ms"] == pytest.approx(metrics["time_to_first_token_ms"])
    assert found["gen_ai.decode_ms"] == pytest.approx(metrics["generation_time_ms"])
    assert found["llamatelemetry.queue_duration"] == pytest.approx(metrics["queue_time_ms"] / 1000)
    assert found["llamatelemetry.queue_source"] == "engine"
    assert found["gen_ai.usage.output_tokens"] == 8
