"""Fixtures that turn the openai plugin on and record to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.recorder import Recorder


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[Recorder]:
    """Turn the plugin on for this test and return its recorder."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield recorder
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., None]]:
    """Return a function that turns the plugin on, with arguments of the instrumentor or options."""

    def instrument(completion_hook: Any = None, **options: Any) -> None:
        OpenAIInstrumentor().instrument(
            **recorder.providers,
            completion_hook=completion_hook,
            config=LlamaTelemetryConfig(**options),
        )

    yield instrument
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()
