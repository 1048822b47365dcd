"""Fixtures that turn the llama.cpp plugin on and record to memory."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import server_metadata_cache
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support.recorder import Recorder


def wait_for_props() -> None:
    """Wait until every `GET /props` that the plugin sends has been answered."""
    for thread in threading.enumerate():
        if thread.name == "llamatelemetry-metadata":
            thread.join(15)


@pytest.fixture
def let_props_be_requested(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Hold back every `GET /props` of the plugin until the returned function is called.

    Without that, the server may answer before the call that triggered the request has ended.
    """
    is_allowed = threading.Event()
    open_url = urllib.request.OpenerDirector.open

    def open_when_allowed(*args: Any, **options: Any) -> Any:
        assert is_allowed.wait(30)
        return open_url(*args, **options)

    def let_props_be_requested() -> None:
        is_allowed.set()
        wait_for_props()

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", open_when_allowed)
    yield let_props_be_requested
    let_props_be_requested()


@pytest.fixture(autouse=True)
def forget_server_facts() -> Iterator[None]:
    server_metadata_cache.forget()
    yield
    wait_for_props()
    server_metadata_cache.forget()


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., Recorder]]:
    """Return a function that turns the plugin on, with options."""
    plugin = LlamaCppInstrumentor()

    def instrument(**options: Any) -> Recorder:
        plugin.instrument(**recorder.providers, config=LlamaTelemetryConfig(**options))
        return recorder

    yield instrument
    if plugin.is_instrumented_by_opentelemetry:
        plugin.uninstrument()


@pytest.fixture
def instrumented(instrument: Callable[..., Recorder]) -> Recorder:
    """Turn the plugin on for this test and return its recorder."""
    return instrument()
