from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamatelemetry.otel.processor_chains import prepend_processors
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.span_processors import SessionSpanProcessor
from tests.support.recorder import Recorder


@pytest.fixture
def telemetry(recorder: Recorder) -> Iterator[Recorder]:
    """Return a recorder attached to OpenTelemetry's global providers, as by `init()`."""
    prepend_processors(recorder.tracer_provider, [SessionSpanProcessor()])
    SIGNALS["traces"].attach(recorder.tracer_provider)
    SIGNALS["metrics"].attach(recorder.meter_provider)
    yield recorder
    SIGNALS["traces"].delegating.detach()
    SIGNALS["metrics"].delegating.detach()
