"""The model server of scripts/soak.py. Its responses are those of llama.cpp, and always the same.

It is a server on a socket, or a transport inside the client's process. The transport leaves out
the network and nothing else: the client writes the request and parses the response.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import httpx2

_USAGE = {"prompt_tokens": 40, "completion_tokens": 4, "total_tokens": 44}
_TIMINGS = {"cache_n": 0, "prompt_n": 40, "prompt_ms": 8.0, "predicted_n": 4, "predicted_ms": 6.0}
_HEAD = "HTTP/1.1 {status}\r\nServer: llama.cpp\r\nContent-Type: {kind}\r\n{length}\r\n\r\n"


class _Reply(NamedTuple):
    status: str
    content_type: str
    pieces: tuple[bytes, ...]


@cache
def _reply(model: str, *, stream: bool) -> _Reply:
    if model == "fails":
        body = b'{"error": {"message": "out of memory", "type": "server_error", "code": 500}}'
        return _Reply("500 Internal Server Error", "application/json", (body,))
    if not stream:
        message = {"role": "assistant", "content": "Sent to ada@example.com."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = _envelope(model, "chat.completion", choice)
        body = json.dumps({**reply, "usage": _USAGE, "timings": _TIMINGS}).encode()
        return _Reply("200 OK", "application/json", (body,))
    words = ["Sent ", "to ", "ada@example.com", "."]
    choices = [{"index": 0, "delta": {"content": w}, "finish_reason": None} for w in words]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks = [_envelope(model, "chat.completion.chunk", choice) for choice in choices]
    end = {**chunks[-1], "choices": [], "usage": _USAGE, "timings": _TIMINGS}
    lines = [*(json.dumps(chunk) for chunk in (*chunks, end)), "[DONE]"]
    pieces = tuple(f"data: {line}\n\n".encode() for line in lines)
    return _Reply("200 OK", "text/event-stream", pieces)


def _envelope(model: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": 1, "model": model, "choices": [choice]}


def _reply_to(request: bytes) -> _Reply:
    body = json.loads(request)
    return _reply(body["model"], stream=bool(body.get("stream")))


def response(model: str, *, stream: bool) -> bytes:
    """Return the bytes of a response of llama.cpp."""
    status, kind, pieces = _reply(model, stream=stream)
    body = b"".join(pieces)
    head = _HEAD.format(status=status, kind=kind, length=f"Content-Length: {len(body)}")
    return head.encode() + body


class InProcessTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """The server as a transport of the HTTP client."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response to a request of a thread."""
        return self._response(request.read())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response to a request of a task, after the other tasks had their turn."""
        body = await request.aread()
        await asyncio.sleep(0)
        return self._response(body)

    def _response(self, body: bytes) -> httpx2.Response:
        status, kind, pieces = _reply_to(body)
        return httpx2.Response(
            int(status[:3]),
            headers={"server": "llama.cpp", "content-type": kind},
            stream=_Pieces(pieces),
        )


class _Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            _, _, length = head.lower().partition(b"content-length:")
            if not length:  # GET /props
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            request = json.loads(await reader.readexactly(int(length.split(b"\r\n")[0])))
            writer.write(response(request["model"], stream=bool(request.get("stream"))))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


@contextmanager
def model_server() -> Iterator[str]:
    """Run the server on a socket in a thread, and yield its URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_serve, "127.0.0.1", 0, backlog=4096))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_stop(server))
        loop.close()
