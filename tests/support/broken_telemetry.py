"""Parts of an application's telemetry that raise: processors, samplers, exporters and others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import internal_errors
from tests.support.patch_points import INSTRUMENTORS


class Fault:
    """A part of the telemetry that raises. It counts how often it did."""

    raised = 0

    def fail(self, *_args: Any, **_kwargs: Any) -> Any:
        self.raised += 1
        raise RuntimeError("broken telemetry")

    def providers(self) -> dict[str, Any]:
        tracer_provider, logger_provider = TracerProvider(), LoggerProvider()
        self.install(tracer_provider, logger_provider)
        return {
            "tracer_provider": tracer_provider,
            "logger_provider": logger_provider,
            "meter_provider": MeterProvider(),
        }

    def install(self, tracers: TracerProvider, loggers: LoggerProvider) -> None:
        """Add the broken part to the providers."""


class StartFault(Fault, SpanProcessor):
    on_start = Fault.fail

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.add_span_processor(self)


class EndFault(StartFault):
    on_start = SpanProcessor.on_start  # type: ignore[assignment]
    on_end = Fault.fail


class SamplerFault(Fault, Sampler):
    should_sample = Fault.fail

    def get_description(self) -> str:
        return "broken"

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.sampler = self


class ExporterFault(Fault, SpanExporter):
    export = Fault.fail

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.add_span_processor(SimpleSpanProcessor(self))


class PropagatorFault(Fault, TextMapPropagator):
    extract = Fault.fail
    inject = Fault.fail

    @property
    def fields(self) -> set[str]:
        return self.fail()


class LogFault(Fault, LogRecordProcessor):
    on_emit = Fault.fail

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def install(self, _tracers: TracerProvider, loggers: LoggerProvider) -> None:
        loggers.add_log_record_processor(self)


class LoggingFault(StartFault, logging.Handler):
    """A logging handler that raises when llamatelemetry logs that telemetry has failed."""

    emit = Fault.fail

    def __init__(self) -> None:
        logging.Handler.__init__(self)


FAULTS = (
    StartFault,
    EndFault,
    SamplerFault,
    ExporterFault,
    PropagatorFault,
    LogFault,
    LoggingFault,
)


# The rest runs with all tests only: each fault runs every call.
FAST = {StartFault, EndFault, PropagatorFault, LoggingFault}
each_fault = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in FAST else pytest.mark.slow, id=kind.__name__)
        for kind in FAULTS
    ],
)


def observe(call: Callable[[], Any]) -> str:
    """Return the result or the exception of a call, without what differs between two runs."""
    try:
        text = repr(call())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return re.sub(r"0x[0-9a-f]+|127\.0\.0\.1:\d+", "", text)


@contextmanager
def broken_telemetry(fault: Fault) -> Iterator[None]:
    """Instrument all libraries with a broken part of the telemetry."""
    internal_errors.set_strict(False)
    logger, propagator = logging.getLogger("llamatelemetry"), propagate.get_global_textmap()
    handlers, made = logger.handlers, fault.providers()
    if isinstance(fault, TextMapPropagator):
        propagate.set_global_textmap(fault)
    if isinstance(fault, logging.Handler):
        logger.handlers = [fault]
    config = LlamaTelemetryConfig(capture_content="span_and_event")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opentelemetry.trace._TRACER_PROVIDER", made["tracer_provider"])
        for instrumentor in INSTRUMENTORS:
            instrumentor().instrument(**made, config=config)
        try:
            yield
        finally:
            propagate.set_global_textmap(propagator)
            logger.handlers = handlers
            for instrumentor in INSTRUMENTORS:
                if instrumentor().is_instrumented_by_opentelemetry:
                    instrumentor().uninstrument()
