"""A server that sends exactly the bytes of a test, including invalid responses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LLAMA = "Server: llama.cpp\r\n"


def head(status: str = "200 OK", *headers: str, server: str = LLAMA) -> bytes:
    """Return the head of a response. The connection is closed after the response."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status}\r\n{server}{lines}Connection: close\r\n\r\n".encode()


def plain(body: bytes, *headers: str, status: str = "200 OK", server: str = LLAMA) -> list[bytes]:
    """Return a plain response with a content length."""
    if not any(line.lower().startswith("content-length") for line in headers):
        headers = (*headers, f"Content-Length: {len(body)}")
    return [head(status, "Content-Type: application/json", *headers, server=server), body]


def chunked(
    pieces: Sequence[bytes],
    *headers: str,
    server: str = LLAMA,
    is_ended: bool = True,
    kind: str = "text/event-stream",
) -> list[bytes]:
    """Return a stream in HTTP chunks, of server-sent events by default."""
    kinds = (f"Content-Type: {kind}", "Transfer-Encoding: chunked")
    chunks = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    return [
        head("200 OK", *kinds, *headers, server=server),
        *chunks,
        *([b"0\r\n\r\n"] if is_ended else []),
    ]


class ScriptedHttpServer:
    """A running server. Each connection gets the next response; the last one is repeated."""

    def __init__(self, answers: Sequence[Sequence[bytes]], props: bytes | None = None) -> None:
        self._answers = list(answers)
        self._props = props
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.other_requests: list[bytes] = []
        self.request_lines: list[str] = []
        port = self._socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{port}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = _read_request(connection)
            self.request_lines.append(request.partition(b"\r\n")[0].decode())
            if not request.startswith(b"POST"):
                self.other_requests.append(request)
                not_found = [head("404 Not Found", "Content-Length: 0")]
                connection.sendall(
                    b"".join(not_found if self._props is None else plain(self._props))
                )
                return
            self.requests.append(request)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            try:
                for piece in answer:
                    connection.sendall(piece)
                    time.sleep(0.002)  # so that the client receives each piece by itself
            except OSError:
                pass  # The client has closed the connection.

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in (self._acceptor, *self._threads):
            thread.join(10)


@contextmanager
def scripted(*answers: Sequence[bytes], props: bytes | None = None) -> Iterator[ScriptedHttpServer]:
    """Run a server inside the `with` block."""
    server = ScriptedHttpServer(answers, props)
    try:
        yield server
    finally:
        server.close()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
