# ruff: noqa: N802, N815 - the names that http.server and gRPC call
"""Real OTLP receivers on loopback, HTTP and gRPC, that answer as a test wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.support.http_server import http_server


@dataclass
class Receiver:
    """Where it listens, and each request: path, headers with lower-case names, body size."""

    port: int
    requests: list[tuple[str, dict[str, str], int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def http_receiver(
    status: int = 200,
    by_path: Mapping[str, int] | None = None,
    bodies: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Receiver]:
    """Run a server that returns `status` or the status of the path, with the body of the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            self.rfile.read(size)
            lowered = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append((self.path, lowered, size))
            body = (bodies or {}).get(self.path, "").encode()
            self.send_response((by_path or {}).get(self.path, status))
            for name, value in (headers or {}).items():
                if name != "Server":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def version_string(self) -> str:
            return (headers or {}).get("Server", "test")

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        receiver = Receiver(port)
        yield receiver


@contextmanager
def grpc_receiver(refuse: grpc.StatusCode | None = None) -> Iterator[Receiver]:
    """Run a gRPC receiver for traces only, which it rejects with the status `refuse` if given."""

    class Servicer(TraceServiceServicer):
        def Export(self, request, context):
            metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
            receiver.requests.append(("traces", metadata, request.ByteSize()))
            if refuse is not None:
                context.abort(refuse, "no")
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    receiver = Receiver(server.add_insecure_port("127.0.0.1:0"))
    add_TraceServiceServicer_to_server(Servicer(), server)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
