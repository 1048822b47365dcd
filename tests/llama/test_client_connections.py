"""A request that crosses with the end of its connection is sent again; any other is sent once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.llama.clients import Driver
from tests.llama.loopback import Asked, Reply, loopback, sse
from tests.recorder import Recorder

HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = Reply(body={"model": "m", "choices": [{"finish_reason": "stop", "message": {}}]})
CHUNKS = Reply(pieces=sse({"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}))
LOST = Reply(silent=True)
both = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def talk(kind: str, recorded: Recorder) -> Iterator[Callable[..., tuple[Driver, list[Asked]]]]:
    """Makes a client of a server that gives these replies in turn."""
    opened = []

    def start(*replies: Reply) -> tuple[Driver, list[Asked]]:
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
def test_a_connection_that_was_closed_meanwhile_is_replaced(talk, recorded):
    driver, asked = talk(ANSWER, LOST, ANSWER, LOST, ANSWER)
    driver("chat", HELLO)
    driver("chat", HELLO)
    driver("props")
    assert [each.path for each in asked].count("/v1/chat/completions") == 3
    first, second = recorded.calls()
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert "error.type" not in second.attributes


@both
def test_so_is_that_of_a_stream(talk, recorded):
    driver, asked = talk(ANSWER, LOST, CHUNKS)
    driver("chat", HELLO)
    assert len(driver("chat", HELLO, stream=True)) == 1
    assert len(asked) == 3


@both
def test_a_server_that_does_not_answer_over_a_new_connection_is_in_trouble(talk, recorded):
    driver, asked = talk(LOST)
    with pytest.raises(httpx2.RemoteProtocolError):
        driver("chat", HELLO)
    assert len(asked) == 1
    assert recorded.call().attributes["error.type"] == "httpx2.RemoteProtocolError"


@both
@pytest.mark.parametrize(
    "broken",
    [
        Reply(pieces=[b"{"], cut=True),
        Reply(pieces=[b"{"], reset=True),
        Reply(body=b"{}", headers={"content-length": "999"}),
    ],
    ids=["cut", "reset", "no HTTP"],
)
def test_an_answer_that_is_broken_is_not_asked_for_again(talk, recorded, broken):
    driver, asked = talk(ANSWER, broken)
    driver("chat", HELLO)
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        driver("chat", HELLO)
    assert len(asked) == 2


@both
def test_a_server_that_goes_on_closing_is_given_up(talk, recorded):
    driver, asked = talk(ANSWER, LOST, LOST)
    driver("chat", HELLO)
    with pytest.raises(httpx2.RemoteProtocolError):
        driver("chat", HELLO)
    assert len(asked) == 3


def test_a_call_that_is_cancelled_holds_no_connection(recorded):
    with (
        loopback(lambda _asked: Reply(body={}, delay_s=30)) as server,
        Driver("async", server.url) as driver,
    ):
        with pytest.raises(TimeoutError):
            driver.run(asyncio.wait_for(driver.client.chat(HELLO), 0.1))
        assert driver.busy_connections() == 0
    assert recorded.call().attributes["error.type"] == "asyncio.exceptions.CancelledError"
