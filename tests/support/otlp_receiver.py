"""OTLP receivers on loopback, over HTTP and gRPC, that decode all requests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

from llamatelemetry.local.otlp import records_of
from tests.support.http_server import http_server
from tests.support.telemetry_names import record_problems

REQUESTS = {
    "traces": traces.ExportTraceServiceRequest,
    "metrics": metrics.ExportMetricsServiceRequest,
    "logs": logs.ExportLogsServiceRequest,
}


class Received:
    """All requests that a receiver got."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.status = 200
        self.status_of: dict[str, int] = {}
        """Statuses of single paths. A request with another status than 200 is not kept."""
        self.may_respond = threading.Event()
        """While it is not set, HTTP requests get no response for up to 30 seconds."""
        self.may_respond.set()
        self.started: list[str] = []
        """Paths of HTTP requests that have arrived, also of those without a response yet."""
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        """Bodies of HTTP requests, decompressed."""
        self.messages: dict[str, list[Message]] = {signal: [] for signal in REQUESTS}
        self.malformed: list[str] = []
        """Errors of HTTP requests that are not HTTP, or not OTLP."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resources(self, signal: str) -> list[dict[str, str]]:
        field = {"traces": "resource_spans", "metrics": "resource_metrics", "logs": "resource_logs"}
        return [
            {each.key: each.value.string_value for each in group.resource.attributes}
            for message in self.messages[signal]
            for group in getattr(message, field[signal])
        ]

    def spans(self) -> list[str]:
        return [
            span.name
            for message in self.messages["traces"]
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> set[str]:
        return {
            metric.name
            for message in self.messages["metrics"]
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def check_reference(self) -> None:
        """Fail if llamatelemetry has sent a name that is not in the reference."""
        records = (
            record
            for signal, messages in self.messages.items()
            for message in messages
            for record in records_of(signal, message)
        )
        problems = set(record_problems(records))
        assert not problems, f"not in semconv/telemetry.toml: {sorted(problems)}"

    def logs(self) -> list[str]:
        return [
            record.body.string_value
            for message in self.messages["logs"]
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


@contextmanager
def http_receiver(
    server: Callable[[type[BaseHTTPRequestHandler]], AbstractContextManager[int]] = http_server,
    *,
    keep_alive: bool = False,
) -> Iterator[Received]:
    """Start a receiver. With `keep_alive`, connections stay open after a response."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            received.started.append(self.path)
            received.may_respond.wait(30)
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.bodies.append(body)
            received.paths.append(self.path)
            received.headers.append({name.lower(): text for name, text in self.headers.items()})
            signal = self.path.rpartition("/")[2]
            status = received.status_of.get(self.path, received.status)
            if signal in REQUESTS and (status == 200 or not received.status_of):
                try:
                    received.messages[signal].append(REQUESTS[signal].FromString(body))
                except DecodeError as error:
                    received.malformed.append(repr(error))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_error(self, code: int, message: str | None = None, *args: str | None) -> None:
            received.malformed.append(f"{code} {message}")
            super().send_error(code, message, *args)

        def log_message(self, *args: object) -> None:
            pass

    with server(Handler) as received.port:
        yield received
    received.check_reference()


@contextmanager
def grpc_receiver(address: str = "127.0.0.1:0") -> Iterator[Received]:
    received = Received()

    def service(base: type, signal: str, response: type) -> object:
        def export(self, request, context):
            received.messages[signal].append(request)
            received.headers.append({str(k): str(v) for k, v in context.invocation_metadata()})
            return response()

        return type("Service", (base,), {"Export": export})()

    server = grpc.server(ThreadPoolExecutor(2))
    traces_grpc.add_TraceServiceServicer_to_server(
        service(traces_grpc.TraceServiceServicer, "traces", traces.ExportTraceServiceResponse),
        server,
    )
    metrics_grpc.add_MetricsServiceServicer_to_server(
        service(
            metrics_grpc.MetricsServiceServicer, "metrics", metrics.ExportMetricsServiceResponse
        ),
        server,
    )
    logs_grpc.add_LogsServiceServicer_to_server(
        service(logs_grpc.LogsServiceServicer, "logs", logs.ExportLogsServiceResponse), server
    )
    received.port = server.add_insecure_port(address)
    server.start()
    try:
        yield received
    finally:
        server.stop(None).wait()
    received.check_reference()
