"""The OpenAI plugin, recording to memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.recorder import Recorder


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[Recorder]:
    """A recorder to which the plugin, active for this test, writes."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield recorder
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()
