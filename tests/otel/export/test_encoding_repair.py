"""Values that OTLP cannot represent, in spans, metrics and log records of an application."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as grpc_logs
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_logs
from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces
from opentelemetry.metrics import Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Status, StatusCode

from llamatelemetry.otel.export import encoding_repair
from llamatelemetry.otel.export.export_monitor import ExportMonitor
from tests.support.otlp_receiver import Received, grpc_receiver, http_receiver

LONE_SURROGATE = "bad \ud800"
TOO_LARGE = 2**64 - 1


class Exported(NamedTuple):
    received: Received
    monitor: ExportMonitor
    tracer: Any
    meter: Any
    logger: Any
    flush: Callable[[], None]

    def points(self, name: str) -> list[Any]:
        return [
            point
            for message in self.received.messages["metrics"]
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]

    def span(self, name: str) -> Any:
        (span,) = [
            span
            for message in self.received.messages["traces"]
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name == name
        ]
        return span

    def bodies(self) -> list[Any]:
        return [
            record.body
            for message in self.received.messages["logs"]
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


@contextmanager
def _exporters(protocol: str) -> Iterator[tuple[Received, list[Any]]]:
    if protocol == "http":
        with http_receiver() as received:
            yield (
                received,
                [
                    http_traces.OTLPSpanExporter(f"{received.url}/v1/traces"),
                    http_metrics.OTLPMetricExporter(f"{received.url}/v1/metrics"),
                    http_logs.OTLPLogExporter(f"{received.url}/v1/logs"),
                ],
            )
        return
    with grpc_receiver() as received:
        yield (
            received,
            [
                grpc_traces.OTLPSpanExporter(received.url),
                grpc_metrics.OTLPMetricExporter(received.url),
                grpc_logs.OTLPLogExporter(received.url),
            ],
        )


@pytest.fixture(params=["http", "grpc"])
def exported(request) -> Iterator[Exported]:
    """Yield providers whose exporters are monitored, as those of `init()` are."""
    encoding_repair._warned.clear()
    with _exporters(request.param) as (received, (spans, metrics, logs)):
        reader = PeriodicExportingMetricReader(metrics, export_interval_millis=math.inf)
        providers = (TracerProvider(), MeterProvider([reader]), LoggerProvider())
        providers[0].add_span_processor(BatchSpanProcessor(spans))
        providers[2].add_log_record_processor(BatchLogRecordProcessor(logs))
        monitor = ExportMonitor()
        for provider in providers:
            monitor.monitor(provider, "traces")

        def flush() -> None:
            for provider in providers:
                provider.force_flush()

        yield Exported(
            received,
            monitor,
            providers[0].get_tracer("app"),
            providers[1].get_meter("app"),
            providers[2].get_logger("app"),
            flush,
        )
        for provider in providers:
            provider.shutdown()


def _set_gauge(meter):
    meter.create_gauge("bad").set(TOO_LARGE)
    return [float(TOO_LARGE)]


def _add_to_counter(meter):
    counter = meter.create_counter("bad")
    counter.add(2**64)
    counter.add(1)
    return [float(2**64)]


def _observe(meter):
    values = [Observation(TOO_LARGE, {"n": 1}), Observation(7, {"n": 2})]
    meter.create_observable_gauge("bad", [lambda _: values])
    return [float(TOO_LARGE), 7]


def _describe_with_surrogate(meter):
    meter.create_gauge("bad", description=LONE_SURROGATE).set(7)
    return [7]


@pytest.mark.parametrize(
    "record",
    [
        _set_gauge,
        _add_to_counter,
        _observe,
        _describe_with_surrogate,
    ],
)
def test_metrics_are_exported_beside_value_that_otlp_cannot_represent(record, exported):
    exported.meter.create_counter("good").add(1)
    expected = record(exported.meter)
    for collection in (1, 2):
        exported.flush()
        assert [point.as_int for point in exported.points("good")] == [1] * collection
        bad = [getattr(p, p.WhichOneof("value")) for p in exported.points("bad")]
        assert bad == expected * collection
    assert not exported.monitor.take_failure()


def _name_span(tracer):
    tracer.start_span(LONE_SURROGATE).end()
    return "bad ?"


def _describe_status(tracer):
    with tracer.start_as_current_span("bad") as span:
        span.set_status(Status(StatusCode.ERROR, LONE_SURROGATE))
    return "bad"


def _name_event(tracer):
    with tracer.start_as_current_span("bad") as span:
        span.add_event(LONE_SURROGATE, {"kept": 1})
    return "bad"


def _start_before_1970(tracer):
    tracer.start_span("bad", start_time=-5).end()
    return "bad"


def _start_at_fraction(tracer):
    tracer.start_span("bad", start_time=1.5e18).end()
    return "bad"


@pytest.mark.parametrize(
    "start", [_name_span, _describe_status, _name_event, _start_before_1970, _start_at_fraction]
)
def test_spans_are_exported_beside_value_that_otlp_cannot_represent(start, exported):
    exported.tracer.start_span("good").end()
    name = start(exported.tracer)
    exported.flush()
    assert exported.received.spans() == ["good", name]
    assert not exported.monitor.take_failure()
    span = exported.span(name)
    if start is _describe_status:
        assert (span.status.code, span.status.message) == (2, "bad ?")
    if start is _name_event:
        (event,) = span.events
        assert (event.name, event.attributes[0].key) == ("bad ?", "kept")
    if start is _start_at_fraction:
        assert span.start_time_unix_nano == 1_500_000_000_000_000_000


def test_span_keeps_other_attributes_beside_one_that_otlp_cannot_represent(exported):
    attributes = {"large": 2**70, "half": "\ud800", "list": [1, 2**70], "nan": math.nan, "kept": 1}
    exported.tracer.start_span("bad", attributes=attributes).end()
    exported.flush()
    assert [each.key for each in exported.span("bad").attributes] == ["nan", "kept"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"body": LONE_SURROGATE}, "bad ?"),
        ({"body": TOO_LARGE}, str(TOO_LARGE)),
        ({"body": {"a": TOO_LARGE, "b": 1}}, {"a": str(TOO_LARGE), "b": 1}),
        ({"body": [TOO_LARGE, "x"]}, [str(TOO_LARGE), "x"]),
        ({"body": "x", "timestamp": -1}, "x"),
        ({"body": "x", "severity_text": LONE_SURROGATE}, "x"),
        ({"body": "x", "event_name": LONE_SURROGATE}, "x"),
    ],
)
def test_log_records_are_exported_beside_value_that_otlp_cannot_represent(
    record, expected, exported
):
    exported.logger.emit(body="good")
    exported.logger.emit(**record)
    exported.flush()
    assert [_python(body) for body in exported.bodies()] == ["good", expected]
    assert not exported.monitor.take_failure()


def test_log_records_are_exported_beside_body_of_unknown_type(exported, caplog):
    exported.logger.emit(body="good")
    exported.logger.emit(body=object())
    exported.flush()
    assert [_python(body) for body in exported.bodies()] == ["good"]
    assert "a log record of the scope 'app'" in caplog.text


def test_failed_export_is_not_repeated_when_batch_is_encodable():
    with http_receiver() as received:
        received.status = 400
        exporter = http_traces.OTLPSpanExporter(f"{received.url}/v1/traces")
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        monitor = ExportMonitor()
        monitor.monitor(provider, "traces")
        provider.get_tracer("app").start_span("good").end()
        provider.force_flush()
        provider.shutdown()
    assert len(received.paths) == 1
    assert monitor.take_failure()


def _python(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {each.key: _python(each.value) for each in value.kvlist_value.values}
    if kind == "array_value":
        return [_python(each) for each in value.array_value.values]
    return getattr(value, kind)


def test_failure_of_other_exporter_is_unchanged_without_encoders_of_otlp(monkeypatch):
    for name in ("trace_encoder", "metrics_encoder"):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.common.{name}", None)

    class Broken(SpanExporter):
        def export(self, spans):
            raise OSError("the disk is full")

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter := Broken()))
    ExportMonitor().monitor(provider, "traces")
    span = provider.get_tracer("app").start_span("good")
    with pytest.raises(OSError, match="the disk is full"):
        exporter.export([span])
    provider.shutdown()
