"""Diagnostics of plain HTTP requests of httpx and httpx2."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.diagnostics import found
from tests.support.recorder import Recorder
from tests.support.scripted_stream import MESSAGES, Script, scripted_server

MARKS = {"connect", "sent", "headers", "last_data"}


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the age of data")


@contextmanager
def instrumented(recorder: Recorder, script: Script) -> Iterator[str]:
    """Run a server that the plugin takes for llama.cpp, and yield its origin."""
    with scripted_server(script) as origin:
        config = LlamaTelemetryConfig(diagnostics=True, llamacpp_allow=(origin,))
        LlamaCppInstrumentor().instrument(**recorder.providers, config=config)
        yield origin
        LlamaCppInstrumentor().uninstrument()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def origin(recorder: Recorder, script: Script) -> Iterator[str]:
    with instrumented(recorder, script) as origin:
        yield origin


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


@on_linux
def test_stream_of_requests_has_the_delay_of_its_data(recorder: Recorder, script: Script):
    with instrumented(recorder, script) as origin:
        url = f"{origin}/v1/chat/completions"
        body = {"messages": MESSAGES, "stream": True}
        with requests.Session() as session, session.post(url, json=body, stream=True) as response:
            lines = response.iter_lines()
            next(lines)
            assert script.sent.wait(10)
            time.sleep(0.08)
            for _ in lines:
                pass
    (marks,) = found(recorder, "client")
    assert marks.keys() >= {"headers", "last_data", "read_delay"}
    assert 0.04 < marks["read_delay"][-1] < marks["last_data"] + 0.01
    assert "trace" not in response.request.__dict__


def test_plain_response_of_requests_has_headers_and_last_data(recorder: Recorder, script: Script):
    with instrumented(recorder, script) as origin:
        requests.post(f"{origin}/v1/chat/completions", json={"messages": MESSAGES}, timeout=10)
    (marks,) = found(recorder, "client")
    assert marks["headers"] <= marks["last_data"]
    assert marks.keys() == {"headers", "last_data"}
