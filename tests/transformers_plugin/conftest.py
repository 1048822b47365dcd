"""The Transformers plugin, recording to memory, and the models it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.recorder import Recorder


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., Recorder]]:
    """Switch the plugin on for this test: its own options, and those of the configuration."""
    plugin: Any = TransformersInstrumentor()

    def instrument(own: dict[str, bool] | None = None, **options: Any) -> Recorder:
        made = TransformersInstrumentor(**(own or {}))
        made.instrument(**recorder.providers, config=LlamaTelemetryConfig(**options))
        return recorder

    yield instrument
    if plugin.is_instrumented_by_opentelemetry:
        plugin.uninstrument()


@pytest.fixture
def instrumented(instrument: Callable[..., Recorder]) -> Recorder:
    """A recorder to which the plugin, active for this test, writes."""
    return instrument()


def calls(recorder: Recorder) -> list[ReadableSpan]:
    """The spans of calls, without their phases."""
    return [span for span in recorder.spans() if "llamatelemetry.phase" not in span.attributes]


def only(recorder: Recorder) -> ReadableSpan:
    """The span of the one call there was."""
    (span,) = calls(recorder)
    return span


def duration_ms(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e6
