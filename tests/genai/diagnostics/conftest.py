"""Calls of the openai and llama.cpp clients, recorded with diagnostics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamatelemetry.config import LlamaTelemetryConfig, set_active_config
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.recorder import Recorder


@pytest.fixture
def diagnosed(recorded: Recorder) -> Iterator[Recorder]:
    """Record the calls of both clients with diagnostics."""
    config = LlamaTelemetryConfig(diagnostics=True)
    set_active_config(config)
    OpenAIInstrumentor().instrument(**recorded.providers, config=config)
    yield recorded
    OpenAIInstrumentor().uninstrument()
    set_active_config(None)
