"""What a server is, asked for off the request's path; against real servers on this machine."""

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
from tests.servers import LlamaServer

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


class Asked:
    """A server that keeps what it was asked."""

    def __init__(self, port: int) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.origin = f"http://127.0.0.1:{port}"
        self.server = Server("127.0.0.1", port, self.origin)


@contextmanager
def serving(answer: Callable[[str], tuple[int, Any]], **headers: str) -> Iterator[Asked]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.paths.append(self.path)
            asked.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, body = answer(self.path)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked = Asked(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait() -> None:
    """Until nobody is asked any more."""
    for thread in threading.enumerate():
        if thread.name == "llamatelemetry-identity":
            thread.join(5)


def test_the_properties_of_a_server() -> None:
    assert parse_props(PROPS) == ServerMetadata(
        ATTRIBUTES, frozenset({"smol", "tiny", "Smol-135M.Q4_1.gguf"})
    )


def test_the_properties_of_a_router_are_not_those_of_a_model() -> None:
    identity = parse_props(ROUTER)
    assert identity.is_router
    assert identity.attributes == {"llamatelemetry.server.build": "b11549-abc"}


@pytest.mark.parametrize("props", [{}, {"total_slots": "two", "model_path": 7}, [], None])
def test_what_is_not_told_is_absent(props: Any) -> None:
    assert parse_props(props) == ServerMetadata({})


def test_a_real_server(llama_server: LlamaServer) -> None:
    identity = fetch_server_metadata(llama_server.origin, {})
    assert identity is not None
    assert identity.attributes["llamatelemetry.server.quantization"] == "Q4_1"
    assert identity.attributes["llamatelemetry.server.slots"] == 2
    assert identity.attributes["llamatelemetry.server.context_length"] == 1024
    assert llama_server.model in identity.models


@pytest.mark.clock
def test_a_server_is_asked_once_and_off_the_callers_path() -> None:
    with serving(lambda _: (time.sleep(0.2), (200, PROPS))[1]) as asked:
        server_metadata_cache = ServerMetadataCache()
        started = time.perf_counter()
        for _ in range(50):
            server_metadata_cache.ask(asked.server, f"{asked.origin}/prefix", {}, "smol")
            assert server_metadata_cache.attributes_of(asked.server, "smol") == {}
        assert time.perf_counter() - started < 0.15
        wait()
        for _ in range(50):
            server_metadata_cache.ask(asked.server, f"{asked.origin}/prefix", {}, "smol")
        wait()
    assert asked.paths == ["/prefix/props"]
    assert server_metadata_cache.attributes_of(asked.server, "smol") == ATTRIBUTES
    assert server_metadata_cache.attributes_of(asked.server, None) == ATTRIBUTES
    assert server_metadata_cache.attributes_of(Server("other", 1, "http://other:1"), "smol") == {}
    assert server_metadata_cache.attributes_of(None, "smol") == {}


def test_the_key_goes_to_the_server_and_nowhere_else() -> None:
    with serving(lambda _: (200, PROPS)) as other:
        elsewhere = {"Location": f"{other.origin}/props"}
        with serving(lambda _: (302, b""), **elsewhere) as asked:
            server_metadata_cache = ServerMetadataCache()
            server_metadata_cache.ask(
                asked.server, asked.origin, {"authorization": "Bearer sk"}, None
            )
            wait()
    assert asked.headers[0]["authorization"] == "Bearer sk"
    assert other.paths == []
    assert server_metadata_cache.attributes_of(asked.server, "smol") == {}
    assert "sk" not in repr(vars(server_metadata_cache))


@pytest.mark.parametrize(
    "answer",
    [(401, {"error": {}}), (503, {}), (200, b"<html>"), (200, [1]), (200, b"[" * 100_000)],
    ids=["refused", "loading", "no-json", "a-list", "nested"],
)
def test_a_server_that_does_not_tell_stays_unknown_and_is_not_pestered(answer: Any) -> None:
    with serving(lambda _: answer) as asked:
        server_metadata_cache = ServerMetadataCache()
        for _ in range(3):
            server_metadata_cache.ask(asked.server, asked.origin, {}, None)
            wait()
    assert len(asked.paths) == 1
    assert server_metadata_cache.attributes_of(asked.server, "smol") == {}


def test_a_server_that_is_gone_is_no_error() -> None:
    server_metadata_cache = ServerMetadataCache()
    server = Server("127.0.0.1", 9, "http://127.0.0.1:9")
    server_metadata_cache.ask(server, server.origin, {}, None)
    wait()
    assert server_metadata_cache.attributes_of(server, "smol") == {}


def test_a_router_is_asked_about_a_model_without_waking_it() -> None:
    def answer(path: str) -> tuple[int, Any]:
        return 200, ROUTER if path == "/props" else PROPS

    with serving(answer) as asked:
        server_metadata_cache = ServerMetadataCache()
        for _ in range(3):
            server_metadata_cache.ask(asked.server, asked.origin, {}, "a/smol:Q4")
            wait()
    assert asked.paths == ["/props", "/props?model=a%2Fsmol%3AQ4&autoload=false"]
    assert server_metadata_cache.attributes_of(asked.server, "a/smol:Q4") == ATTRIBUTES
    # Of another model, and of a reply that names none, the router's build is all that is known.
    build = {"llamatelemetry.server.build": "b11549-abc"}
    assert server_metadata_cache.attributes_of(asked.server, "other") == build
    assert server_metadata_cache.attributes_of(asked.server, None) == build


@pytest.mark.parametrize(
    "reply",
    [{"model": "another"}, {"model": "smol", "build": "b12000-def"}],
    ids=["model", "build"],
)
def test_a_server_that_became_another_is_asked_again(
    reply: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    props = dict(PROPS)
    with serving(lambda _: (200, props)) as asked:
        server_metadata_cache = ServerMetadataCache()
        server_metadata_cache.ask(asked.server, asked.origin, {}, None)
        wait()
        now[0] += 120
        assert server_metadata_cache.attributes_of(asked.server, **reply) == {}
        props.update(model_alias="another", build_info="b12000-def")
        server_metadata_cache.ask(asked.server, asked.origin, {}, None)
        wait()
        # One that goes on contradicting itself is asked every half minute.
        for _ in range(3):
            assert server_metadata_cache.attributes_of(asked.server, "a third") == {}
            server_metadata_cache.ask(asked.server, asked.origin, {}, None)
            wait()
    assert len(asked.paths) == 2


def test_what_is_known_is_renewed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("llamatelemetry.genai.server_metadata.monotonic", lambda: now[0])
    with serving(lambda _: (200, PROPS)) as asked:
        server_metadata_cache = ServerMetadataCache()
        for seconds in (0, 599, 2):
            now[0] += seconds
            server_metadata_cache.ask(asked.server, asked.origin, {}, None)
            wait()
            assert server_metadata_cache.attributes_of(asked.server, "smol") == ATTRIBUTES
    assert len(asked.paths) == 2


def test_what_is_known_does_not_grow_without_end() -> None:
    server_metadata_cache = ServerMetadataCache()
    for number in range(2000):
        server_metadata_cache.learn(Server("a", number, f"http://a:{number}"), ServerMetadata({}))
    assert len(server_metadata_cache._found) <= 256


def test_a_socket_is_not_asked() -> None:
    server_metadata_cache = ServerMetadataCache()
    server_metadata_cache.ask(
        Server("/run/llama.sock", None, "unix:/run/llama.sock"), "unix:/run", {}, None
    )
    assert not any(thread.name == "llamatelemetry-identity" for thread in threading.enumerate())
