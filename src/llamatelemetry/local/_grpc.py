"""OTLP over gRPC, for programs that insist on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import grpc

from llamatelemetry.local._protobuf import MalformedError, RefusedError, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

_SERVICES: Final = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_THREADS: Final = 4
_MAX_BODY_BYTES: Final = 64 * 1024**2


class GrpcServer:
    """Serves from its making on.

    Args:
        take: keeps a request of a signal.
        port: on loopback.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, take: Callable[[str, Message], None], port: int) -> None:
        self._take = take
        library: Any = grpc  # it has no types
        self._server = library.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="llamatelemetry-grpc"),
            options=[
                ("grpc.max_receive_message_length", _MAX_BODY_BYTES),
                ("grpc.so_reuseport", 0),  # a second server on the port would share its calls
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
                self._take(signal, decode(signal, body))
            except MalformedError as error:
                context.abort(library.StatusCode.INVALID_ARGUMENT, str(error))
            except RefusedError as error:
                # Without details on when to try again, exporters do not.
                context.abort(library.StatusCode.RESOURCE_EXHAUSTED, str(error))
            return b""  # an empty response is one of all defaults

        return library.unary_unary_rpc_method_handler(export)

    def stop(self) -> None:
        """Take no more; what is being received is finished."""
        self._server.stop(grace=1).wait()
