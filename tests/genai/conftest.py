"""Calls made by hand on real SDK providers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import Call, EngineTimings, Instrumenter, Request, Server
from tests.genai.library import SOURCE, Library, library_numbers
from tests.support.recorder import Recorder

SCOPE, VERSION = "test-plugin", "9.9"
LOCAL = Server(address="127.0.0.1", port=8080, origin="http://127.0.0.1:8080")
OTHER_SERVER = Server(address="127.0.0.1", port=9090, origin="http://127.0.0.1:9090")
# The attributes of every span and metric of `chat()`.
COMMON = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
# What llama.cpp reports: 20 ms of prompt, then 4 later tokens in 40 ms.
TIMINGS = EngineTimings(
    prompt_tokens=7, prefill_ms=20.0, predicted_tokens=5, decode_ms=40.0, cached_tokens=3
)
DURATION = "gen_ai.client.operation.duration"


def chat(**changes: Any) -> Request:
    """A chat request to a local server."""
    given: dict[str, Any] = {
        "operation": "chat",
        "provider": "openai",
        "model": "smol",
        "server": LOCAL,
    }
    return Request(**{**given, **changes})


@pytest.fixture
def make_instrumenter(recorder: Recorder) -> Callable[..., Instrumenter]:
    """An instrumenter that writes to the recorder; arguments are options or other providers."""

    def make(**options: Any) -> Instrumenter:
        providers = {name: options.pop(name, value) for name, value in recorder.providers.items()}
        return Instrumenter(SCOPE, VERSION, config=LlamaTelemetryConfig(**options), **providers)

    return make


@pytest.fixture
def instrumenter(make_instrumenter: Callable[..., Instrumenter]) -> Instrumenter:
    return make_instrumenter()


@pytest.fixture
def start(instrumenter: Instrumenter) -> Callable[..., Call]:
    """Start a chat call that must not be refused."""

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
