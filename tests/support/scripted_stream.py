"""A server that streams chunks at the command of a test, and clients that read them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai

from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from tests.support.http_server import http_server

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
_CHUNK = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
)
_REPLY = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"m",'
    b'"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"x"}}]}'
)
_LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'


class Script:
    """What the server does: statuses of the first requests, then replies of two pieces.

    Attributes:
        statuses: Statuses of the first responses, which are errors.
        before_end: The second half of a reply is sent when this is set.
        sent: Is set when a whole reply has been sent.
        requests: How many requests have arrived.
    """

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.before_end = threading.Event()
        self.before_end.set()
        self.sent = threading.Event()
        self.requests = 0


class _TlsServer(ThreadingHTTPServer):
    certificate: Path

    def get_request(self) -> Any:
        accepted, address = super().get_request()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.certificate.with_name("key.pem"))
        return context.wrap_socket(accepted, server_side=True), address


@contextlib.contextmanager
def scripted_server(script: Script, certificate: Path | None = None) -> Iterator[str]:
    """Run the server and yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            script.requests += 1
            status = script.statuses.pop(0) if script.statuses else 200
            is_stream = b'"stream":true' in body.replace(b" ", b"")
            self.send_response(status)
            kind = "text/event-stream" if is_stream and status == 200 else "application/json"
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            if status == 200:
                first, rest = (
                    (_CHUNK, _CHUNK + b"data: [DONE]\n\n") if is_stream else (b" ", _REPLY)
                )
                self._send(first)
                script.before_end.wait(10)
                self._send(rest)
            else:
                self._send(_LOADING)
            self._send(b"")
            script.sent.set()

        def _send(self, data: bytes) -> None:
            with contextlib.suppress(OSError):  # The client may have closed the connection.
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()

    server_class: type[ThreadingHTTPServer] = ThreadingHTTPServer
    if certificate is not None:
        server_class = type("_Server", (_TlsServer,), {"certificate": certificate})
    with http_server(Handler, server_class) as port:
        yield f"{'http' if certificate is None else 'https'}://localhost:{port}"


Consume = Callable[[], None]
"""Called after the first chunk of a stream: work of the application, which may block."""


def _nothing() -> None: ...


def openai_call(
    origin: str, work: Consume = _nothing, *, stream: bool = True, times: int = 1, **options: Any
) -> None:
    with openai.OpenAI(base_url=f"{origin}/v1", api_key="none", **options) as client:
        for _ in range(times):
            reply = client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
            if stream:
                _read(iter(reply), work)


def openai_call_async(
    origin: str, work: Consume = _nothing, *, stream: bool = True, times: int = 1, **options: Any
) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key="none", **options) as client:
            for _ in range(times):
                reply: Any = await client.chat.completions.create(
                    model="m", messages=MESSAGES, stream=stream
                )
                if stream:
                    await _read_async(aiter(reply), work)

    asyncio.run(run())


def llama_call(
    origin: str, work: Consume = _nothing, *, stream: bool = True, times: int = 1
) -> None:
    with LlamaCppClient(origin, load_wait_s=5) as client:
        for _ in range(times):
            reply: Any = client.chat(MESSAGES, stream=stream)
            if stream:
                _read(iter(reply), work)


def llama_call_async(
    origin: str, work: Consume = _nothing, *, stream: bool = True, times: int = 1
) -> None:
    async def run() -> None:
        async with AsyncLlamaCppClient(origin, load_wait_s=5) as client:
            for _ in range(times):
                reply: Any = await client.chat(MESSAGES, stream=stream)
                if stream:
                    await _read_async(aiter(reply), work)

    asyncio.run(run())


def _read(chunks: Iterator[Any], work: Consume) -> None:
    next(chunks)
    work()
    for _ in chunks:
        pass


async def _read_async(chunks: AsyncIterator[Any], work: Consume) -> None:
    await anext(chunks)
    work()
    async for _ in chunks:
        pass


CALLERS = [openai_call, openai_call_async, llama_call, llama_call_async]
