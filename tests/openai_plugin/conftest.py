"""The OpenAI plugin, recording to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.recorder import Recorder


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[Recorder]:
    """A recorder to which the plugin, active for this test, writes."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield recorder
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., None]]:
    """Switch the plugin on for this test; arguments are the instrumentor's, or options."""

    def instrument(completion_hook: Any = None, **options: Any) -> None:
        OpenAIInstrumentor().instrument(
            **recorder.providers,
            completion_hook=completion_hook,
            config=LlamaTelemetryConfig(**options),
        )

    yield instrument
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()
