from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.session_processor import SessionSpanProcessor
from llamatelemetry.otel.span_processors import put_in_front
from tests.recorder import Recorder


@pytest.fixture
def telemetry(recorder: Recorder) -> Iterator[Recorder]:
    """Attach the recorder to OpenTelemetry's global providers, as `init()` does."""
    put_in_front(recorder.tracer_provider, [SessionSpanProcessor()])
    SIGNALS["traces"].attach(recorder.tracer_provider)
    SIGNALS["metrics"].attach(recorder.meter_provider)
    yield recorder
    SIGNALS["traces"].stable.detach()
    SIGNALS["metrics"].stable.detach()
