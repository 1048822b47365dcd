"""Metadata of llama.cpp servers, fetched in a background thread from servers on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llamatelemetry.genai import Server, parse_props
from llamatelemetry.genai.own_requests import open_url
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
    """A server that keeps the paths and headers of its requests."""

    def __init__(self, port: int) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.origin = f"http://127.0.0.1:{port}"
        self.server = Server("127.0.0.1", port, self.origin)


@contextmanager
def serving(respond: Callable[[str], tuple[int, Any]], **headers: str) -> Iterator[QueriedServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.paths.append(self.path)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, body = respond(self.path)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Write no log to the output of the test."""

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = QueriedServer(http_server.server_address[1])
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()


def wait_for_fetches() -> None:
    """Wait until no metadata is being fetched."""
    for thread in threading.enumerate():
        if thread.name == "llamatelemetry-metadata":
            thread.join(5)


def test_parse_props_returns_attributes_of_server() -> None:
    assert parse_props(PROPS) == ServerMetadata(
        ATTRIBUTES, frozenset({"smol", "tiny", "Smol-135M.Q4_1.gguf"})
    )


def test_parse_props_of_router_has_no_model_attributes() -> None:
    metadata = parse_props(ROUTER)
    assert metadata.is_router
    assert metadata.attributes == {"llamatelemetry.server.build": "b11549-abc"}


@pytest.mark.parametrize("props", [{}, {"total_slots": "two", "model_path": 7}, [], None])
def test_parse_props_omits_missing_values(props: Any) -> None:
    assert parse_props(props) == ServerMetadata({})


def test_metadata_of_real_server(llama_server: LlamaServer) -> None:
    metadata = fetch_server_metadata(llama_server.origin, {})
    assert metadata is not None
    assert metadata.attributes["llamatelemetry.server.quantization"] == "Q4_1"
    assert metadata.attributes["llamatelemetry.server.slots"] == 2
    assert metadata.attributes["llamatelemetry.server.context_length"] == 1024
    assert llama_server.model in metadata.models


def test_fetch_queries_server_once_in_background() -> None:
    may_respond = threading.Event()

    def respond(_path: str) -> tuple[int, Any]:
        assert may_respond.wait(10)
        return 200, PROPS

    with serving(respond) as server:
        cache = ServerMetadataCache()
        for _ in range(50):
            cache.fetch(server.server, f"{server.origin}/prefix", {}, "smol")
            assert cache.attributes_of(server.server, "smol") == {}
        may_respond.set()
        wait_for_fetches()
        for _ in range(50):
            cache.fetch(server.server, f"{server.origin}/prefix", {}, "smol")
        wait_for_fetches()
    assert server.paths == ["/prefix/props"]
    assert cache.attributes_of(server.server, "smol") == ATTRIBUTES
    assert cache.attributes_of(server.server, None) == ATTRIBUTES
    assert cache.attributes_of(Server("other", 1, "http://other:1"), "smol") == {}
    assert cache.attributes_of(None, "smol") == {}


def test_fetch_bypasses_proxy_for_loopback_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(lambda _: (200, PROPS)) as server:
        metadata = fetch_server_metadata(server.origin, {})
    assert metadata == parse_props(PROPS)


def test_fetch_sends_credentials_of_application_to_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(lambda _: (200, PROPS)) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        # A name of this kind is never resolved, so that only a proxy could respond.
        metadata = fetch_server_metadata(
            "http://server.invalid:8080", {"Authorization": "Bearer k"}
        )
    assert metadata is None
    assert proxy.paths == []


def test_open_url_sends_user_and_password_of_url_as_basic_authentication() -> None:
    with serving(lambda _: (200, {})) as server:
        url = server.origin.replace("//", "//user:pass%40word@")
        with open_url(f"{url}/health", {}, 5):
            pass
    assert server.paths == ["/health"]
    assert server.headers[0]["authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="
    assert server.headers[0]["host"] == server.origin.removeprefix("http://")


def test_api_key_is_not_sent_to_redirect_target() -> None:
    with serving(lambda _: (200, PROPS)) as other:
        redirect = {"Location": f"{other.origin}/props"}
        with serving(lambda _: (302, b""), **redirect) as server:
            cache = ServerMetadataCache()
            cache.fetch(server.server, server.origin, {"authorization": "Bearer sk"}, None)
            wait_for_fetches()
    assert server.headers[0]["authorization"] == "Bearer sk"
    assert other.paths == []
    assert cache.attributes_of(server.server, "smol") == {}
    assert "sk" not in repr(vars(cache))


@pytest.mark.parametrize(
    "response",
    [(401, {"error": {}}), (503, {}), (200, b"<html>"), (200, [1]), (200, b"[" * 100_000)],
    ids=["unauthorized", "loading", "invalid JSON", "list", "nested too deeply"],
)
def test_server_without_metadata_is_not_queried_again_soon(response: Any) -> None:
    with serving(lambda _: response) as server:
        cache = ServerMetadataCache()
        for _ in range(3):
            cache.fetch(server.server, server.origin, {}, None)
            wait_for_fetches()
    assert len(server.paths) == 1
    assert cache.attributes_of(server.server, "smol") == {}


def test_unreachable_server_is_not_an_error() -> None:
    cache = ServerMetadataCache()
    server = Server("127.0.0.1", 9, "http://127.0.0.1:9")
    cache.fetch(server, server.origin, {}, None)
    wait_for_fetches()
    assert cache.attributes_of(server, "smol") == {}


def test_router_is_queried_for_model_without_loading_it() -> None:
    def respond(path: str) -> tuple[int, Any]:
        return 200, ROUTER if path == "/props" else PROPS

    with serving(respond) as server:
        cache = ServerMetadataCache()
        for _ in range(3):
            cache.fetch(server.server, server.origin, {}, "a/smol:Q4")
            wait_for_fetches()
    assert server.paths == ["/props", "/props?model=a%2Fsmol%3AQ4&autoload=false"]
    assert cache.attributes_of(server.server, "a/smol:Q4") == ATTRIBUTES
    # For another model, or a response without a model, only the build of the router is known.
    build = {"llamatelemetry.server.build": "b11549-abc"}
    assert cache.attributes_of(server.server, "other") == build
    assert cache.attributes_of(server.server, None) == build


@pytest.mark.parametrize(
    "response",
    [{"model": "another"}, {"model": "smol", "build": "b12000-def"}],
    ids=["model", "build"],
)
def test_changed_server_is_queried_again(
    response: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    props = dict(PROPS)
    with serving(lambda _: (200, props)) as server:
        cache = ServerMetadataCache()
        cache.fetch(server.server, server.origin, {}, None)
        wait_for_fetches()
        now[0] += 120
        assert cache.attributes_of(server.server, **response) == {}
        props.update(model_alias="another", build_info="b12000-def")
        cache.fetch(server.server, server.origin, {}, None)
        wait_for_fetches()
        # If the model still differs, the server is queried again after 30 seconds.
        for _ in range(3):
            assert cache.attributes_of(server.server, "a third") == {}
            cache.fetch(server.server, server.origin, {}, None)
            wait_for_fetches()
    assert len(server.paths) == 2


def test_metadata_is_refreshed_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    with serving(lambda _: (200, PROPS)) as server:
        cache = ServerMetadataCache()
        for seconds in (0, 599, 2):
            now[0] += seconds
            cache.fetch(server.server, server.origin, {}, None)
            wait_for_fetches()
            assert cache.attributes_of(server.server, "smol") == ATTRIBUTES
    assert len(server.paths) == 2


def test_number_of_cached_servers_is_bounded() -> None:
    cache = ServerMetadataCache()
    for number in range(2000):
        cache.cache(Server("a", number, f"http://a:{number}"), ServerMetadata({}))
    assert len(cache._found) <= 256


def test_unix_socket_is_not_queried() -> None:
    cache = ServerMetadataCache()
    cache.fetch(Server("/run/llama.sock", None, "unix:/run/llama.sock"), "unix:/run", {}, None)
    assert not any(thread.name == "llamatelemetry-metadata" for thread in threading.enumerate())
