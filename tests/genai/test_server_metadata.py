"""What a server is, queried for off the request's path; against real servers on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llamatelemetry.genai import Server, parse_props
from llamatelemetry.genai.server_metadata import (
    ServerMetadata,
    ServerMetadataCache,
    fetch_server_metadata,
)
from tests.support.llama_server import LlamaServer

PROPS = {
    "default_generation_settings": {"n_ctx": 1024, "params": {}},
    "total_slots": 2,
    "model_alias": "smol,tiny",
    "model_path": "/models/Smol-135M.Q4_1.gguf",
    "model_ftype": "Q4_1",
    "build_info": "b11549-abc",
    "chat_template": "SECRET",
}
ATTRIBUTES = {
    "llamatelemetry.server.build": "b11549-abc",
    "llamatelemetry.server.model_file": "Smol-135M.Q4_1.gguf",
    "llamatelemetry.server.quantization": "Q4_1",
    "llamatelemetry.server.context_length": 1024,
    "llamatelemetry.server.slots": 2,
}
ROUTER = {
    "role": "router",
    "model_alias": "llama-server",
    "model_path": "none",
    "default_generation_settings": {"n_ctx": 0},
    "build_info": "b11549-abc",
}


class QueriedServer:
    """A server that keeps what it was queried."""

    def __init__(self, port: int) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.origin = f"http://127.0.0.1:{port}"
        self.server = Server("127.0.0.1", port, self.origin)


@contextmanager
def serving(answer: Callable[[str], tuple[int, Any]], **headers: str) -> Iterator[QueriedServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            queried.paths.append(self.path)
            queried.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, body = answer(self.path)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Keep the output of the test clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    queried = QueriedServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield queried
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait() -> None:
    """Wait until no metadata is being fetched."""
    for thread in threading.enumerate():
        if thread.name == "llamatelemetry-metadata":
            thread.join(5)


def test_parse_props_returns_attributes_of_server() -> None:
    assert parse_props(PROPS) == ServerMetadata(
        ATTRIBUTES, frozenset({"smol", "tiny", "Smol-135M.Q4_1.gguf"})
    )


def test_parse_props_of_router_has_no_model_attributes() -> None:
    identity = parse_props(ROUTER)
    assert identity.is_router
    assert identity.attributes == {"llamatelemetry.server.build": "b11549-abc"}


@pytest.mark.parametrize("props", [{}, {"total_slots": "two", "model_path": 7}, [], None])
def test_parse_props_omits_missing_values(props: Any) -> None:
    assert parse_props(props) == ServerMetadata({})


def test_metadata_of_real_server(llama_server: LlamaServer) -> None:
    identity = fetch_server_metadata(llama_server.origin, {})
    assert identity is not None
    assert identity.attributes["llamatelemetry.server.quantization"] == "Q4_1"
    assert identity.attributes["llamatelemetry.server.slots"] == 2
    assert identity.attributes["llamatelemetry.server.context_length"] == 1024
    assert llama_server.model in identity.models


@pytest.mark.clock
def test_fetch_queries_server_once_in_background() -> None:
    with serving(lambda _: (time.sleep(0.2), (200, PROPS))[1]) as queried:
        server_metadata_cache = ServerMetadataCache()
        started = time.perf_counter()
        for _ in range(50):
            server_metadata_cache.fetch(queried.server, f"{queried.origin}/prefix", {}, "smol")
            assert server_metadata_cache.attributes_of(queried.server, "smol") == {}
        assert time.perf_counter() - started < 0.15
        wait()
        for _ in range(50):
            server_metadata_cache.fetch(queried.server, f"{queried.origin}/prefix", {}, "smol")
        wait()
    assert queried.paths == ["/prefix/props"]
    assert server_metadata_cache.attributes_of(queried.server, "smol") == ATTRIBUTES
    assert server_metadata_cache.attributes_of(queried.server, None) == ATTRIBUTES
    assert server_metadata_cache.attributes_of(Server("other", 1, "http://other:1"), "smol") == {}
    assert server_metadata_cache.attributes_of(None, "smol") == {}


def test_api_key_is_not_sent_to_redirect_target() -> None:
    with serving(lambda _: (200, PROPS)) as other:
        elsewhere = {"Location": f"{other.origin}/props"}
        with serving(lambda _: (302, b""), **elsewhere) as queried:
            server_metadata_cache = ServerMetadataCache()
            server_metadata_cache.fetch(
                queried.server, queried.origin, {"authorization": "Bearer sk"}, None
            )
            wait()
    assert queried.headers[0]["authorization"] == "Bearer sk"
    assert other.paths == []
    assert server_metadata_cache.attributes_of(queried.server, "smol") == {}
    assert "sk" not in repr(vars(server_metadata_cache))


@pytest.mark.parametrize(
    "answer",
    [(401, {"error": {}}), (503, {}), (200, b"<html>"), (200, [1]), (200, b"[" * 100_000)],
    ids=["refused", "loading", "no-json", "a-list", "nested"],
)
def test_server_without_metadata_is_not_queried_again_soon(answer: Any) -> None:
    with serving(lambda _: answer) as queried:
        server_metadata_cache = ServerMetadataCache()
        for _ in range(3):
            server_metadata_cache.fetch(queried.server, queried.origin, {}, None)
            wait()
    assert len(queried.paths) == 1
    assert server_metadata_cache.attributes_of(queried.server, "smol") == {}


def test_unreachable_server_is_not_an_error() -> None:
    server_metadata_cache = ServerMetadataCache()
    server = Server("127.0.0.1", 9, "http://127.0.0.1:9")
    server_metadata_cache.fetch(server, server.origin, {}, None)
    wait()
    assert server_metadata_cache.attributes_of(server, "smol") == {}


def test_router_is_queried_for_model_without_loading_it() -> None:
    def answer(path: str) -> tuple[int, Any]:
        return 200, ROUTER if path == "/props" else PROPS

    with serving(answer) as queried:
        server_metadata_cache = ServerMetadataCache()
        for _ in range(3):
            server_metadata_cache.fetch(queried.server, queried.origin, {}, "a/smol:Q4")
            wait()
    assert queried.paths == ["/props", "/props?model=a%2Fsmol%3AQ4&autoload=false"]
    assert server_metadata_cache.attributes_of(queried.server, "a/smol:Q4") == ATTRIBUTES
    # Of another model, and of a reply that names none, the router's build is all that is known.
    build = {"llamatelemetry.server.build": "b11549-abc"}
    assert server_metadata_cache.attributes_of(queried.server, "other") == build
    assert server_metadata_cache.attributes_of(queried.server, None) == build


@pytest.mark.parametrize(
    "reply",
    [{"model": "another"}, {"model": "smol", "build": "b12000-def"}],
    ids=["model", "build"],
)
def test_changed_server_is_queried_again(
    reply: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    props = dict(PROPS)
    with serving(lambda _: (200, props)) as queried:
        server_metadata_cache = ServerMetadataCache()
        server_metadata_cache.fetch(queried.server, queried.origin, {}, None)
        wait()
        now[0] += 120
        assert server_metadata_cache.attributes_of(queried.server, **reply) == {}
        props.update(model_alias="another", build_info="b12000-def")
        server_metadata_cache.fetch(queried.server, queried.origin, {}, None)
        wait()
        # One that goes on contradicting itself is queried every half minute.
        for _ in range(3):
            assert server_metadata_cache.attributes_of(queried.server, "a third") == {}
            server_metadata_cache.fetch(queried.server, queried.origin, {}, None)
            wait()
    assert len(queried.paths) == 2


def test_metadata_is_refreshed_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    with serving(lambda _: (200, PROPS)) as queried:
        server_metadata_cache = ServerMetadataCache()
        for seconds in (0, 599, 2):
            now[0] += seconds
            server_metadata_cache.fetch(queried.server, queried.origin, {}, None)
            wait()
            assert server_metadata_cache.attributes_of(queried.server, "smol") == ATTRIBUTES
    assert len(queried.paths) == 2


def test_number_of_cached_servers_is_bounded() -> None:
    server_metadata_cache = ServerMetadataCache()
    for number in range(2000):
        server_metadata_cache.cache(Server("a", number, f"http://a:{number}"), ServerMetadata({}))
    assert len(server_metadata_cache._found) <= 256


def test_unix_socket_is_not_queried() -> None:
    server_metadata_cache = ServerMetadataCache()
    server_metadata_cache.fetch(
        Server("/run/llama.sock", None, "unix:/run/llama.sock"), "unix:/run", {}, None
    )
    assert not any(thread.name == "llamatelemetry-metadata" for thread in threading.enumerate())
