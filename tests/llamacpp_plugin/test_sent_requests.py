"""What the application finds in a request after it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
import requests

from tests.support.byte_server import plain, scripted
from tests.support.llama_cpp_responses import BODY, CHAT
from tests.support.recorder import Recorder

OPTIONS = {"llamacpp_allow": ("127.0.0.1",), "diagnostics": True}
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def edit(request: Any) -> None:
    """Change a request in an event hook, as signatures and timers do."""
    request.headers["x-signature"] = "abc"
    del request.headers["accept"]
    request.extensions["started"] = 1


def send(library: Any, url: str) -> Any:
    with library.Client(auth=("me", "secret"), event_hooks={"request": [edit]}) as client:
        return client.post(url, json=BODY).request


def send_async(library: Any, url: str) -> Any:
    async def edit_async(request: Any) -> None:
        edit(request)

    async def run() -> Any:
        hooks = {"request": [edit_async]}
        async with library.AsyncClient(auth=("me", "secret"), event_hooks=hooks) as client:
            return (await client.post(url, json=BODY)).request

    return asyncio.run(run())


def described(request: Any) -> Any:
    headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
    return headers, getattr(request, "extensions", None)


def check_same_when_instrumented(
    instrument: Callable[..., Recorder], send_to: Callable[[str], Any]
) -> None:
    with scripted(plain(CHAT)) as server:
        expected = described(send_to(f"{server.origin}/v1/chat/completions"))
    recorder = instrument(**OPTIONS)
    with scripted(plain(CHAT)) as server:
        found = described(send_to(f"{server.origin}/v1/chat/completions"))
    assert b"traceparent: " in server.requests[0].lower()
    assert found == expected
    recorder.call()


@LIBRARIES
@pytest.mark.parametrize("sender", [send, send_async])
def test_request_keeps_what_authentication_and_hooks_have_set(
    library: Any, sender: Callable[[Any, str], Any], instrument: Callable[..., Recorder]
) -> None:
    check_same_when_instrumented(instrument, lambda url: sender(library, url))


def test_request_keeps_what_a_transport_adapter_has_set(
    instrument: Callable[..., Recorder],
) -> None:
    class Signing(requests.adapters.HTTPAdapter):
        def add_headers(self, request: Any, **_kwargs: Any) -> None:
            request.headers["X-Signature"] = "abc"

    def send_to(url: str) -> Any:
        with requests.Session() as session:
            session.mount("http://", Signing())
            return session.post(url, json=BODY).request

    check_same_when_instrumented(instrument, send_to)


@LIBRARIES
def test_request_keeps_a_trace_context_and_mappings_of_a_hook(
    library: Any, instrument: Callable[..., Recorder]
) -> None:
    def replace(request: Any) -> None:
        request.headers["traceparent"] = "mine"
        request.extensions = {"mine": 1}

    def send_to(url: str) -> Any:
        with library.Client(event_hooks={"request": [replace]}) as client:
            return client.post(url, json=BODY).request

    check_same_when_instrumented(instrument, send_to)
