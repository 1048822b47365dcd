"""Ways of aiohttp and urllib3 to read a body: the application gets the same, and the call its tokens."""

from __future__ import annotations

import asyncio
import gc
import gzip
import inspect
import io
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from time import time_ns
from typing import Any

import aiohttp
import pytest
import requests
import urllib3
from opentelemetry.trace import StatusCode

from llamatelemetry.genai import flush_pending
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support.byte_server import ScriptedHttpServer, chunked, plain, scripted
from tests.support.engine_formats import as_lines, ollama_chat, ollama_chat_objects
from tests.support.llama_cpp_responses import CHAT, EVENTS
from tests.support.recorder import Recorder

LINES = as_lines(ollama_chat_objects())
STREAM = chunked(LINES, server="", kind="application/x-ndjson")
PLAIN = plain(json.dumps(ollama_chat()).encode(), server="")
BODY = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}]}
WHOLE = b"".join(LINES)
Read = Callable[[Any], Any]


async def collect(items: Any) -> bytes:
    parts = [part async for part in items]
    return b"".join(part if isinstance(part, bytes) else part[0] for part in parts)


async def read_lines(response: Any) -> bytes:
    found = b""
    while line := await response.content.readline():
        found += line
    return found


async def read_chunks(response: Any) -> bytes:
    found = b""
    while True:
        data, is_end = await response.content.readchunk()
        if not data and not is_end:
            return found
        found += data


async def read_until_end(response: Any) -> bytes:
    return await response.content.readexactly(len(WHOLE)) + await response.content.readany()


async def read_parts(response: Any) -> bytes:
    found = b""
    while data := await response.content.read(64):
        found += data
    return found


AIOHTTP: dict[str, Callable[[Any], Awaitable[bytes]]] = {
    "read": lambda response: response.read(),
    "text": lambda response: _encoded(response.text()),
    "content.read": lambda response: response.content.read(),
    "parts": read_parts,
    "iter_any": lambda response: collect(response.content.iter_any()),
    "iter_chunked": lambda response: collect(response.content.iter_chunked(64)),
    "iter_chunks": lambda response: collect(response.content.iter_chunks()),
    "async for": lambda response: collect(response.content),
    "readline": read_lines,
    "readchunk": read_chunks,
    "readexactly": read_until_end,
}


async def _encoded(text: Awaitable[str]) -> bytes:
    return (await text).encode()


@pytest.mark.parametrize("how", AIOHTTP)
@pytest.mark.parametrize("given", ["stream", "plain"])
def test_aiohttp_body_is_the_same_however_it_is_read(
    instrument: Callable[..., Recorder], how: str, given: str
) -> None:
    async def run(server: ScriptedHttpServer) -> list[bytes]:
        async with aiohttp.ClientSession(server.origin) as session:
            found = []
            for _ in range(2):
                async with session.post("/api/chat", json=BODY) as response:
                    found.append(await AIOHTTP[how](response))
                    assert response.content.at_eof()
            return found

    if given == "plain" and how == "readexactly":
        return
    answer = STREAM if given == "stream" else PLAIN
    with scripted(answer) as server:
        bare = asyncio.run(run(server))
        recorder = instrument()
        assert asyncio.run(run(server)) == bare
    assert [(span.attributes or {})["gen_ai.usage.output_tokens"] for span in recorder.calls()] == [
        5,
        5,
    ]


def test_aiohttp_json_and_data_are_recorded(instrumented: Recorder) -> None:
    async def run(server: ScriptedHttpServer) -> Any:
        async with aiohttp.ClientSession() as session:
            url = f"{server.origin}/api/chat"
            headers = {"Content-Type": "application/json"}
            async with session.post(url, data=json.dumps(BODY), headers=headers) as response:
                return await response.json()

    with scripted(PLAIN) as server:
        assert asyncio.run(run(server)) == ollama_chat()
    assert instrumented.call().name == "chat smol"


def test_aiohttp_headers_of_the_application_are_not_changed(
    instrument: Callable[..., Recorder],
) -> None:
    instrument(llamacpp_allow=("127.0.0.1",))
    given = {"X-Own": "1"}

    async def run(server: ScriptedHttpServer) -> None:
        url = f"{server.origin}/v1/chat/completions"
        async with aiohttp.ClientSession(headers={"X-Session": "2"}) as session:
            for headers in (given, iter(given.items()), {"Traceparent": "mine"}, None):
                async with session.post(url, json=BODY, headers=headers) as response:
                    await response.read()

    with scripted(PLAIN) as server:
        asyncio.run(run(server))
    assert given == {"X-Own": "1"}
    assert [b"X-Own: 1" in sent for sent in server.requests] == [True, True, False, False]
    assert all(sent.lower().count(b"traceparent") == 1 for sent in server.requests)
    assert all(b"X-Session: 2" in sent for sent in server.requests)


@pytest.mark.parametrize("owner", ["session", "request"])
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "plain"])
def test_aiohttp_body_that_it_does_not_decompress_has_its_tokens(
    instrumented: Recorder, owner: str, is_stream: bool
) -> None:
    """Reverse proxies pass on a compressed body as it is."""
    encoding = "Content-Encoding: gzip"
    pieces = [gzip.compress(b"".join(EVENTS))]
    answer = chunked(pieces, encoding) if is_stream else plain(gzip.compress(CHAT), encoding)
    options: dict[str, Any] = {"auto_decompress": False}
    if (
        owner == "request"
        and "auto_decompress" not in inspect.signature(aiohttp.ClientSession._request).parameters
    ):
        pytest.skip("only sessions have the option in this version of aiohttp")

    async def run(origin: str) -> bytes:
        of_session, of_request = (options, {}) if owner == "session" else ({}, options)
        async with (
            aiohttp.ClientSession(**of_session) as session,
            session.post(f"{origin}/v1/chat/completions", json=BODY, **of_request) as response,
        ):
            return await response.read()

    with scripted(answer) as server:
        assert asyncio.run(run(server.origin)).startswith(b"\x1f\x8b")
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


def test_aiohttp_response_released_early_ends_call(instrumented: Recorder) -> None:
    async def run(server: ScriptedHttpServer) -> None:
        async with aiohttp.ClientSession(server.origin) as session:
            async with session.post("/api/chat", json=BODY) as first:
                await first.read()
            async with session.post("/api/chat", json=BODY) as response:
                async for _ in response.content:
                    break
            assert len(instrumented.calls()) == 2

    with scripted(STREAM) as server:
        asyncio.run(run(server))
    span = instrumented.calls()[1]
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["gen_ai.response.time_to_first_chunk"] > 0


def test_aiohttp_canceled_read_fails_call_and_resumed_read_does_not(
    instrumented: Recorder,
) -> None:
    endless = chunked(LINES[:2], server="", kind="application/x-ndjson", is_ended=False)

    async def run(server: ScriptedHttpServer, *, resumes: bool) -> None:
        async with (
            aiohttp.ClientSession(server.origin) as session,
            session.post("/api/chat", json=BODY) as response,
        ):
            task = asyncio.ensure_future(response.content.readexactly(10**6))
            await asyncio.sleep(0)
            task.cancel()
            if not resumes:
                await task
            with pytest.raises(asyncio.CancelledError):
                await task
            await response.content.readline()

    with scripted(PLAIN, endless) as server:
        requests.post(f"{server.origin}/api/chat", json=BODY)
        asyncio.run(run(server, resumes=True))
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run(server, resumes=False))
    resumed, canceled = instrumented.calls()[1:]
    assert "error.type" not in (resumed.attributes or {})
    assert "CancelledError" in str((canceled.attributes or {})["error.type"])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_aiohttp_abandoned_stream_ends_call(instrumented: Recorder) -> None:
    async def run(server: ScriptedHttpServer) -> None:
        async with aiohttp.ClientSession(server.origin) as session:
            response = await session.post("/api/chat", json=BODY)
            await response.content.readline()

    with scripted(PLAIN, STREAM) as server:
        requests.post(f"{server.origin}/api/chat", json=BODY)
        asyncio.run(run(server))
    gc.collect()  # The connection has kept the response until now.
    assert flush_pending(5)
    assert len(instrumented.calls()) == 2


def test_aiohttp_raised_status_is_the_type_of_the_error(instrumented: Recorder) -> None:
    refused = plain(b'{"error": "no such model"}', status="404 Not Found", server="")

    async def run(server: ScriptedHttpServer) -> None:
        async with aiohttp.ClientSession(server.origin, raise_for_status=True) as session:
            await session.post("/api/chat", json=BODY)

    with scripted(PLAIN, refused) as server:
        requests.post(f"{server.origin}/api/chat", json=BODY)
        with pytest.raises(aiohttp.ClientResponseError):
            asyncio.run(run(server))
    assert (instrumented.calls()[1].attributes or {})["error.type"] == "404"


URLLIB3: dict[str, Callable[[Any], bytes]] = {
    "data": lambda response: response.data,
    "read": lambda response: response.read(),
    "parts": lambda response: b"".join(iter(lambda: response.read(64), b"")),
    "read1": lambda response: b"".join(iter(response.read1, b"")),
    "stream": lambda response: b"".join(response.stream()),
    "small stream": lambda response: b"".join(response.stream(7)),
    "iter": b"".join,
    "readline": lambda response: b"".join(iter(response.readline, b"")),
    "BufferedReader": lambda response: io.BufferedReader(response).read(),
}


if not hasattr(urllib3.HTTPResponse, "read1"):  # old versions of urllib3
    del URLLIB3["read1"]


@pytest.mark.parametrize("how", URLLIB3)
@pytest.mark.parametrize("given", ["stream", "plain"])
def test_urllib3_body_is_the_same_however_it_is_read(
    instrument: Callable[..., Recorder], how: str, given: str
) -> None:
    def run(server: ScriptedHttpServer) -> list[tuple[bytes, Any]]:
        found = []
        for _ in range(2):
            with urllib3.PoolManager() as pools:
                url = f"{server.origin}/api/chat"
                response = pools.request("POST", url, json=BODY, preload_content=False)
                found.append((URLLIB3[how](response), type(response).__name__))
                response.release_conn()
        return found

    answer = STREAM if given == "stream" else PLAIN
    with scripted(answer) as server:
        bare = run(server)
        recorder = instrument()
        assert run(server) == bare
    assert [(span.attributes or {})["gen_ai.usage.output_tokens"] for span in recorder.calls()] == [
        5,
        5,
    ]


@pytest.mark.parametrize("ending", ["close", "release_conn", "dropped"])
def test_urllib3_response_ended_early_ends_call(instrumented: Recorder, ending: str) -> None:
    with scripted(PLAIN, STREAM) as server, urllib3.PoolManager() as pools:
        url = f"{server.origin}/api/chat"
        assert pools.request("POST", url, json=BODY).json() == ollama_chat()
        response = pools.request("POST", url, json=BODY, preload_content=False)
        response.read(10)
        if ending != "dropped":
            getattr(response, ending)()
            assert len(instrumented.calls()) == 2
        del response
        gc.collect()
    span = instrumented.calls()[1]
    assert span.status.status_code is StatusCode.UNSET


def test_urllib3_headers_of_the_application_are_not_changed(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument(llamacpp_allow=("127.0.0.1",))
    given = {"Content-Type": "application/json"}
    with scripted(PLAIN) as server, urllib3.PoolManager(headers={"X-Own": "1"}) as pools:
        port = int(server.origin.rpartition(":")[2])
        with urllib3.HTTPConnectionPool("127.0.0.1", port) as pool:
            body = json.dumps(BODY)
            path = "/v1/chat/completions"
            pool.urlopen("POST", path, body, given)
            pool.urlopen(method="POST", url=path, body=body, headers=given)
        pools.urlopen("POST", server.origin + path, body=body)
    assert given == {"Content-Type": "application/json"}
    assert pools.headers == {"X-Own": "1"}
    assert len(recorder.calls()) == 3
    assert all(sent.lower().count(b"traceparent") == 1 for sent in server.requests)
    assert b"X-Own: 1" in server.requests[2]


def with_retries(library: str, retries: urllib3.Retry) -> Callable[[str, str], Any]:
    """Return a function that sends a request to a path of a server."""

    def pools(origin: str, path: str) -> None:
        with urllib3.PoolManager() as manager:
            manager.request("POST", origin + path, json=BODY, retries=retries)

    def pool(origin: str, path: str) -> None:
        with urllib3.connection_from_url(origin) as own:
            own.request("POST", path, json=BODY, retries=retries)

    def session(origin: str, path: str) -> None:
        with requests.Session() as own:
            own.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
            own.post(origin + path, json=BODY)

    def stream(origin: str, path: str) -> None:
        with requests.Session() as own:
            own.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
            assert own.post(origin + path, json=BODY, stream=True).content

    return {"pools": pools, "pool": pool, "session": session, "stream": stream}[library]


@pytest.mark.parametrize("library", ["pools", "pool", "session", "stream"])
def test_retry_of_urllib3_is_one_call_whose_queue_begins_at_last_attempt(
    instrument: Callable[..., Recorder], library: str
) -> None:
    recorder = instrument(llamacpp_allow=("127.0.0.1",))
    busy = plain(b"{}", status="503 Busy", server="")
    moved = plain(b"", "Location: /v1/chat/completions", status="307 Moved", server="")
    sent_again: list[int] = []

    class Retry(urllib3.Retry):
        def sleep(self, response: Any = None) -> None:
            super().sleep(response)
            sent_again.append(time_ns())

    retries = Retry(
        5, status_forcelist=[503], allowed_methods=None, backoff_factor=0.1, backoff_max=0.1
    )
    send = with_retries(library, retries)
    with scripted(busy, busy, moved, busy, busy, plain(CHAT)) as server:
        send(server.origin, "/chat/completions")
        assert len(server.requests) == 6
    span = recorder.call()
    attributes = span.attributes or {}
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["http.request.resend_count"] == 5
    last_attempt_ns = span.end_time - sent_again[-1]
    assert attributes["llamatelemetry.queue_duration"] * 1e9 <= last_attempt_ns


def test_pool_of_urllib3_accepts_all_arguments_by_position(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument(llamacpp_allow=("127.0.0.1",))
    body = json.dumps(BODY).encode()
    with scripted(plain(CHAT)) as server, urllib3.connection_from_url(server.origin) as pool:
        path, retries = "/v1/chat/completions", urllib3.Retry(0)
        reply = pool.urlopen(
            "POST", path, body, {}, retries, False, True, 30.0, 30.0, None, False, None
        )
        assert reply.data == CHAT
        assert server.requests[0].endswith(body)
    assert (recorder.call().attributes or {})["gen_ai.usage.output_tokens"] == 5


def test_other_request_of_hook_in_requests_is_another_call(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument(llamacpp_allow=("127.0.0.1",))
    with scripted(plain(CHAT)) as server, requests.Session() as session:

        def send_another(*_args: Any, **_options: Any) -> None:
            session.post(f"{server.origin}/v1/embeddings", json={"model": "other"})

        url = f"{server.origin}/v1/chat/completions"
        session.post(url, json=BODY, hooks={"response": send_another})
    inner, outer = recorder.calls()
    assert (inner.name, outer.name) == ("embeddings other", "chat smol")
    assert "http.request.resend_count" not in (outer.attributes or {})


class OwnBody(io.RawIOBase):
    """The body of a response of a transport adapter without urllib3."""

    def __init__(self) -> None:
        self._source = io.BytesIO(CHAT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.readinto(buffer)


class OwnAdapter(requests.adapters.BaseAdapter):
    def send(self, request: Any, *_args: Any, **_options: Any) -> Any:
        response = requests.Response()
        response.status_code, response.raw, response.request = 200, OwnBody(), request
        response.headers.update({"Content-Type": "application/json", "Server": "llama.cpp"})
        return response

    def close(self) -> None:
        pass


def test_body_of_own_transport_adapter_is_unchanged(instrumented: Recorder) -> None:
    with requests.Session() as session:
        session.mount("http://", OwnAdapter())
        response = session.post("http://llama.test/v1/chat/completions", json=BODY, stream=True)
        assert type(response.raw) is OwnBody
        assert response.content == CHAT
    span = instrumented.call()
    assert "gen_ai.usage.output_tokens" not in (span.attributes or {})


def libraries() -> dict[str, Callable[[str], Any]]:
    async def post(url: str) -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, json=BODY) as response:
            return await response.json()

    return {
        "requests": lambda url: requests.post(url, json=BODY).json(),
        "urllib3": lambda url: urllib3.request("POST", url, json=BODY).json(),
        "aiohttp": lambda url: asyncio.run(post(url)),
    }


@pytest.fixture(params=["before", "after"])
def instrument_with_opentelemetry(
    request: Any, instrument: Callable[..., Recorder], recorder: Recorder
) -> Iterator[Callable[[str], Recorder]]:
    """Return a function that also loads OpenTelemetry's instrumentation of a library."""
    loaded: list[Any] = []

    def load(library: str) -> None:
        names = {"requests": "Requests", "urllib3": "URLLib3", "aiohttp": "AioHttpClient"}
        module = "aiohttp_client" if library == "aiohttp" else library
        package = pytest.importorskip(f"opentelemetry.instrumentation.{module}")
        loaded.append(getattr(package, f"{names[library]}Instrumentor")())
        loaded[-1].instrument(tracer_provider=recorder.tracer_provider, skip_dep_check=True)

    def both(library: str) -> Recorder:
        if request.param == "before":
            load(library)
        instrument()
        if request.param == "after":
            load(library)
        return recorder

    yield both
    if request.param == "before":
        LlamaCppInstrumentor().uninstrument()  # The wrapper that is outside goes first.
    for each in loaded:
        each.uninstrument()


@pytest.mark.parametrize("library", libraries())
def test_call_beside_http_span_of_opentelemetry_is_counted_once(
    instrument_with_opentelemetry: Callable[[str], Recorder], library: str
) -> None:
    recorder = instrument_with_opentelemetry(library)
    with scripted(PLAIN) as server:
        for _ in range(2):
            assert libraries()[library](f"{server.origin}/api/chat") == ollama_chat()
        assert len(server.requests) == 2
    calls = [span for span in recorder.calls() if span.name == "chat smol"]
    assert len(calls) == 2
    assert recorder.tokens("output") == 10
    others = [span for span in recorder.calls() if span not in calls]
    assert len(others) == 2
    # That of requests wraps the same method, so the one that was loaded last is outside.
    inner, outer = others[1], calls[1]
    if outer.parent is not None:
        inner, outer = outer, inner
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert server.requests[1].lower().count(b"traceparent") == 1
    assert f"-{others[1].context.span_id:016x}-".encode() in server.requests[1]


def test_nested_libraries_are_one_call(instrumented: Recorder) -> None:
    """requests sends through urllib3, and both are patched."""
    with scripted(PLAIN) as server:
        for _ in range(2):
            requests.post(f"{server.origin}/api/chat", json=BODY)
    first, second = instrumented.calls()
    assert "http.request.resend_count" not in (first.attributes or {})
    assert "http.request.resend_count" not in (second.attributes or {})
    assert instrumented.tokens("output") == 10
    assert sys.modules["urllib3"].connectionpool.HTTPConnectionPool.urlopen.__wrapped__
