"""An HTTP server on loopback with a limited number of connections, for the receiver and the page."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast

HOST: Final = "127.0.0.1"
_UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)

_logger = logging.getLogger("llamatelemetry.local")


class LoopbackServer(ThreadingHTTPServer):
    """A server with a thread for each connection.

    Above `max_connections`, the one that is idle for the longest time is closed, and its client
    connects again. If a request is in progress on each of them, a new one gets status 503. A
    `listener` that listens already is served instead of `port`.
    """

    max_connections = 128
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        handler: type[LoopbackHandler],
        listener: socket.socket | None = None,
    ) -> None:
        self._lock = threading.Lock()
        # In the order of their last use, with whether a request is in progress.
        self._open: dict[socket.socket, bool] = {}
        super().__init__((HOST, port), handler, bind_and_activate=listener is None)
        if listener is not None:
            self.socket.close()
            self.socket, self.server_address = listener, listener.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or reject it."""
        if self._make_room():
            self.set_busy(request, False)
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):  # the client has closed the connection
            request.sendall(_UNAVAILABLE)
        self.shutdown_request(request)

    def set_busy(self, connection: socket.socket, busy: bool) -> None:
        """Set whether a request of this connection is in progress."""
        with self._lock:
            self._open.pop(connection, None)
            self._open[connection] = busy

    def _make_room(self) -> bool:
        """Close the connection that is idle for the longest time, if there are too many."""
        with self._lock:
            if len(self._open) < self.max_connections:
                return True
            idle = next((each for each, busy in self._open.items() if not busy), None)
            if idle is None:
                return False
            del self._open[idle]
        with contextlib.suppress(OSError):  # already closed
            idle.shutdown(socket.SHUT_RDWR)
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log an error of a connection."""
        # Usually the client has closed the connection. The default prints a traceback to stderr,
        # which is the terminal of the command.
        _logger.debug("Request failed: %r", sys.exception())

    def server_close(self) -> None:
        """Close the server and its idle connections."""
        # Idle keep-alive connections would otherwise delay the shutdown until their timeout.
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # already closed
                connection.shutdown(socket.SHUT_RD)
        super().server_close()


class LoopbackHandler(BaseHTTPRequestHandler):
    """A handler of a `LoopbackServer`."""

    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Mark the connection as busy once the headers of a request are complete.

        A client that sends them slowly therefore does not keep other clients out.
        """
        is_valid = super().parse_request()
        if is_valid:
            self._loopback_server.set_busy(self.connection, True)
        return is_valid

    def handle_one_request(self) -> None:
        """Handle a request, and mark the connection as idle after it."""
        super().handle_one_request()
        if not self.close_connection:
            self._loopback_server.set_busy(self.connection, False)

    @property
    def _loopback_server(self) -> LoopbackServer:
        return cast("LoopbackServer", self.server)
