"""The receiver with requests of OpenTelemetry's exporters and with invalid requests."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf import json_format
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from llamatelemetry.local.launch import address_of, listen
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.records import Event, LogRecord, MetricPoint, SpanRecord
from llamatelemetry.local.store import Store, StoreReader
from tests.support.waiting import wait_for

ATTRIBUTES = {"text": "ä", "number": 0.5, "whole": 2**53 + 1, "flag": False, "list": ["a", "b"]}


class RunningReceiver:
    """A running receiver and its database."""

    def __init__(self, path: Path, grpc_port: int | None = None) -> None:
        self.path = path
        self.store = Store(path)
        self.receiver = Receiver(self.store, grpc_port=grpc_port)
        self.receiver.start()

    def spans(self) -> list[SpanRecord]:
        with StoreReader(self.path) as reader:
            return list(reader.spans())

    def post(
        self, body: bytes, path: str = "/v1/traces", method: str = "POST", **headers: str
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.receiver.url.removeprefix("http://"))
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(
                method, path, body, {"Content-Type": "application/x-protobuf", **given}
            )
            response = connection.getresponse()
            response.content = response.read()  # type: ignore[attr-defined]
        finally:
            connection.close()
        return response


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningReceiver]:
    running = RunningReceiver(tmp_path / "s.db")
    yield running
    running.receiver.stop()
    running.store.close()


def test_request_sent_before_the_receiver_exists_is_stored(tmp_path: Path) -> None:
    listener = listen(0)
    connection = http.client.HTTPConnection(address_of(listener).removeprefix("http://"))
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="early")
    headers = {"Content-Type": "application/x-protobuf"}
    connection.request("POST", "/v1/traces", request.SerializeToString(), headers)
    with Store(tmp_path / "s.db") as store, contextlib.closing(connection):
        receiver = Receiver(store, listener=listener)
        receiver.start()
        assert connection.getresponse().status == 200
        receiver.stop()
    with StoreReader(tmp_path / "s.db") as reader:
        assert [span.name for span in reader.spans()] == ["early"]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def sample_span() -> ReadableSpan:
    provider = TracerProvider(resource=Resource({"service.name": "s"}), shutdown_on_exit=False)
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("plugin")
    with tracer.start_as_current_span("outer"):
        span = tracer.start_span(
            "chat m", kind=SpanKind.CLIENT, attributes=ATTRIBUTES, start_time=5
        )
        span.add_event("token", {"index": 1}, timestamp=6)
        span.set_status(Status(StatusCode.ERROR, "why"))
        span.end(7)
    return memory.get_finished_spans()[0]


def expected(span: ReadableSpan) -> SpanRecord:
    assert span.parent is not None
    return SpanRecord(
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
        parent_span_id=f"{span.parent.span_id:016x}",
        name="chat m",
        kind=3,
        start_ns=5,
        end_ns=7,
        attributes=ATTRIBUTES,
        status=2,
        status_message="why",
        events=[Event("token", 6, {"index": 1})],
        scope="plugin",
        resource={"service.name": "s"},
    )


@pytest.mark.parametrize("compression", list(Compression))
def test_receiver_stores_spans_of_http_exporter_with_compression(
    running: RunningReceiver, compression: Compression
) -> None:
    exporter = OTLPSpanExporter(f"{running.receiver.url}/v1/traces", compression=compression)
    span = sample_span()
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert running.spans() == [expected(span)]
    assert running.receiver.received == {"traces": 1, "metrics": 0, "logs": 0}


def test_receiver_stores_spans_of_grpc_exporter(tmp_path: Path) -> None:
    port = free_port()
    running = RunningReceiver(tmp_path / "s.db", grpc_port=port)
    exporter: SpanExporter = GrpcExporter(f"127.0.0.1:{port}", insecure=True)
    span = sample_span()
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    running.receiver.stop()
    running.store.close()
    assert running.spans() == [expected(span)]


def test_receiver_stores_metrics_and_logs(running: RunningReceiver) -> None:
    exporter = OTLPMetricExporter(f"{running.receiver.url}/v1/metrics")
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)],
        Resource({"service.name": "s"}),
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("plugin")
    histogram = meter.create_histogram("h", "s", explicit_bucket_boundaries_advisory=[1, 2])
    histogram.record(1.5, {"a": "b"})
    histogram.record(9, {"a": "b"})
    meter.create_counter("c").add(2)
    meter.create_gauge("g").set(0.5)
    provider.shutdown()
    logs = LoggerProvider(Resource({"service.name": "s"}), shutdown_on_exit=False)
    logs.add_log_record_processor(
        SimpleLogRecordProcessor(OTLPLogExporter(f"{running.receiver.url}/v1/logs"))
    )
    logs.get_logger("plugin").emit(
        timestamp=5,
        severity_number=SeverityNumber.INFO,
        event_name="details",
        body={"messages": [{"role": "user"}]},
        attributes={"a": "b"},
    )
    logs.shutdown()
    with StoreReader(running.path) as reader:
        points = {point.name: point for point in reader.points()}
        (log,) = reader.logs()
    assert points["h"] == MetricPoint(
        name="h",
        unit="s",
        kind="histogram",
        is_monotonic=True,
        is_delta=False,
        attributes={"a": "b"},
        start_ns=points["h"].start_ns,
        time_ns=points["h"].time_ns,
        count=2,
        sum=10.5,
        bounds=[1, 2],
        buckets=[0, 1, 1],
        scope="plugin",
        resource={"service.name": "s"},
    )
    assert (points["c"].kind, points["c"].value, points["c"].is_monotonic) == ("sum", 2, True)
    assert (points["g"].kind, points["g"].value, points["g"].is_monotonic) == ("gauge", 0.5, False)
    assert log == LogRecord(
        time_ns=5,
        severity=9,
        event_name="details",
        body={"messages": [{"role": "user"}]},
        attributes={"a": "b"},
        scope="plugin",
        resource={"service.name": "s"},
    )


def otlp_json(request: ExportTraceServiceRequest) -> bytes:
    """Return OTLP's JSON, with ids as hex."""
    fields = json_format.MessageToDict(request)
    for resource in fields["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    raw = next(iter(_raw_ids(request, name)))
                    span[name] = raw.hex()
    return json.dumps(fields).encode()


def _raw_ids(request: ExportTraceServiceRequest, name: str) -> Iterator[bytes]:
    field = {"traceId": "trace_id", "spanId": "span_id", "parentSpanId": "parent_span_id"}[name]
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield getattr(span, field)


def test_receiver_stores_spans_sent_as_json(running: RunningReceiver) -> None:
    span = sample_span()
    response = running.post(otlp_json(encode_spans([span])), Content_Type="application/json")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content) == {}  # type: ignore[attr-defined]
    assert running.spans() == [expected(span)]


def test_receiver_ignores_unknown_json_fields(running: RunningReceiver) -> None:
    body = json.dumps({"resourceSpans": [], "futureField": {"a": 1}}).encode()
    assert running.post(body, Content_Type="application/json; charset=utf-8").status == 200


EMPTY_REQUEST = b""


@pytest.mark.parametrize(
    ("status", "body", "path", "headers"),
    [
        (400, b"\xff\xff\xff", "/v1/traces", {}),
        (400, b"{", "/v1/traces", {"Content_Type": "application/json"}),
        (400, b"[]", "/v1/traces", {"Content_Type": "application/json"}),
        (400, b"\xff", "/v1/traces", {"Content_Type": "application/json"}),
        (
            400,
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"no hex"}]}]}]}',
            "/v1/traces",
            {"Content_Type": "application/json"},
        ),
        (400, b'{"resourceSpans":3}', "/v1/traces", {"Content_Type": "application/json"}),
        (400, b"not gzip", "/v1/traces", {"Content_Encoding": "gzip"}),
        (400, gzip.compress(b"", mtime=0)[:-4], "/v1/traces", {"Content_Encoding": "gzip"}),
        (404, EMPTY_REQUEST, "/v1/profiles", {}),
        (404, EMPTY_REQUEST, "/traces", {}),
        (415, EMPTY_REQUEST, "/v1/traces", {"Content_Type": "text/plain"}),
        (415, EMPTY_REQUEST, "/v1/traces", {"Content_Encoding": "zstd"}),
        (
            413,
            zlib.compress(b"\0" * (300 * 1024**2), 1),
            "/v1/traces",
            {"Content_Encoding": "deflate"},
        ),
    ],
)
def test_receiver_rejects_invalid_requests_with_matching_status(
    running: RunningReceiver, status: int, body: bytes, path: str, headers: dict[str, str]
) -> None:
    assert running.post(body, path, **headers).status == status
    assert running.spans() == []
    # The receiver still accepts requests.
    assert running.post(EMPTY_REQUEST).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_receiver_rejects_other_methods_than_post(running: RunningReceiver, method: str) -> None:
    assert running.post(EMPTY_REQUEST, method=method).status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.test"},
        {"Host": "127.attacker.test:4318"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "https://attacker.test"},
        {"Origin": "null"},
    ],
)
def test_receiver_rejects_requests_of_web_pages(
    running: RunningReceiver, headers: dict[str, str]
) -> None:
    body = encode_spans([sample_span()]).SerializeToString()
    assert running.post(body, **headers).status == 403
    assert running.spans() == []


@pytest.mark.parametrize("host", ["localhost:4318", "127.0.0.1", "[::1]:1"])
def test_receiver_accepts_any_name_and_port_of_loopback(
    running: RunningReceiver, host: str
) -> None:
    # An exporter may connect through a forwarded port.
    assert running.post(EMPTY_REQUEST, Host=host).status == 200


def test_receiver_logs_no_escape_sequences_of_request_line(
    running: RunningReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "llamatelemetry.local")
    host, port = running.receiver.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /\x1b]0;evil\x07 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000)
    wait_for(lambda: "evil" in caplog.text)
    assert "\x1b" not in caplog.text


def test_receiver_stores_spans_of_new_connection_when_many_are_idle(
    running: RunningReceiver,
) -> None:
    host, port = running.receiver.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)
        ]
        body = encode_spans([sample_span()]).SerializeToString()
        assert running.post(body).status == 200
        # The oldest connections were closed, and the newest are open.
        idle[0].settimeout(10)
        assert idle[0].recv(1) == b""
        idle[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            idle[-1].recv(1)
        wait_for(lambda: threading.active_count() < 200)
    assert len(running.spans()) == 1


def test_receiver_serves_others_while_many_send_their_headers_slowly(
    running: RunningReceiver,
) -> None:
    host, port = running.receiver.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(200):
            slow = stack.enter_context(socket.create_connection((host, int(port))))
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert running.post(EMPTY_REQUEST).status == 200


def test_receiver_rejects_connection_with_retryable_status_when_all_are_busy(
    running: RunningReceiver,
) -> None:
    host, port = running.receiver.url.removeprefix("http://").split(":")
    head = f"POST /v1/traces HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n"
    head += "Content-Type: application/x-protobuf\r\n\r\n"

    def status_of_another() -> int | None:
        with contextlib.suppress(ConnectionError):
            return running.post(EMPTY_REQUEST).status
        return None

    with ExitStack() as stack:

        def is_full() -> bool:
            busy = stack.enter_context(socket.create_connection((host, int(port))))
            with contextlib.suppress(ConnectionError):
                busy.sendall(head.encode())  # without the body
            return status_of_another() == 503

        wait_for(is_full, 120)
    wait_for(lambda: status_of_another() == 200)


def test_receiver_rejects_missing_and_wrong_content_length(running: RunningReceiver) -> None:
    address = running.receiver.url.removeprefix("http://").split(":")
    start = (
        b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
    )
    for more, status in ((b"\r\n", b"411"), (b"Content-Length: 10\r\n\r\nabc", b"400")):
        with socket.create_connection((address[0], int(address[1]))) as connection:
            connection.sendall(start + more)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).split()[1] == status
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(start + b"Content-Length: 99999999999\r\n\r\n")
        assert connection.recv(100).split()[1] == b"413"


def test_receiver_accepts_chunked_bodies(running: RunningReceiver) -> None:
    span = sample_span()
    body = encode_spans([span]).SerializeToString()
    connection = http.client.HTTPConnection(running.receiver.url.removeprefix("http://"))
    connection.request(
        "POST",
        "/v1/traces",
        iter([body[:10], body[10:]]),
        {"Content-Type": "application/x-protobuf"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 200
    connection.close()
    assert running.spans() == [expected(span)]


@pytest.mark.parametrize("time", ["start_time_unix_nano", "end_time_unix_nano"])
def test_receiver_leaves_out_only_span_whose_time_is_out_of_range(
    running: RunningReceiver, caplog: pytest.LogCaptureFixture, time: str
) -> None:
    bad, good = sample_span(), sample_span()
    request = encode_spans([bad, good])
    setattr(request.resource_spans[0].scope_spans[0].spans[0], time, 2**64 - 1)
    assert running.post(request.SerializeToString()).status == 200
    assert running.spans() == [expected(good)]
    assert "Left out one of the spans" in caplog.text


def test_receiver_returns_non_retryable_status_when_disk_is_full(
    running: RunningReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    running.store._connection.execute("PRAGMA max_page_count = 15")
    span = sample_span()
    request = encode_spans([span])
    request.resource_spans[0].scope_spans[0].spans[0].name = "x" * 200_000
    for _ in range(3):
        assert running.post(request.SerializeToString()).status == 507
    assert running.receiver.problem is not None
    assert "disk is full" in running.receiver.problem
    (message,) = [record.getMessage() for record in caplog.records]
    assert "telemetry received from now on is lost" in message


def test_stop_finishes_requests_and_closes_idle_connections(
    tmp_path: Path,
) -> None:
    running = RunningReceiver(tmp_path / "s.db")
    idle = http.client.HTTPConnection(running.receiver.url.removeprefix("http://"))
    idle.connect()
    body = encode_spans([sample_span()]).SerializeToString()
    assert running.post(body).status == 200
    sent = 1
    stop = threading.Timer(0.1, running.receiver.stop)
    stop.start()
    try:
        while running.post(body).status == 200:
            sent += 1
    except (OSError, http.client.HTTPException):
        pass
    stop.join()
    idle.close()
    running.store.close()
    assert running.receiver.received["traces"] >= sent


@pytest.mark.clock
@pytest.mark.slow
def test_receiver_stores_10000_spans_per_second(running: RunningReceiver) -> None:
    template = encode_spans([sample_span()])
    total, batch = 100_000, 500
    group = template.resource_spans[0].scope_spans[0]
    span = group.spans[0]
    bodies = []
    for start in range(0, total, batch):
        del group.spans[:]
        for number in range(start, start + batch):
            copy = group.spans.add()
            copy.CopyFrom(span)
            copy.span_id = number.to_bytes(8, "big")
        bodies.append(template.SerializeToString())
    connection = http.client.HTTPConnection(running.receiver.url.removeprefix("http://"))
    started = time.monotonic()
    for number, body in enumerate(bodies):  # at 10,000 spans per second
        time.sleep(max(0.0, started + number * batch / 10_000 - time.monotonic()))
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()
    assert len({s.span_id for s in running.spans()}) == total
