"""Fixtures that instrument transformers and record to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.support.recorder import Recorder


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., Recorder]]:
    """Return a function that instruments transformers for one test.

    Its argument has options of the instrumentor, its keyword arguments those of the configuration.
    """
    plugin: Any = TransformersInstrumentor()

    def instrument(arguments: dict[str, bool] | None = None, **options: Any) -> Recorder:
        instrumentor: Any = TransformersInstrumentor(**(arguments or {}))
        instrumentor.instrument(**recorder.providers, config=LlamaTelemetryConfig(**options))
        return recorder

    yield instrument
    if plugin.is_instrumented_by_opentelemetry:
        plugin.uninstrument()


@pytest.fixture
def instrumented(instrument: Callable[..., Recorder]) -> Recorder:
    """Instrument transformers and return the recorder."""
    return instrument()


def calls(recorder: Recorder) -> list[ReadableSpan]:
    """Return the spans of calls, without phase spans."""
    return [span for span in recorder.spans() if "llamatelemetry.phase" not in span.attributes]


def only(recorder: Recorder) -> ReadableSpan:
    """Return the span of the only call."""
    (span,) = calls(recorder)
    return span


def duration_ms(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e6
