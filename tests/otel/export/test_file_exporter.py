"""The files of the exporters, parsed as OTLP messages."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import resource as os_resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import Observation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from llamatelemetry.otel.export.file_exporter import (
    FileLogExporter,
    FileMetricExporter,
    FileSpanExporter,
)

RESOURCE = Resource({"service.name": "demo", "host.cpus": 2})
ID_KEYS = {"traceId", "spanId", "parentSpanId"}


def file_of(folder: Path, signal: str, pid: int | None = None) -> Path:
    return folder / f"{signal}-{pid or os.getpid()}.jsonl"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    for line in data.splitlines():
        yield json.loads(line)


def with_base64_ids(node: Any) -> Any:
    """Convert hex ids to base64, the only difference of OTLP JSON for the protobuf parser."""
    if isinstance(node, list):
        return [with_base64_ids(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: base64.b64encode(bytes.fromhex(value)).decode()
        if key in ID_KEYS
        else with_base64_ids(value)
        for key, value in node.items()
    }


def read_requests(path: Path, message_type: type) -> list[Any]:
    return [Parse(json.dumps(with_base64_ids(line)), message_type()) for line in read_lines(path)]


def as_dict(attributes: Any) -> dict[str, Any]:
    def value(any_value: Any) -> Any:
        kind = any_value.WhichOneof("value")
        if kind == "array_value":
            return tuple(value(item) for item in any_value.array_value.values)
        if kind == "kvlist_value":
            return as_dict(any_value.kvlist_value.values)
        return getattr(any_value, kind)

    return {pair.key: value(pair.value) for pair in attributes}


@pytest.fixture
def spans(tmp_path):
    """Yield a tracer with a file exporter and an in-memory exporter."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(tmp_path)))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    yield provider.get_tracer("scope", "1.2.0", "https://example.org/schema"), memory
    provider.shutdown()


def test_file_contains_recorded_span(spans, tmp_path):
    tracer, memory = spans
    attributes = {
        "gen_ai.request.model": "smol\u2028lm \U0001f999",
        "gen_ai.usage.input_tokens": 2**53 + 1,
        "gen_ai.prefill_ms": 12.5,
        "not.a.number": float("inf"),
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "traceId": "an attribute of this name stays what it is",
    }
    linked = SpanContext(2**127 + 5, 2**63 + 7, is_remote=True, trace_flags=TraceFlags(1))
    with tracer.start_as_current_span("parent"):
        span = tracer.start_span(
            "chat smol",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=[trace.Link(linked, {"why": "retry"})],
            start_time=1_700_000_000_000_000_001,
        )
        span.add_event("first chunk", {"index": 0}, timestamp=1_700_000_000_000_000_002)
        span.set_status(Status(StatusCode.ERROR, "it broke"))
        span.end(end_time=1_700_000_000_000_000_003)

    requests = read_requests(file_of(tmp_path, "traces"), ExportTraceServiceRequest)
    recorded = memory.get_finished_spans()
    assert requests == [encode_spans([each]) for each in recorded]

    (by_resource,) = requests[0].resource_spans
    assert as_dict(by_resource.resource.attributes) == dict(RESOURCE.attributes)
    (by_scope,) = by_resource.scope_spans
    assert (by_scope.scope.name, by_scope.scope.version) == ("scope", "1.2.0")
    assert by_scope.schema_url == "https://example.org/schema"
    (read,) = by_scope.spans
    child, parent = recorded
    assert int.from_bytes(read.trace_id) == child.context.trace_id
    assert int.from_bytes(read.span_id) == child.context.span_id
    assert int.from_bytes(read.parent_span_id) == parent.context.span_id
    assert (read.name, read.kind) == ("chat smol", read.SPAN_KIND_CLIENT)
    assert as_dict(read.attributes) == attributes
    assert read.start_time_unix_nano == 1_700_000_000_000_000_001
    assert read.end_time_unix_nano == 1_700_000_000_000_000_003
    (event,) = read.events
    assert (event.name, event.time_unix_nano) == ("first chunk", 1_700_000_000_000_000_002)
    assert as_dict(event.attributes) == {"index": 0}
    (link,) = read.links
    assert (int.from_bytes(link.trace_id), int.from_bytes(link.span_id)) == linked[:2]
    assert as_dict(link.attributes) == {"why": "retry"}
    assert (read.status.code, read.status.message) == (read.status.STATUS_CODE_ERROR, "it broke")


def test_json_follows_otlp_encoding(spans, tmp_path):
    tracer, memory = spans
    tracer.start_span("a", kind=SpanKind.CLIENT, attributes={"n": 3, "traceId": "same"}).end()
    (line,) = read_lines(file_of(tmp_path, "traces"))
    (recorded,) = memory.get_finished_spans()
    (span,) = line["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span == {
        "traceId": f"{recorded.context.trace_id:032x}",
        "spanId": f"{recorded.context.span_id:016x}",
        "name": "a",
        "kind": 3,
        "startTimeUnixNano": str(recorded.start_time),
        "endTimeUnixNano": str(recorded.end_time),
        "attributes": [
            {"key": "n", "value": {"intValue": "3"}},
            {"key": "traceId", "value": {"stringValue": "same"}},
        ],
        "status": {},
        "flags": 256,
    }


def test_each_export_writes_one_line(tmp_path):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(tmp_path)))
    for batch in range(3):
        for index in range(10):
            provider.get_tracer("t").start_span(f"{batch}.{index} \n \u2028").end()
        assert provider.force_flush()
        requests = read_requests(file_of(tmp_path, "traces"), ExportTraceServiceRequest)
        assert len(requests) == batch + 1
        assert len(requests[batch].resource_spans[0].scope_spans[0].spans) == 10
    provider.shutdown()


def collect(folder: Path, record: Any, views: Any = (), **arguments: Any) -> dict[str, Any]:
    """Collect once, and return the metrics of the file by name."""
    reader = PeriodicExportingMetricReader(FileMetricExporter(folder, **arguments), 60_000)
    provider = MeterProvider(
        [reader],
        RESOURCE,
        AlwaysOnExemplarFilter(),
        shutdown_on_exit=False,
        views=list(views),
    )
    record(provider.get_meter("scope", "1.2.0"))
    provider.shutdown()
    (request,) = read_requests(file_of(folder, "metrics"), ExportMetricsServiceRequest)
    (by_resource,) = request.resource_metrics
    assert as_dict(by_resource.resource.attributes) == dict(RESOURCE.attributes)
    (by_scope,) = by_resource.scope_metrics
    assert by_scope.scope.name == "scope"
    return {metric.name: metric for metric in by_scope.metrics}


def test_file_contains_recorded_metrics(tmp_path):
    provider = TracerProvider(shutdown_on_exit=False)
    span = provider.get_tracer("t").start_span("call")
    context = trace.set_span_in_context(span)

    def record(meter):
        histogram = meter.create_histogram(
            "duration", "s", "How long", explicit_bucket_boundaries_advisory=[0.1, 1, 10]
        )
        histogram.record(0.5, {"model": "a"}, context=context)
        histogram.record(20, {"model": "a"}, context=context)
        meter.create_counter("calls").add(3, {"model": "a"}, context=context)
        meter.create_gauge("level").set(-1.5, context=context)

    found = collect(tmp_path, record)
    (point,) = found["duration"].histogram.data_points
    assert (found["duration"].unit, found["duration"].description) == ("s", "How long")
    assert found["duration"].histogram.aggregation_temporality == 2
    assert as_dict(point.attributes) == {"model": "a"}
    assert list(point.explicit_bounds) == [0.1, 1, 10]
    assert list(point.bucket_counts) == [0, 1, 0, 1]
    assert (point.count, point.sum, point.min, point.max) == (2, 20.5, 0.5, 20)
    values = []
    for exemplar in point.exemplars:
        assert int.from_bytes(exemplar.trace_id) == span.get_span_context().trace_id
        assert int.from_bytes(exemplar.span_id) == span.get_span_context().span_id
        values.append(getattr(exemplar, exemplar.WhichOneof("value")))
    assert values == [0.5, 20]
    calls = found["calls"].sum
    assert (calls.is_monotonic, calls.aggregation_temporality) == (True, 2)
    assert [each.as_int for each in calls.data_points] == [3]
    assert calls.data_points[0].exemplars[0].span_id == point.exemplars[0].span_id
    assert [each.as_double for each in found["level"].gauge.data_points] == [-1.5]
    provider.shutdown()


def test_file_contains_exponential_histograms(tmp_path):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with tracer.start_as_current_span("call") as span:
        found = collect(
            tmp_path,
            lambda meter: meter.create_histogram("size").record(4.0),
            [View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())],
        )
    (point,) = found["size"].exponential_histogram.data_points
    assert (point.count, point.sum, list(point.positive.bucket_counts)) == (1, 4.0, [1])
    (exemplar,) = point.exemplars
    assert int.from_bytes(exemplar.trace_id) == span.get_span_context().trace_id


DELTA, CUMULATIVE = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
TEMPORALITIES = [
    ("", CUMULATIVE, CUMULATIVE),
    ("CUMULATIVE", CUMULATIVE, CUMULATIVE),
    ("delta", DELTA, DELTA),
    ("LowMemory", DELTA, CUMULATIVE),
]


@pytest.mark.parametrize(("preference", "counter", "observable_counter"), TEMPORALITIES)
def test_temporality_follows_environment_variable(
    *, preference, counter, observable_counter, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)

    def record(meter):
        meter.create_counter("calls").add(1)
        meter.create_histogram("duration").record(1)
        meter.create_up_down_counter("open").add(1)
        meter.create_observable_counter("energy", [lambda _: [Observation(1)]])

    found = collect(tmp_path, record)
    assert found["calls"].sum.aggregation_temporality == counter.value
    assert found["duration"].histogram.aggregation_temporality == counter.value
    assert found["open"].sum.aggregation_temporality == CUMULATIVE.value
    assert found["energy"].sum.aggregation_temporality == observable_counter.value
    assert not caplog.records


def test_temporality_argument_wins_and_invalid_variable_logs_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "hourly")
    found = collect(
        tmp_path,
        lambda meter: [meter.create_counter("a").add(1), meter.create_histogram("b").record(1)],
        preferred_temporality={sdk_metrics.Counter: DELTA},
    )
    assert found["a"].sum.aggregation_temporality == DELTA.value
    assert found["b"].histogram.aggregation_temporality == CUMULATIVE.value
    assert ["hourly" in record.getMessage() for record in caplog.records] == [True]


def test_file_contains_emitted_log_records(tmp_path):
    provider = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(FileLogExporter(tmp_path)))
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    body = {"messages": [{"role": "user", "traceId": "kept"}], "n": 2}
    with tracer.start_as_current_span("call") as span:
        provider.get_logger("scope").emit(
            LogRecord(
                timestamp=5,
                observed_timestamp=6,
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=body,
                attributes={"model": "a"},
                event_name="gen_ai.client.inference.operation.details",
            )
        )
    provider.get_logger("scope").emit(LogRecord(timestamp=7, body="no span"))
    provider.shutdown()
    inside, outside = read_requests(file_of(tmp_path, "logs"), ExportLogsServiceRequest)
    (record,) = inside.resource_logs[0].scope_logs[0].log_records
    assert int.from_bytes(record.trace_id) == span.get_span_context().trace_id
    assert int.from_bytes(record.span_id) == span.get_span_context().span_id
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (5, 6)
    assert (record.severity_number, record.severity_text) == (9, "INFO")
    assert as_dict(record.body.kvlist_value.values) == {
        "messages": ({"role": "user", "traceId": "kept"},),
        "n": 2,
    }
    assert as_dict(record.attributes) == {"model": "a"}
    assert record.event_name == "gen_ai.client.inference.operation.details"
    (record,) = outside.resource_logs[0].scope_logs[0].log_records
    assert (record.trace_id, record.body.string_value) == (b"", "no span")


EXPORTERS = [
    (FileSpanExporter, [], "traces", SpanExportResult),
    (FileMetricExporter, MetricsData(resource_metrics=[]), "metrics", MetricExportResult),
    (FileLogExporter, [], "logs", LogRecordExportResult),
]


@pytest.mark.parametrize(("exporter_type", "batch", "signal", "result"), EXPORTERS)
def test_directory_is_taken_from_option_and_created_by_first_export(
    *, exporter_type, batch, signal, result, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLAMATELEMETRY_EXPORT_PATH", "made/here")
    monkeypatch.chdir(tmp_path)
    exporter = exporter_type()
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir("/")
    assert exporter.export(batch) is result.SUCCESS
    assert exporter.force_flush() is True
    assert list(read_lines(file_of(tmp_path / "made" / "here", signal))) == [{}]
    exporter.shutdown()


@pytest.mark.parametrize(("exporter_type", "batch", "signal", "result"), EXPORTERS)
def test_exporter_writes_nothing_after_shutdown(exporter_type, batch, signal, result, tmp_path):
    exporter = exporter_type(tmp_path)
    open_before = len(list(Path("/dev/fd").iterdir()))
    assert exporter.export(batch) is result.SUCCESS
    exporter.shutdown()
    exporter.shutdown()
    assert len(list(Path("/dev/fd").iterdir())) == open_before
    assert exporter.export(batch) is result.FAILURE
    assert len(list(read_lines(file_of(tmp_path, signal)))) == 1


def test_second_exporter_of_process_appends_to_file(tmp_path):
    first, second = FileSpanExporter(tmp_path), FileSpanExporter(tmp_path)
    for exporter in (first, second, first):
        assert exporter.export([]) is SpanExportResult.SUCCESS
    first.shutdown()
    second.shutdown()
    assert list(read_lines(file_of(tmp_path, "traces"))) == [{}, {}, {}]


@pytest.mark.parametrize(("exporter_type", "batch", "signal", "result"), EXPORTERS)
def test_export_fails_with_one_warning_when_directory_cannot_be_created(
    *, exporter_type, batch, signal, result, tmp_path, caplog
):
    (tmp_path / "taken").write_text("a file, not a folder")
    exporter = exporter_type(tmp_path / "taken" / "data")
    for _ in range(3):
        assert exporter.export(batch) is result.FAILURE
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert str(file_of(tmp_path / "taken" / "data", signal)) in message
    assert "LLAMATELEMETRY_EXPORT_PATH" in message


def test_export_fails_with_one_warning_when_data_cannot_be_encoded(tmp_path, caplog):
    exporter = FileSpanExporter(tmp_path)
    for _ in range(3):
        assert exporter.export([object()]) is SpanExportResult.FAILURE
    (record,) = caplog.records
    assert record.exc_info is not None
    assert not list(tmp_path.iterdir())


def test_export_fails_when_disk_is_full_and_next_export_is_tried(tmp_path, caplog):
    path = file_of(tmp_path, "traces")
    exporter = FileSpanExporter(tmp_path)
    old_limit = os_resource.getrlimit(os_resource.RLIMIT_FSIZE)
    os_resource.setrlimit(os_resource.RLIMIT_FSIZE, (0, old_limit[1]))
    try:
        assert exporter.export([]) is SpanExportResult.FAILURE
        assert exporter.export([]) is SpanExportResult.FAILURE
    finally:
        os_resource.setrlimit(os_resource.RLIMIT_FSIZE, old_limit)
    (record,) = caplog.records
    assert os.strerror(errno.EFBIG) in record.getMessage()
    assert exporter.export([]) is SpanExportResult.SUCCESS
    assert path.read_text().strip() == "{}"
    exporter.shutdown()


def test_next_line_is_complete_when_previous_line_was_truncated(spans, tmp_path, caplog):
    tracer, _ = spans
    path = file_of(tmp_path, "traces")
    tracer.start_span("whole").end()
    old_limit = os_resource.getrlimit(os_resource.RLIMIT_FSIZE)
    os_resource.setrlimit(os_resource.RLIMIT_FSIZE, (path.stat().st_size + 10, old_limit[1]))
    try:
        tracer.start_span("cut").end()
    finally:
        os_resource.setrlimit(os_resource.RLIMIT_FSIZE, old_limit)
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    tracer.start_span("after").end()
    first, torn, last = path.read_bytes().splitlines()
    names = [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"]
        for line in (first, last)
    ]
    assert (names, len(torn)) == (["whole", "after"], 10)


FORKING = """
    import os, sys, threading
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from llamatelemetry.otel.export.file_exporter import FileSpanExporter

    provider = TracerProvider(shutdown_on_exit=False)
    exporter = FileSpanExporter(sys.argv[1])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("t")
    tracer.start_span("before").end()
    exporter._file._lock.acquire()  # another thread can hold it when the process forks
    child = os.fork()
    if child == 0:
        tracer.start_span("in child").end()
        os._exit(0)
    exporter._file._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    tracer.start_span("in parent").end()
    provider.shutdown()
    print(os.getpid(), child)
"""


def test_forked_child_writes_its_own_file(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    parent, child = map(int, result.stdout.split())

    def names(pid):
        requests = read_requests(file_of(tmp_path, "traces", pid), ExportTraceServiceRequest)
        return [request.resource_spans[0].scope_spans[0].spans[0].name for request in requests]

    assert names(parent) == ["before", "in parent"]
    assert names(child) == ["in child"]
    assert len(list(tmp_path.iterdir())) == 2


def test_concurrent_exports_write_complete_lines(tmp_path):
    exporter = FileSpanExporter(tmp_path)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("t")

    def work():
        for _ in range(50):
            tracer.start_span("x" * 5000).end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    assert len(read_requests(file_of(tmp_path, "traces"), ExportTraceServiceRequest)) == 200
