"""Fixtures and requests for tests that record calls with real SDK providers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import (
    Call,
    EngineTimings,
    Instrumenter,
    Request,
    Response,
    Server,
    Usage,
    deferred_metrics,
)
from llamatelemetry.genai.content.limits import limit_messages
from llamatelemetry.genai.deferred_metrics import wait_for_thread
from tests.genai.library import SOURCE, Library, library_numbers
from tests.genai.meters import Meters
from tests.support.message_schemas import check_messages
from tests.support.recorder import Recorder

SCOPE, VERSION = "test-plugin", "9.9"
LOCAL = Server(address="127.0.0.1", port=8080, origin="http://127.0.0.1:8080")
OTHER_SERVER = Server(address="127.0.0.1", port=9090, origin="http://127.0.0.1:9090")
# Attributes of every span and metric of a call of `chat()`.
COMMON = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
# Timings of llama.cpp: 20 ms of prefill, then 4 further tokens in 40 ms.
TIMINGS = EngineTimings(
    prompt_tokens=7,
    prefill_ms=20.0,
    predicted_tokens=5,
    decode_ms=40.0,
    cached_tokens=3,
    provider="llama_cpp",
    is_queue_derivable=True,
)
DURATION = "gen_ai.client.operation.duration"
CLIENT_METRICS = {"gen_ai.client.token.usage", DURATION}
SERVER_METRICS = {
    "gen_ai.server.request.duration",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.time_per_output_token",
}


def chat(**changes: Any) -> Request:
    """Return a chat request to a local server."""
    defaults: dict[str, Any] = {
        "operation": "chat",
        "provider": "openai",
        "model": "smol",
        "server": LOCAL,
    }
    return Request(**{**defaults, **changes})


def chat_response(**changes: Any) -> Response:
    """Return a response with 10 input tokens and 5 output tokens."""
    usage = Usage(input_tokens=10, output_tokens=5)
    return Response(id="r", model="smol-q4", usage=usage, **changes)


def make_call(instrumenter: Instrumenter, response: Response, **changes: Any) -> Call:
    """Make one call as a plugin does. `changes` are fields of its request."""
    call = instrumenter.start(chat(**changes))
    assert call is not None
    token = call.activate()
    call.start_attempt()
    if response.timings is not None:
        time.sleep(0.07)  # The engine's timings take 60 ms, so the attempt must take longer.
    call.deactivate(token)
    call.finish(response)
    return call


def recorded_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages as they are recorded, after a check against the schema."""
    limited = limit_messages(messages, 1000)
    check_messages(limited)
    return limited


@pytest.fixture
def make_instrumenter(recorder: Recorder) -> Callable[..., Instrumenter]:
    """Return a function that creates an instrumenter from options and providers.

    The default providers are those of the recorder.
    """

    def make(**options: Any) -> Instrumenter:
        providers = {name: options.pop(name, value) for name, value in recorder.providers.items()}
        return Instrumenter(SCOPE, VERSION, config=LlamaTelemetryConfig(**options), **providers)

    return make


@pytest.fixture
def instrumenter(make_instrumenter: Callable[..., Instrumenter]) -> Instrumenter:
    return make_instrumenter()


@pytest.fixture
def start(instrumenter: Instrumenter) -> Callable[..., Call]:
    """Return a function that starts a chat call."""

    def start(**changes: Any) -> Call:
        call = instrumenter.start(chat(**changes))
        assert call is not None
        return call

    return start


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    name = f"patched_library_{next(library_numbers)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield Library(name)
    sys.modules.pop(name, None)


@pytest.fixture
def empty_queue() -> Iterator[None]:
    """Record the measurements of earlier tests, and wait for the thread after the test."""
    deferred_metrics._queue.record()
    yield
    wait_for_thread(5)


@pytest.fixture
def meters(empty_queue: None) -> Iterator[Meters]:
    created = Meters()
    yield created
    created.provider.shutdown()
