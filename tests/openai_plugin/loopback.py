"""A real HTTP server with the protocol of OpenAI that keeps the request headers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support import payloads


class Loopback:
    """The URL and the requests of the server. It returns the status codes in `statuses` first."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.requests: list[Message] = []
        self.statuses: list[int] = []

    def sent(self, name: str) -> list[str]:
        """Return all values of a header of the only request."""
        (headers,) = self.requests
        return headers.get_all(name, [])


@contextmanager
def loopback_server() -> Iterator[Loopback]:
    """Run a server inside the `with` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            loopback.requests.append(self.headers)
            if loopback.statuses:
                self._answer(loopback.statuses.pop(0), b"{}")
            elif body.get("stream"):
                self._answer(200, payloads.sse(payloads.chat_chunks()), "text/event-stream")
            else:
                self._answer(200, json.dumps(payloads.chat()).encode())

        def do_GET(self) -> None:
            loopback.requests.append(self.headers)
            self._answer(200, b'{"object": "list", "data": []}')

        def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    loopback = Loopback(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
