from __future__ import annotations

import pytest

from llamatelemetry.otel.processor_chains import prepend_processors
from llamatelemetry.otel.span_processors import SessionSpanProcessor
from tests.support.recorder import Recorder


@pytest.fixture
def telemetry(attached: Recorder) -> Recorder:
    """Return a recorder attached to OpenTelemetry's global providers, with `session()`."""
    prepend_processors(attached.tracer_provider, [SessionSpanProcessor()])
    return attached
