"""Calls of the openai and llama.cpp clients, recorded with diagnostics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig, set_active_config
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.recorder import Recorder

PREFIX = "llamatelemetry."


@pytest.fixture
def diagnosed(recorded: Recorder) -> Iterator[Recorder]:
    """Record the calls of both clients with diagnostics."""
    config = LlamaTelemetryConfig(diagnostics=True)
    set_active_config(config)
    OpenAIInstrumentor().instrument(**recorded.providers, config=config)
    yield recorded
    OpenAIInstrumentor().uninstrument()
    set_active_config(None)


def found(recorder: Recorder, group: str) -> list[dict[str, Any]]:
    """Return the attributes `llamatelemetry.<group>.*` of each call, by their last part."""
    prefix = f"{PREFIX}{group}."
    calls = [
        {
            name.removeprefix(prefix): value
            for name, value in (span.attributes or {}).items()
            if name.startswith(prefix)
        }
        for span in recorder.calls()
    ]
    recorder.clear_spans()
    return calls
