"""Diagnostics of plain HTTP requests of httpx and httpx2."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import openai
import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.genai.diagnostics.conftest import found
from tests.genai.diagnostics.scripted_stream import MESSAGES, Script, scripted_server
from tests.support.recorder import Recorder

MARKS = {"connect", "sent", "headers", "last_data"}


@pytest.fixture
def origin(recorder: Recorder) -> Any:
    with scripted_server(Script()) as origin:
        config = LlamaTelemetryConfig(diagnostics=True, llamacpp_allow=(origin,))
        LlamaCppInstrumentor().instrument(**recorder.providers, config=config)
        yield origin
        LlamaCppInstrumentor().uninstrument()


def send(library: Any, url: str, stream: bool) -> Any:
    with library.Client() as client:
        request = client.build_request("POST", url, json={"messages": MESSAGES, "stream": stream})
        response = client.send(request, stream=stream)
        response.read()
    return request


def send_async(library: Any, url: str, stream: bool) -> Any:
    async def run() -> Any:
        async with library.AsyncClient() as client:
            request = client.build_request(
                "POST", url, json={"messages": MESSAGES, "stream": stream}
            )
            response = await client.send(request, stream=stream)
            await response.aread()
        return request

    return asyncio.run(run())


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("sender", [send, send_async])
@pytest.mark.parametrize("stream", [True, False])
def test_request_has_marks_and_keeps_its_extensions(
    recorder: Recorder, origin: str, library: Any, sender: Any, stream: bool
):
    request = sender(library, f"{origin}/v1/chat/completions", stream)
    assert "trace" not in request.extensions
    span = recorder.call()
    assert "llamatelemetry.prompt.sections" in (span.attributes or {})
    (marks,) = found(recorder, "client")
    assert marks.keys() >= MARKS
    assert [marks[name] for name in ("sent", "headers", "last_data")] == sorted(
        marks[name] for name in ("sent", "headers", "last_data")
    )


def test_request_of_an_instrumented_client_is_diagnosed_once(recorder: Recorder, origin: str):
    config = LlamaTelemetryConfig(diagnostics=True)
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        with openai.OpenAI(base_url=f"{origin}/v1", api_key="none") as client:
            client.chat.completions.create(model="m", messages=MESSAGES)
    finally:
        OpenAIInstrumentor().uninstrument()
    (marks,) = found(recorder, "client")
    assert marks.keys() >= MARKS
