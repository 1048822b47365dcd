"""A scripted loopback server, for errors that a real server does not produce on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK"}


@dataclass
class ReceivedRequest:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedResponse:
    """A response: JSON, bytes, or the chunks of a stream.

    Attributes:
        cut: Whether the connection closes before the end of the response.
        silent: Whether the connection closes without a response.
        reset: Whether the connection is reset before the end of the response.
    """

    status: int = 200
    body: Any = b""
    chunks: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    silent: bool = False
    reset: bool = False

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Loopback:
    url: str
    asked: list[ReceivedRequest]
    connections: set[asyncio.StreamWriter]


def sse(*events: Any) -> list[bytes]:
    """Return each event as one chunk of a stream."""
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]


@contextmanager
def loopback(answer: Callable[[ReceivedRequest], ScriptedResponse]) -> Iterator[Loopback]:
    """Serve on a free port, on a thread with its own event loop."""
    loop = asyncio.new_event_loop()
    asked: list[ReceivedRequest] = []
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            while request := await _read(reader):
                asked.append(request)
                if not await _write(writer, answer(request)):
                    break
        except (ConnectionError, asyncio.CancelledError):
            # The client has closed the connection, or the test has ended.
            pass
        finally:
            connections.discard(writer)
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = server.sockets[0].getsockname()[1]
    try:
        yield Loopback(f"http://127.0.0.1:{port}", asked, connections)
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> ReceivedRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return ReceivedRequest(method, path, headers, json.loads(body) if body else None)


async def _write(writer: asyncio.StreamWriter, reply: ScriptedResponse) -> bool:
    await asyncio.sleep(reply.delay_s)
    if reply.silent:
        return False
    content = reply.encoded()
    kind = "text/event-stream" if reply.chunks else "application/json"
    size = "transfer-encoding: chunked" if reply.chunks else f"content-length: {len(content)}"
    own = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    head = f"HTTP/1.1 {reply.status} X\r\nserver: llama.cpp\r\ncontent-type: {kind}\r\n{size}\r\n{own}\r\n"
    writer.write(head.encode() + content)
    for piece in reply.chunks:
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    if reply.reset:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if reply.cut or reply.reset:
        return False
    if reply.chunks:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
