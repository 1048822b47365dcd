"""CPU time that the plugin for inference servers adds to HTTP requests that are not calls of a model.

Each library sends real requests over a kept connection to a server in another process. Bare and
instrumented requests alternate in small blocks in one run. The results are those of the fastest blocks,
which other processes disturb least: CPU time of this thread per request, in microseconds, and the ratio
of instrumented to bare requests.

The three kinds of requests differ in what the plugin has to look at: the method, the path, and the
response.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import aiohttp
import httpx
import httpx2
import requests
import urllib3

from _added_cpu import block
from _dropping import providers
from llamatelemetry.genai import known_servers
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

BLOCKS = 40
REQUESTS_PER_BLOCK = 40
_MESSAGE = {"role": "assistant", "content": "Hi"}
_REPLY = {
    "id": "1",
    "model": "smol",
    "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}],
    "usage": {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26},
}
_BODY = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}]}
KINDS = {
    "GET": ("GET", "/things"),
    "POST, other path": ("POST", "/things"),
    "POST, path of a model": ("POST", "/v1/chat/completions"),
}


def serve(listener: socket.socket) -> None:
    """Answer every request on every connection with the same bytes."""
    body = json.dumps(_REPLY).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head_of_request := await _read_head(reader):
            length = head_of_request.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            writer.write(head.encode() + body)
            await writer.drain()

    async def run() -> None:
        async with await asyncio.start_server(answer, sock=listener) as server:
            await server.serve_forever()

    asyncio.run(run())


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def senders(stack: ExitStack, origin: str) -> dict[str, Callable[[str, str], Callable[[], Any]]]:
    """Return, by library, a function that makes a function that sends one request."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)

    async def start() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    aiohttp_session = loop.run_until_complete(start())
    stack.callback(lambda: loop.run_until_complete(aiohttp_session.close()))
    clients = {
        "httpx": stack.enter_context(httpx.Client()),
        "httpx2": stack.enter_context(httpx2.Client()),
        "requests": stack.enter_context(requests.Session()),
        "urllib3": stack.enter_context(urllib3.PoolManager()),
    }

    def blocking(client: Any) -> Callable[[str, str], Callable[[], Any]]:
        return lambda method, path: (
            lambda: client.request(
                method, origin + path, **({"json": _BODY} if method == "POST" else {})
            )
        )

    def with_aiohttp(method: str, path: str) -> Callable[[], Any]:
        async def send() -> bytes:
            options = {"json": _BODY} if method == "POST" else {}
            async with aiohttp_session.request(method, origin + path, **options) as response:
                return await response.read()

        return lambda: loop.run_until_complete(send())

    return {**{name: blocking(client) for name, client in clients.items()}, "aiohttp": with_aiohttp}


def fastest(work: Callable[[], Any], sdk: dict[str, Any]) -> tuple[float, float]:
    """Return the CPU time of a request without and with the plugin, in microseconds."""
    plugin = LlamaCppInstrumentor()
    bare: list[float] = []
    instrumented: list[float] = []
    for _ in range(BLOCKS):
        bare.append(block(work, REQUESTS_PER_BLOCK))
        plugin.instrument(**sdk)
        instrumented.append(block(work, REQUESTS_PER_BLOCK))
        plugin.uninstrument()
    return min(bare), min(instrumented)


def main() -> int:
    """Print the table."""
    listener = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listener,))
    server.start()
    sdk = providers()
    print(f"{'':<12}{'':<24}{'bare us':>10}{'added us':>10}{'ratio':>8}")
    try:
        with ExitStack() as stack:
            for library, make in senders(stack, origin).items():
                for kind, (method, path) in KINDS.items():
                    known_servers.forget()
                    bare, instrumented = fastest(make(method, path), sdk)
                    figures = f"{bare:>10.1f}{instrumented - bare:>10.2f}"
                    print(f"{library:<12}{kind:<24}{figures}{instrumented / bare:>8.3f}")
    finally:
        server.terminate()
        server.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
