"""OTLP JSON lines written by the real SDK's encoders, read back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from llamatelemetry.local.calls import RecordedCall, calls_from_spans
from llamatelemetry.local.otlp import parse_request, records_of
from llamatelemetry.local.recording import (
    MetricTotal,
    latest_run,
    read_metric_totals,
    read_recorded,
    read_spans,
)
from llamatelemetry.local.records import Event, SpanRecord
from llamatelemetry.local.store import Store
from tests.support.example_records import START_NS, numbered, sample_recording
from tests.support.recorded_calls import recorded_chat


def append(path: Path, message: Message) -> None:
    line = json.dumps(MessageToDict(message, use_integers_for_enums=True))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Spans:
    """A tracer that writes its spans to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = provider.get_tracer("test")

    def write(self) -> Path:
        append(self.path, encode_spans(self._exporter.get_finished_spans()))
        return self.path


@pytest.fixture
def spans(tmp_path: Path) -> Spans:
    return Spans(tmp_path / "traces-1.jsonl")


class TestReadSpans:
    def test_read_spans_returns_all_attribute_types(self, spans: Spans):
        attributes = {
            "text": "a",
            "big": 2**53 + 1,
            "number": 0.5,
            "flag": True,
            "no": False,
            "texts": ("a", "b"),
            "numbers": (1, 2),
            "empty": "",
        }
        span = spans.tracer.start_span(
            "chat m", kind=SpanKind.CLIENT, attributes=attributes, start_time=2_000_000
        )
        span.set_status(Status(StatusCode.ERROR, "why"))
        span.add_event("token", {"index": 1}, timestamp=3_000_000)
        span.end(end_time=5_500_000)
        (found,) = read_spans([spans.write()])
        assert found == SpanRecord(
            trace_id=found.trace_id,
            span_id=found.span_id,
            parent_span_id=None,
            name="chat m",
            kind=3,
            start_ns=2_000_000,
            end_ns=5_500_000,
            attributes={**attributes, "texts": ["a", "b"], "numbers": [1, 2]},
            status=2,
            status_message="why",
            links=[],
            events=[Event("token", 3_000_000, {"index": 1})],
            scope="test",
            resource=found.resource,
        )
        assert found.failed
        assert found.resource["telemetry.sdk.name"] == "opentelemetry"
        assert read_spans([spans.path])[0].duration_ms == 3.5

    def test_read_spans_sorts_by_start_time(self, spans: Spans):
        for start in (3, 1, 2):
            spans.tracer.start_span(f"span {start}", start_time=start).end(end_time=10)
        assert [span.name for span in read_spans([spans.write()])] == ["span 1", "span 2", "span 3"]

    def test_read_spans_ignores_incomplete_last_line(self, spans: Spans):
        spans.tracer.start_span("whole").end()
        path = spans.write()
        with path.open("a", encoding="utf-8") as file:
            file.write(path.read_text(encoding="utf-8")[:50])
        assert [span.name for span in read_spans([path])] == ["whole"]

    def test_read_spans_skips_a_line_that_a_full_disk_has_cut(self, spans: Spans):
        spans.tracer.start_span("whole").end()
        path = spans.write()
        line = path.read_text(encoding="utf-8")
        path.write_text(f"{line[:50]}\n{line}{line[:50]}\n", encoding="utf-8")
        assert [span.name for span in read_spans([path])] == ["whole"]

    def test_read_spans_needs_no_line_break_at_the_end(self, spans: Spans):
        spans.tracer.start_span("whole").end()
        path = spans.write()
        path.write_text(path.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
        assert [span.name for span in read_spans([path])] == ["whole"]


SPAN = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "work"}


@pytest.mark.parametrize(
    "span",
    [
        {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174"},
        {"parentSpanId": "EEE19B7EC3C1B173"},
        {"links": [{"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B173"}]},
        {"startTimeUnixNano": 1, "endTimeUnixNano": "2"},
        {"kind": "SPAN_KIND_CLIENT", "status": {"code": "STATUS_CODE_ERROR"}},
        {"attributes": [{"key": "no value"}, {"key": "null", "value": None}]},
        {"attributes": [{"key": "empty", "value": {}}, {"key": "n", "value": {"intValue": 5}}]},
        {"attributes": None, "events": None, "links": None, "status": None, "kind": None},
        {"events": [{"name": "no time"}], "unknown": {"field": 1}},
    ],
)
def test_file_and_receiver_read_the_same_from_unusual_json(tmp_path: Path, span: dict[str, Any]):
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [{**SPAN, **span}]}]}]}
    path = tmp_path / "traces-1.jsonl"
    path.write_text(f"{json.dumps(request)}\n", encoding="utf-8")
    received = parse_request("traces", json.dumps(request).encode(), is_json=True)
    assert list(read_recorded(path).spans) == list(records_of("traces", received))


class TestReadMetricTotals:
    @pytest.fixture(params=[AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
    def reader(self, request: pytest.FixtureRequest) -> InMemoryMetricReader:
        return InMemoryMetricReader(preferred_temporality={Histogram: request.param})

    def test_read_metric_totals_counts_each_measurement_once(
        self, tmp_path: Path, reader: InMemoryMetricReader
    ):
        path = tmp_path / "metrics-1.jsonl"
        provider = MeterProvider([reader], shutdown_on_exit=False)
        meter = provider.get_meter("test")
        histogram = meter.create_histogram("usage", unit="{token}")
        for value in (10, 20, 60):
            histogram.record(value, {"type": "input"})
            histogram.record(1, {"type": "output"})
            append(path, encode_metrics(reader.get_metrics_data()))
        provider.shutdown()
        totals = read_metric_totals([path])
        assert totals == [
            MetricTotal("usage", "{token}", {"type": "input"}, 3, 90.0),
            MetricTotal("usage", "{token}", {"type": "output"}, 3, 3.0),
        ]
        assert totals[0].mean == 30

    def test_read_metric_totals_adds_restarts_and_processes(self, tmp_path: Path):
        paths = [tmp_path / "metrics-1.jsonl", tmp_path / "metrics-2.jsonl"]
        for path in (paths[0], paths[0], paths[1]):
            reader = InMemoryMetricReader()
            provider = MeterProvider([reader], shutdown_on_exit=False)
            provider.get_meter("test").create_counter("calls").add(2)
            append(path, encode_metrics(reader.get_metrics_data()))
            provider.shutdown()
        totals = read_metric_totals(paths)
        assert totals == [MetricTotal("calls", "", {}, None, 6.0)]
        assert totals[0].mean is None

    def test_read_metric_totals_leaves_out_earlier_processes(self, tmp_path: Path):
        path = tmp_path / "metrics-1.jsonl"
        began_ns: list[int] = []
        for _ in range(2):
            began_ns.append(time.time_ns())
            reader = InMemoryMetricReader()
            provider = MeterProvider([reader], shutdown_on_exit=False)
            provider.get_meter("test").create_counter("calls").add(2)
            append(path, encode_metrics(reader.get_metrics_data()))
            provider.shutdown()
        totals = [read_metric_totals([path], since_ns=each)[0].total for each in began_ns]
        assert totals == [4.0, 2.0]


ENGINE = {
    "gen_ai.prefill_ms": 40.5,
    "gen_ai.ttft_ms": 52.25,
    "gen_ai.decode_ms": 330.0,
    "gen_ai.tpot_ms": 10.0,
    "llamatelemetry.queue_duration": 0.0115,
}
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "requested",
    "gen_ai.response.model": "responding",
    "gen_ai.request.stream": True,
    "gen_ai.usage.input_tokens": 30,
    "gen_ai.usage.cache_read.input_tokens": 20,
    "gen_ai.usage.output_tokens": 34,
}


class TestCallsFromSpans:
    def test_call_contains_values_of_span(self, spans: Spans):
        span = spans.tracer.start_span(
            "chat", kind=SpanKind.CLIENT, attributes={**CHAT, **ENGINE}, start_time=0
        )
        span.end(end_time=400_000_000)
        [call] = calls_from_spans(read_spans([spans.write()]))
        assert call == RecordedCall(
            operation="chat",
            model="responding",
            streamed=True,
            input_tokens=30,
            cached_tokens=20,
            output_tokens=34,
            queue_ms=11.5,
            prefill_ms=40.5,
            ttft_ms=52.25,
            tpot_ms=10.0,
            duration_ms=400.0,
            error=None,
            http_status=None,
            decode_ms=330.0,
        )
        assert call.tokens_per_s == 100

    def test_call_leaves_missing_values_unknown(self, spans: Spans):
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "requested",
            "error.type": "invalid_request_error",
            "http.response.status_code": 400,
        }
        span = spans.tracer.start_span(
            "chat", kind=SpanKind.CLIENT, attributes=attributes, start_time=0
        )
        span.set_status(StatusCode.ERROR)
        span.end(end_time=1_000_000)
        [call] = calls_from_spans(read_spans([spans.write()]))
        assert call == recorded_chat(
            model="requested", duration_ms=1.0, error="invalid_request_error", http_status=400
        )
        assert call.tokens_per_s is None

    def test_calls_exclude_phases_and_other_requests(self, spans: Spans):
        with spans.tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
            phase = {**CHAT, "llamatelemetry.phase": "prefill"}
            spans.tracer.start_span("prefill", attributes=phase).end()
            spans.tracer.start_span("GET", kind=SpanKind.CLIENT).end()
        assert len(calls_from_spans(read_spans([spans.write()]))) == 1


class TestFolders:
    def test_folder_with_databases_and_json_lines_is_one_recording(
        self, tmp_path: Path, spans: Spans
    ):
        spans.tracer.start_span("from lines").end()
        spans.write()
        with Store(tmp_path / "run.db") as store:
            store.begin_run(["python", "app.py"])
            store.write([numbered(1)])
        found = read_recorded(tmp_path)
        assert {span.name for span in found.spans} == {"from lines", "span 1"}
        assert [run.command for run in found.runs] == [("python", "app.py")]
        assert found.sources == ["run.db", "traces-1.jsonl"]

    def test_records_from_before_a_time_can_be_left_out(self):
        whole = sample_recording()
        assert whole.since(START_NS) == whole
        found = whole.since(START_NS + 4_000_000)
        assert [int(span.span_id, 16) for span in found.spans] == [4, 5, 6, 7]
        assert (len(found.points), found.logs) == (8, [])

    def test_latest_run_is_the_database_that_changed_last(self, tmp_path: Path):
        for number, name in enumerate(("b.db", "a.db")):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (number, number))
        assert latest_run(tmp_path) == tmp_path / "a.db"

    def test_missing_files_are_an_error_that_says_what_to_do(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"no \*.db or \*.jsonl file in"):
            read_recorded(tmp_path)
        with pytest.raises(FileNotFoundError, match="Record one with `llamatelemetry run"):
            latest_run(tmp_path)
