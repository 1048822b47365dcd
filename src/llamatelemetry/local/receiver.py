"""An OTLP receiver on loopback: HTTP with protobuf and JSON, gRPC where grpcio is installed.

It answers when what it was sent is in the store, so that a sender which was told "good" has lost
nothing. The standard library's server is enough for it: batches are few, spans in them many.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from llamatelemetry._optional import required_by
from llamatelemetry.local._protobuf import MalformedError, RefusedError, decode, records_of
from llamatelemetry.local.store import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from llamatelemetry.local._grpc import GrpcServer
    from llamatelemetry.local.store import Store

_logger = logging.getLogger("llamatelemetry.local")

_HOST: Final = "127.0.0.1"
_MAX_BODY_BYTES: Final = 64 * 1024**2
_MAX_PLAIN_BYTES: Final = 256 * 1024**2
_IDLE_S: Final = 60
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_RESPONSES: Final[Mapping[str, type[Message]]] = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}
# zlib's way of saying which header to expect.
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Receiver:
    """Listens from its making on; serves once it is started.

    The two are apart so that a process can be started in between, while there are no threads.

    Args:
        store: where it all goes.
        port: 0 picks a free one.
        grpc_port: gRPC is served there, too.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, store: Store, *, port: int = 0, grpc_port: int | None = None) -> None:
        self._intake = Intake(store)
        self._server = _Server((_HOST, port), self._intake)
        self._thread: threading.Thread | None = None
        self._grpc_port = grpc_port
        self._grpc: GrpcServer | None = None

    @property
    def url(self) -> str:
        """The base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants it."""
        return f"http://{_HOST}:{self._server.server_address[1]}"

    @property
    def received(self) -> Mapping[str, int]:
        """How many spans, points and log records have been kept."""
        return self._intake.received

    @property
    def problem(self) -> str | None:
        """Why something could not be kept, if that was so."""
        return self._intake.problem

    def start(self) -> None:
        """Serve, in threads of its own.

        Raises:
            OSError: the port for gRPC is taken.
            ImportError: gRPC is asked for and not installed.
        """
        if self._grpc_port is not None:
            with required_by("Receiving OTLP over gRPC", "llamatelemetry"):
                from llamatelemetry.local._grpc import GrpcServer

            self._grpc = GrpcServer(self._intake.take, self._grpc_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="llamatelemetry-receiver",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Take no more; what is being received is finished."""
        if self._grpc is not None:
            self._grpc.stop()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class Intake:
    """Where requests of every protocol end: decoded, and kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.received = dict.fromkeys(_RESPONSES, 0)
        self.problem: str | None = None

    def take(self, signal: str, request: Message) -> None:
        """Keep what a request brings.

        Raises:
            RefusedError: it holds what cannot be kept, or there is no room for it.
        """
        try:
            records = list(records_of(signal, request))
            self._store.write(records)
        except OverflowError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a number is out of range") from error
        except StoreFullError as error:
            if self.problem is None:
                _logger.error("%s; what arrives from now on is lost", error)
            self.problem = str(error)
            # Not one of the statuses that exporters try again on: the program would wait for them.
            raise RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from error
        with self._lock:
            self.received[signal] += len(records)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for requests that are being kept
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], intake: Intake) -> None:
        self.intake = intake
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        # Of the connection, mostly: whoever sent it has gone. Not a traceback on the terminal.
        _logger.debug("a request failed: %r", sys.exception())

    def server_close(self) -> None:
        # A sender that keeps its connection open would be waited for until it is idle too long.
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # closed meanwhile
                connection.shutdown(socket.SHUT_RD)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_POST(self) -> None:
        signal = self.path.removeprefix("/v1/")
        is_json = self.headers.get_content_type() == _JSON
        response: Message
        try:
            body = self._body()
            if signal not in _RESPONSES or self.path != f"/v1/{signal}":
                raise RefusedError(HTTPStatus.NOT_FOUND, f"{self.path} is not /v1/traces, ...")
            if not is_json and self.headers.get_content_type() != _PROTOBUF:
                raise RefusedError(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                    f"{self.headers.get_content_type()} is neither {_PROTOBUF} nor {_JSON}",
                )
            intake = cast("_Server", self.server).intake
            intake.take(signal, decode(signal, body, is_json=is_json))
            status, response = HTTPStatus.OK, _RESPONSES[signal]()
        except MalformedError as error:
            status, response = HTTPStatus.BAD_REQUEST, Status(code=3, message=str(error))
        except RefusedError as error:
            status, response = error.status, Status(message=str(error))
        self._answer(status, response, is_json=is_json)

    def do_GET(self) -> None:
        self.close_connection = True
        self._answer(
            HTTPStatus.METHOD_NOT_ALLOWED, Status(message="OTLP is sent by POST"), is_json=True
        )

    do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = self._chunks()
        else:
            length = self.headers.get("content-length", "")
            if not length.isdigit():
                self.close_connection = True
                raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "no content length")
            self._check_size(int(length))
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is shorter than announced")
        return _plain(body, self.headers.get("content-encoding", "identity").lower())

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(64).partition(b";")[0], 16)
            except ValueError as error:
                self.close_connection = True
                raise RefusedError(HTTPStatus.BAD_REQUEST, "a chunk without its size") from error
            self._check_size(len(body) + size)
            body += self.rfile.read(size)
            self.rfile.readline(64)
            if size == 0:
                return bytes(body)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= _MAX_BODY_BYTES:
            self.close_connection = True  # what follows is not read
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {_MAX_BODY_BYTES} bytes"
            )

    def _answer(self, status: HTTPStatus, response: Message, *, is_json: bool) -> None:
        body = (
            json_format.MessageToJson(response).encode()
            if is_json
            else response.SerializeToString()
        )
        self.send_response(status)
        self.send_header("Content-Type", _JSON if is_json else _PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        _logger.debug(format, *args)


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"no {encoding} here, but gzip")
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = unpacker.decompress(body, _MAX_PLAIN_BYTES)
    except zlib.error as error:
        raise MalformedError(f"not {encoding}: {error}") from error
    if unpacker.unconsumed_tail:
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large when unpacked")
    if not unpacker.eof:
        raise MalformedError(f"{encoding} that ends too early")
    return plain
