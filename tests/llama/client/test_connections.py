"""Connection reuse: a request is sent again only if its kept-alive connection was just closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.support.llama_clients import Driver
from tests.support.loopback_server import ReceivedRequest, ScriptedResponse, loopback, sse
from tests.support.recorder import Recorder

HELLO = [{"role": "user", "content": "Hello"}]
RESPONSE = ScriptedResponse(
    body={"model": "m", "choices": [{"finish_reason": "stop", "message": {}}]}
)
CHUNKS = ScriptedResponse(
    chunks=sse({"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]})
)
NO_RESPONSE = ScriptedResponse(silent=True)
both = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def connect(
    kind: str, recorded: Recorder
) -> Iterator[Callable[..., tuple[Driver, list[ReceivedRequest]]]]:
    """Return a function that creates a client of a server with these responses in turn."""
    opened = []

    def start(*replies: ScriptedResponse) -> tuple[Driver, list[ReceivedRequest]]:
        left = list(replies)
        server = loopback(lambda _asked: left.pop(0))
        running = server.__enter__()
        driver = Driver(kind, running.url)
        opened.extend([server, driver])
        return driver, running.asked

    yield start
    for each in reversed(opened):
        each.__exit__(None, None, None)


@both
def test_call_is_resent_when_kept_alive_connection_was_closed(connect, recorded):
    driver, asked = connect(RESPONSE, NO_RESPONSE, RESPONSE, NO_RESPONSE, RESPONSE)
    driver("chat", HELLO)
    driver("chat", HELLO)
    driver("props")
    assert [each.path for each in asked].count("/v1/chat/completions") == 3
    first, second = recorded.calls()
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert "error.type" not in second.attributes


@both
def test_stream_is_resent_when_kept_alive_connection_was_closed(connect, recorded):
    driver, asked = connect(RESPONSE, NO_RESPONSE, CHUNKS)
    driver("chat", HELLO)
    assert len(driver("chat", HELLO, stream=True)) == 1
    assert len(asked) == 3


@both
def test_call_raises_when_new_connection_is_closed(connect, recorded):
    driver, asked = connect(NO_RESPONSE)
    with pytest.raises(httpx2.RemoteProtocolError):
        driver("chat", HELLO)
    assert len(asked) == 1
    assert recorded.call().attributes["error.type"] == "httpx2.RemoteProtocolError"


@both
@pytest.mark.parametrize(
    "broken",
    [
        ScriptedResponse(chunks=[b"{"], cut=True),
        ScriptedResponse(chunks=[b"{"], reset=True),
        ScriptedResponse(body=b"{}", headers={"content-length": "999"}),
    ],
    ids=["cut", "reset", "too short"],
)
def test_call_is_not_resent_after_incomplete_response(connect, recorded, broken):
    driver, asked = connect(RESPONSE, broken)
    driver("chat", HELLO)
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        driver("chat", HELLO)
    assert len(asked) == 2


@both
def test_call_raises_when_resent_request_gets_no_response(connect, recorded):
    driver, asked = connect(RESPONSE, NO_RESPONSE, NO_RESPONSE)
    driver("chat", HELLO)
    with pytest.raises(httpx2.RemoteProtocolError):
        driver("chat", HELLO)
    assert len(asked) == 3


def test_cancelled_call_releases_connection(recorded):
    with (
        loopback(lambda _asked: ScriptedResponse(body={}, delay_s=30)) as server,
        Driver("async", server.url) as driver,
    ):
        with pytest.raises(TimeoutError):
            driver.run(asyncio.wait_for(driver.client.chat(HELLO), 0.1))
        assert driver.busy_connections() == 0
    assert recorded.call().attributes["error.type"] == "asyncio.exceptions.CancelledError"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@both
def test_client_of_loopback_server_uses_no_proxy(kind, host, monkeypatch):
    def respond(_):
        return ScriptedResponse(body={"content": "Hi"})

    with loopback(respond) as server, loopback(respond) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        url = server.url.replace("127.0.0.1", host)
        with Driver(kind, url, api_key="key") as driver:
            driver("complete", "Hello")
    assert [each.path for each in proxy.asked] == []
    assert [each.path for each in server.asked] == ["/completion"]


@both
def test_client_of_other_server_uses_proxy_of_environment(kind, monkeypatch):
    with loopback(lambda _: ScriptedResponse(body={"content": "Hi"})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with Driver(kind, "http://server.invalid:8080") as driver:
            driver("complete", "Hello")
    assert len(proxy.asked) == 1
