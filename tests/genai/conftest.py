"""Calls made by hand on real SDK providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import Call, Instrumenter, Request, Server
from tests.recorder import Recorder

SCOPE, VERSION = "test-plugin", "9.9"
LOCAL = Server(address="127.0.0.1", port=8080, origin="http://127.0.0.1:8080")


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
