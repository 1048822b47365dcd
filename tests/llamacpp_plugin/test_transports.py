"""Transports of httpx that send requests with another library, as httpx-aiohttp does with aiohttp."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import httpx
from aiohttp import web

from tests.support.byte_server import head, plain, scripted
from tests.support.llama_cpp_responses import BODY, CHAT
from tests.support.recorder import Recorder


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request with aiohttp, like the transport of httpx-aiohttp."""

    def __init__(self, uds: str | None = None) -> None:
        self.uds = uds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            data = request.content
        except httpx.RequestNotRead:
            data = request.stream
            request.headers.pop("transfer-encoding", None)
        connector = None if self.uds is None else aiohttp.UnixConnector(self.uds)
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.request(
                request.method,
                str(request.url),
                headers=request.headers,
                data=data,
                allow_redirects=False,
            ) as response,
        ):
            return httpx.Response(
                response.status, headers=response.headers, content=await response.read()
            )


async def post(url: str, transport: AiohttpTransport) -> httpx.Response:
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        return await client.post(url, json=BODY)


def test_redirect_to_another_server_is_one_call(instrumented: Recorder) -> None:
    path = "/v1/chat/completions"
    with scripted(plain(CHAT)) as target:
        moved = [head("307 Moved", f"Location: {target.origin}{path}", "Content-Length: 0")]
        with scripted(moved) as first:
            response = asyncio.run(post(first.origin + path, AiohttpTransport()))
    assert response.content == CHAT
    assert instrumented.call().name == "chat smol"
    assert instrumented.tokens("output") == 5


def test_call_over_unix_socket_is_one_call_to_that_socket(
    instrumented: Recorder, socket_path: Path
) -> None:
    path = str(socket_path)

    async def reply(_: web.Request) -> web.Response:
        return web.json_response(json.loads(CHAT), headers={"Server": "llama.cpp"})

    async def run() -> httpx.Response:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        try:
            return await post("http://localhost/v1/chat/completions", AiohttpTransport(path))
        finally:
            await runner.cleanup()

    assert asyncio.run(run()).json() == json.loads(CHAT)
    assert (instrumented.call().attributes or {})["server.address"] == path
    assert instrumented.tokens("output") == 5
