"""An OTLP receiver on loopback: HTTP with protobuf and JSON, and gRPC if grpcio is installed.

A success response means that the data is in the database. The standard library's HTTP server is
fast enough, because exporters send few large batches.
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from llamatelemetry._optional import required_by
from llamatelemetry._terminal import printable
from llamatelemetry.local.launch import address_of, listen
from llamatelemetry.local.loopback_server import LoopbackHandler, LoopbackServer
from llamatelemetry.local.otlp import MalformedError, RejectedError, parse_request, records_of
from llamatelemetry.local.request_limits import (
    MAX_BODY_BYTES,
    BodyBudget,
    check_complexity,
    decompress,
    too_large,
)
from llamatelemetry.local.store import StoreWriteError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

    from llamatelemetry.local.grpc_server import GrpcServer
    from llamatelemetry.local.store import Store

_logger = logging.getLogger("llamatelemetry.local")

_IDLE_S: Final = 60
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_RESPONSES: Final[Mapping[str, type[Message]]] = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}


class Receiver:
    """An OTLP receiver. It serves from `start()`.

    A child process can be started before, while this process has no other threads. Without a
    `grpc_port`, only HTTP is served.

    Args:
        store: Database for the records.
        listener: Socket that listens on loopback; one on a free port if `None`.
        grpc_port: Port for gRPC.

    Attributes:
        received: Number of stored spans, metric data points and log records, by signal.
        problem: Why data was lost, or `None` if everything was stored.
    """

    def __init__(
        self,
        store: Store,
        *,
        listener: socket.socket | None = None,
        grpc_port: int | None = None,
    ) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._server = _OtlpServer(listener or listen(0), self._write)
        self._thread: threading.Thread | None = None
        self._grpc_port = grpc_port
        self._grpc: GrpcServer | None = None
        self.received = dict.fromkeys(_RESPONSES, 0)
        self.problem: str | None = None

    @property
    def url(self) -> str:
        """Base URL, for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return address_of(self._server.socket)

    def start(self) -> None:
        """Serve in background threads. HTTP is served even if gRPC cannot be.

        Raises:
            OSError: The port for gRPC is in use.
            ImportError: A gRPC port is given, but grpcio is not installed.
        """
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="llamatelemetry-receiver",
            daemon=True,
        )
        self._thread.start()
        if self._grpc_port is not None:
            with required_by("Receiving OTLP over gRPC", "llamatelemetry"):
                from llamatelemetry.local.grpc_server import GrpcServer

            self._grpc = GrpcServer(self._write, self._grpc_port)

    def stop(self) -> None:
        """Stop serving after requests in progress have finished."""
        if self._grpc is not None:
            self._grpc.stop()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _write(self, signal: str, request: Message) -> None:
        """Write the records of a request to the database.

        Raises:
            RejectedError: A number is out of range, or the disk is full.
        """
        try:
            number = self._store.write(records_of(signal, request))
        except OverflowError as error:
            raise RejectedError(HTTPStatus.BAD_REQUEST, "a number is out of range") from error
        except StoreWriteError as error:
            if self.problem is None:
                _logger.error("%s: telemetry received from now on is lost", error)
            self.problem = str(error)
            # Exporters do not retry this status. Retries would delay the exit of the program.
            raise RejectedError(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from error
        with self._lock:
            self.received[signal] += number


class _OtlpServer(LoopbackServer):
    # server_close() waits for requests that are being stored.
    daemon_threads = False

    def __init__(self, listener: socket.socket, write: Callable[[str, Message], None]) -> None:
        self.write = write
        self.budget = BodyBudget()
        # Requests are parsed one after the other, because a message needs more memory than its
        # body. The database has one writer anyway.
        self.parsing = threading.Lock()
        super().__init__(0, _OtlpHandler, listener)


class _OtlpHandler(LoopbackHandler):
    timeout = _IDLE_S
    _body_is_read = False

    def do_POST(self) -> None:  # noqa: N802 - fixed by the base class
        signal = self.path.removeprefix("/v1/")
        kind = self.headers.get_content_type()
        is_json = kind == _JSON
        response: Message
        self._body_is_read = False
        try:
            self._check_sender()
            if signal not in _RESPONSES or self.path != f"/v1/{signal}":
                raise RejectedError(
                    HTTPStatus.NOT_FOUND,
                    f"the path must be /v1/traces, /v1/metrics or /v1/logs, got {self.path}",
                )
            if kind not in {_PROTOBUF, _JSON}:
                raise RejectedError(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                    f"the content type must be {_PROTOBUF} or {_JSON}, got {kind}",
                )
            self._store(signal, is_json=is_json)
            status, response = HTTPStatus.OK, _RESPONSES[signal]()
        except MalformedError as error:
            status, response = HTTPStatus.BAD_REQUEST, Status(code=3, message=str(error))
        except RejectedError as error:
            status, response = error.status, Status(message=str(error))
        if not self._body_is_read:
            # The rest of the body would be taken for the next request.
            self.close_connection = True
        self._respond(status, response, is_json=is_json)

    def do_GET(self) -> None:  # noqa: N802 - fixed by the base class
        self.close_connection = True
        self._respond(
            HTTPStatus.METHOD_NOT_ALLOWED, Status(message="the method must be POST"), is_json=True
        )

    do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    @property
    def _server(self) -> _OtlpServer:
        return cast("_OtlpServer", self.server)

    def _check_sender(self) -> None:
        """Reject requests of web pages: no exporter sends `Origin`, and every browser does.

        With DNS rebinding, a page of another site can reach this port through its own host name.
        """
        # Imported by the first request: `llamatelemetry run` starts its command after the import of
        # this module, and the package takes twice as long as all else.
        from llamatelemetry.genai import is_loopback

        try:
            host = urlsplit(f"//{self.headers.get('host', '')}").hostname
        except ValueError:  # an incomplete IPv6 address
            host = None
        if not is_loopback(host):
            raise RejectedError(HTTPStatus.FORBIDDEN, "the host must be 127.0.0.1 or localhost")
        if "origin" in self.headers:
            raise RejectedError(HTTPStatus.FORBIDDEN, "requests of web pages are not accepted")

    def _store(self, signal: str, *, is_json: bool) -> None:
        encoding = self.headers.get("content-encoding", "identity").lower()
        size = self._size()
        with self._server.budget.reserve(MAX_BODY_BYTES if size is None else size):
            body = self._chunks() if size is None else self._read(size)
            self._body_is_read = True
            with self._server.parsing:
                body = decompress(body, encoding)
                check_complexity(signal, body, is_json=is_json)
                self._server.write(signal, parse_request(signal, body, is_json=is_json))

    def _size(self) -> int | None:
        """Return the size of the body, `None` if it is sent in chunks."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return None
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise RejectedError(HTTPStatus.LENGTH_REQUIRED, "the content length is missing")
        size = int(length[:20])
        self._check_size(size)
        return size

    def _read(self, size: int) -> bytes:
        body = self.rfile.read(size)
        if len(body) < size:
            raise RejectedError(HTTPStatus.BAD_REQUEST, "the body is shorter than its length")
        return body

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(64).partition(b";")[0], 16)
            except ValueError as error:
                raise RejectedError(
                    HTTPStatus.BAD_REQUEST, "the size of a chunk is invalid"
                ) from error
            self._check_size(len(body) + size)
            body += self.rfile.read(size)
            self.rfile.readline(64)
            if size == 0:
                return bytes(body)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= MAX_BODY_BYTES:
            raise too_large("the number of bytes of the body", MAX_BODY_BYTES)

    def _respond(self, status: HTTPStatus, response: Message, *, is_json: bool) -> None:
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

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - fixed by the base class
        if _logger.isEnabledFor(logging.DEBUG):
            # The request line can contain escape sequences.
            _logger.debug("%s", printable(format % args, lines=False))
