"""Functions that send a request with each client library, and return all that the application observes."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import httpx2
import requests
import urllib3


@dataclass
class Observation:
    """The observations of the application, compared with those without instrumentation."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hops: int = 0
    body: bytes = b""
    error: str | None = None

    @contextmanager
    def record_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = f"{type(error).__module__}.{type(error).__name__}: {error}"

    def record_response(self, response: Any) -> None:
        retries = getattr(response, "retries", None)  # urllib3
        self.status = response.status if hasattr(response, "status") else response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.hops = len(response.history if retries is None else retries.history)

    def stops_after(self, number: int, request: CallerRequest) -> bool:
        """Return whether the application stops reading after this chunk."""
        if number != request.chunks:
            return False
        # The end of a chunk depends on what has arrived when the client reads.
        self.body = self.body[:32]
        return True


@dataclass(frozen=True)
class CallerRequest:
    """A request. The application stops reading after `chunks` chunks."""

    url: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    chunks: int | None = None
    proxy: str | None = None


def _options(library: Any, request: CallerRequest) -> dict[str, Any]:
    # httpx renamed the argument in 0.26.
    name = "proxy" if "proxy" in inspect.signature(library.Client).parameters else "proxies"
    return {"follow_redirects": True, name: request.proxy}


def _httpx(library: Any) -> Callable[[CallerRequest], Observation]:
    def call(request: CallerRequest) -> Observation:
        seen = Observation()
        with seen.record_error(), library.Client(**_options(library, request)) as client:
            response = client.post(request.url, json=request.body, headers=request.headers)
            seen.record_response(response)
            seen.body = response.content
        return seen

    return call


def _httpx_stream(library: Any) -> Callable[[CallerRequest], Observation]:
    def call(request: CallerRequest) -> Observation:
        seen = Observation()
        with (
            seen.record_error(),
            library.Client(**_options(library, request)) as client,
            client.stream(
                "POST", request.url, json=request.body, headers=request.headers
            ) as response,
        ):
            seen.record_response(response)
            for number, chunk in enumerate(response.iter_bytes(), 1):
                seen.body += chunk
                if seen.stops_after(number, request):
                    break
        return seen

    return call


def _httpx_async(library: Any) -> Callable[[CallerRequest], Observation]:
    async def call(request: CallerRequest) -> Observation:
        seen = Observation()
        with seen.record_error():
            async with library.AsyncClient(**_options(library, request)) as client:
                response = await client.post(
                    request.url, json=request.body, headers=request.headers
                )
                seen.record_response(response)
                seen.body = response.content
        return seen

    return lambda request: asyncio.run(call(request))


def _httpx_async_stream(library: Any) -> Callable[[CallerRequest], Observation]:
    async def call(request: CallerRequest) -> Observation:
        seen = Observation()
        with seen.record_error():
            async with (
                library.AsyncClient(**_options(library, request)) as client,
                client.stream(
                    "POST", request.url, json=request.body, headers=request.headers
                ) as response,
            ):
                seen.record_response(response)
                number = 0
                async for chunk in response.aiter_bytes():
                    seen.body += chunk
                    number += 1
                    if seen.stops_after(number, request):
                        break
        return seen

    return lambda request: asyncio.run(call(request))


def _requests(request: CallerRequest) -> Observation:
    seen = Observation()
    with seen.record_error(), requests.Session() as session:
        proxies = {"http": request.proxy} if request.proxy else None
        response = session.post(
            request.url, json=request.body, headers=request.headers, proxies=proxies
        )
        seen.record_response(response)
        seen.body = response.content
    return seen


def _requests_stream(request: CallerRequest) -> Observation:
    seen = Observation()
    proxies = {"http": request.proxy} if request.proxy else None
    with (
        seen.record_error(),
        requests.Session() as session,
        session.post(
            request.url, json=request.body, headers=request.headers, proxies=proxies, stream=True
        ) as response,
    ):
        seen.record_response(response)
        for number, chunk in enumerate(response.iter_content(None), 1):
            seen.body += chunk
            if seen.stops_after(number, request):
                break
    return seen


def _requests_raw(request: CallerRequest) -> Observation:
    """Read the undecoded body, as clients with their own event parser do."""
    seen = Observation()
    proxies = {"http": request.proxy} if request.proxy else None
    with (
        seen.record_error(),
        requests.Session() as session,
        session.post(
            request.url, json=request.body, headers=request.headers, proxies=proxies, stream=True
        ) as response,
    ):
        seen.record_response(response)
        # Adding to `bytes` would copy 10 MB 20,000 times, and the server waits for ten seconds.
        body, number = bytearray(), 0
        try:
            while chunk := response.raw.read(512):
                body += chunk
                number += 1
                if seen.stops_after(number, request):
                    break
        finally:
            seen.body = bytes(body)
    return seen


def _urllib3(request: CallerRequest) -> Observation:
    seen = Observation()
    with seen.record_error(), _pools(request) as pools:
        response = pools.request("POST", request.url, **_urllib3_arguments(request))
        seen.record_response(response)
        seen.body = response.data
    return seen


def _urllib3_stream(request: CallerRequest) -> Observation:
    seen = Observation()
    with seen.record_error(), _pools(request) as pools:
        response = pools.request(
            "POST", request.url, preload_content=False, **_urllib3_arguments(request)
        )
        seen.record_response(response)
        with response:
            for number, chunk in enumerate(response.stream(), 1):
                seen.body += chunk
                if seen.stops_after(number, request):
                    break
    return seen


def _pools(request: CallerRequest) -> urllib3.PoolManager:
    return urllib3.ProxyManager(request.proxy) if request.proxy else urllib3.PoolManager()


def _urllib3_arguments(request: CallerRequest) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **request.headers}
    # Without `retries` it repeats a request whose connection fails.
    return {
        "body": json.dumps(request.body).encode(),
        "headers": headers,
        "retries": urllib3.Retry(connect=False, read=False, redirect=10),
    }


def _aiohttp(*, is_stream: bool) -> Callable[[CallerRequest], Observation]:
    async def call(request: CallerRequest) -> Observation:
        seen = Observation()
        with seen.record_error():
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    request.url, json=request.body, headers=request.headers, proxy=request.proxy
                ) as response,
            ):
                seen.record_response(response)
                if not is_stream:
                    seen.body = await response.read()
                    return seen
                number = 0
                async for chunk in response.content.iter_any():
                    seen.body += chunk
                    number += 1
                    if seen.stops_after(number, request):
                        break
        return seen

    return lambda request: asyncio.run(call(request))


PLAIN: dict[str, Callable[[CallerRequest], Observation]] = {
    "httpx": _httpx(httpx),
    "httpx-async": _httpx_async(httpx),
    "httpx2": _httpx(httpx2),
    "httpx2-async": _httpx_async(httpx2),
    "requests": _requests,
    "urllib3": _urllib3,
    "aiohttp": _aiohttp(is_stream=False),
}
STREAMED: dict[str, Callable[[CallerRequest], Observation]] = {
    "httpx-stream": _httpx_stream(httpx),
    "httpx-async-stream": _httpx_async_stream(httpx),
    "httpx2-stream": _httpx_stream(httpx2),
    "httpx2-async-stream": _httpx_async_stream(httpx2),
    "requests-stream": _requests_stream,
    "requests-raw": _requests_raw,
    "urllib3-stream": _urllib3_stream,
    "aiohttp-stream": _aiohttp(is_stream=True),
}
CALLERS = {**PLAIN, **STREAMED}
