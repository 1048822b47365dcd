"""Processors in front of those of a provider, for spans and for log records."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk._logs import (
    ConcurrentMultiLogRecordProcessor,
    LoggerProvider,
    LogRecordProcessor,
)
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor, TracerProvider

from llamatelemetry.otel.processor_chains import prepend_processors, remove_processors


class Spans(SpanProcessor):
    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def on_end(self, span) -> None:
        self.order.append(self.name)


class Logs(LogRecordProcessor):
    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def on_emit(self, log_record) -> None:
        self.order.append(self.name)

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def tracer_provider() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def concurrent_tracer_provider() -> TracerProvider:
    return TracerProvider(
        shutdown_on_exit=False, active_span_processor=ConcurrentMultiSpanProcessor(1)
    )


def logger_provider() -> LoggerProvider:
    return LoggerProvider(shutdown_on_exit=False)


def concurrent_logger_provider() -> LoggerProvider:
    return LoggerProvider(
        shutdown_on_exit=False, multi_log_record_processor=ConcurrentMultiLogRecordProcessor(2)
    )


@pytest.mark.parametrize(
    "create",
    [
        tracer_provider,
        concurrent_tracer_provider,
        logger_provider,
        concurrent_logger_provider,
    ],
)
def test_prepended_processors_run_first_until_removed(create):
    provider, order = create(), []
    is_logs = create in (logger_provider, concurrent_logger_provider)
    kind = Logs if is_logs else Spans

    def record() -> list[str]:
        order.clear()
        if is_logs:
            provider.get_logger("t").emit(body="x")
        else:
            provider.get_tracer("t").start_span("x").end()
        return order

    present, first, second = (kind(name, order) for name in ("present", "first", "second"))
    add = provider.add_log_record_processor if is_logs else provider.add_span_processor
    add(present)
    prepend_processors(provider, [first, second])
    assert record() == ["first", "second", "present"]
    remove_processors(provider, [first, second, kind("unknown", order)])
    assert record() == ["present"]
    provider.shutdown()


def test_prepended_log_processor_ends_before_concurrent_ones_start():
    order: list[str] = []
    exported = threading.Event()

    class Redacting(Logs):
        def on_emit(self, log_record) -> None:
            exported.wait(0.5)  # an exporter that runs at the same time is quicker
            super().on_emit(log_record)

    class Exporting(Logs):
        def on_emit(self, log_record) -> None:
            super().on_emit(log_record)
            exported.set()

    provider = concurrent_logger_provider()
    provider.add_log_record_processor(Exporting("exporter", order))
    prepend_processors(provider, [Redacting("redaction", order)])
    provider.get_logger("t").emit(body="x")
    assert order == ["redaction", "exporter"]
    provider.shutdown()


class OtherProvider:
    """A provider that is not the SDK's, with a method to append span processors."""

    def __init__(self) -> None:
        self.added: list[SpanProcessor] = []

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.added.append(span_processor)


def test_processors_are_appended_with_warning_when_provider_is_not_the_sdks(caplog):
    provider, processor = OtherProvider(), Spans("a", [])
    prepend_processors(provider, [processor])
    assert provider.added == [processor]
    (record,) = caplog.records
    assert record.getMessage().startswith("Cannot put Spans in front of the processors of ")
    assert "may receive unredacted data" in record.getMessage()
    remove_processors(provider, [processor])
    assert provider.added == [processor]


def test_processors_are_ignored_with_warning_when_provider_has_no_processors(caplog):
    prepend_processors(object(), [Spans("a", [])])
    (record,) = caplog.records
    assert record.getMessage().startswith("Cannot add Spans: provider <object object at ")
    assert "Its exporters may receive unredacted data" in record.getMessage()
