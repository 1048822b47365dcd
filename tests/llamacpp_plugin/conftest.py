"""The llama.cpp plugin, recording to memory."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import server_metadata_cache
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.recorder import Recorder


def let_servers_be_known() -> None:
    """Wait until no server is being asked what it is."""
    for thread in threading.enumerate():
        if thread.name == "llamatelemetry-identity":
            thread.join(15)


@pytest.fixture
def let_servers_be_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Servers are asked what they are once this has been called, and have then answered.

    Otherwise a server may have said so before the call that made it known is over.
    """
    may_ask = threading.Event()
    ask = urllib.request.OpenerDirector.open

    def ask_when_allowed(*args: Any, **options: Any) -> Any:
        assert may_ask.wait(30)
        return ask(*args, **options)

    def let_servers_be_asked() -> None:
        may_ask.set()
        let_servers_be_known()

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", ask_when_allowed)
    yield let_servers_be_asked
    let_servers_be_asked()


@pytest.fixture(autouse=True)
def no_identity_is_remembered() -> Iterator[None]:
    server_metadata_cache.forget()
    yield
    let_servers_be_known()
    server_metadata_cache.forget()


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., Recorder]]:
    """Switch the plugin on for this test; arguments are options."""
    plugin = LlamaCppInstrumentor()

    def instrument(**options: Any) -> Recorder:
        plugin.instrument(**recorder.providers, config=LlamaTelemetryConfig(**options))
        return recorder

    yield instrument
    if plugin.is_instrumented_by_opentelemetry:
        plugin.uninstrument()


@pytest.fixture
def instrumented(instrument: Callable[..., Recorder]) -> Recorder:
    """A recorder to which the plugin, active for this test, writes."""
    return instrument()
