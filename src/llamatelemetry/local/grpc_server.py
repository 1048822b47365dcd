"""OTLP over gRPC, for programs that cannot use HTTP.

The handlers are registered by service name instead of through the generated `*_pb2_grpc` modules.
With those, grpcio would answer a malformed request with `INTERNAL` and print a traceback.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import grpc

from llamatelemetry.local.otlp import MalformedError, RejectedError, parse_request
from llamatelemetry.local.request_limits import MAX_BODY_BYTES, check_complexity

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

_SERVICES: Final = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_THREADS: Final = 4


class GrpcServer:
    """A gRPC server on loopback that serves from its construction.

    Raises:
        OSError: The port is in use.
    """

    def __init__(self, store: Callable[[str, Message], None], port: int) -> None:
        self._store = store
        library: Any = grpc  # grpcio has no type annotations
        self._server = library.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="llamatelemetry-grpc"),
            options=[
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
                # Otherwise a second server on the port would get some of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._server.add_generic_rpc_handlers(
            [
                library.method_handlers_generic_handler(
                    service, {"Export": self._handler(library, signal)}
                )
                for signal, service in _SERVICES.items()
            ]
        )
        try:
            self._server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot serve gRPC on port {port}: {error}") from error
        self._server.start()

    def _handler(self, library: Any, signal: str) -> Any:
        def export(body: bytes, context: Any) -> bytes:
            try:
                check_complexity(signal, body)
                self._store(signal, parse_request(signal, body))
            except MalformedError as error:
                context.abort(library.StatusCode.INVALID_ARGUMENT, str(error))
            except RejectedError as error:
                # Exporters retry this status only if it carries a retry delay.
                context.abort(library.StatusCode.RESOURCE_EXHAUSTED, str(error))
            # A response message with default values is empty.
            return b""

        return library.unary_unary_rpc_method_handler(export)

    def stop(self) -> None:
        """Stop serving after requests in progress have finished."""
        self._server.stop(grace=1).wait()
