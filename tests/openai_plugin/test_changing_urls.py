"""Clients whose URL is computed for each request: module-level clients and subclasses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import payloads
from tests.support.recorder import Recorder

FIRST, SECOND = "https://api.groq.com/openai/v1", "http://llm.test:8080/v1"


def servers(recorder: Recorder) -> list[tuple[Any, Any, Any]]:
    names = ("gen_ai.provider.name", "server.address", "server.port")
    return [tuple(span.attributes.get(name) for name in names) for span in recorder.calls()]


EXPECTED = [("groq", "api.groq.com", 443), ("openai", "llm.test", 8080)]


@pytest.fixture
def module_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Configure the client behind `openai.chat`, and remove it afterwards."""
    transport = payloads.http.MockTransport(lambda _: payloads.json_response(payloads.chat()))
    monkeypatch.setattr(openai, "api_key", "k")
    monkeypatch.setattr(openai, "base_url", FIRST)
    monkeypatch.setattr(openai, "http_client", payloads.http.Client(transport=transport))
    reset: Any = vars(openai)["_reset_client"]
    reset()
    yield openai
    reset()


def test_module_level_client_follows_its_url(
    instrumented: Recorder, module_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (FIRST, SECOND):
        monkeypatch.setattr(openai, "base_url", url)
        module_client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert servers(instrumented) == EXPECTED


class ChangingClient(openai.OpenAI):
    url = FIRST

    @property
    def base_url(self) -> Any:
        return payloads.http.URL(self.url)

    @base_url.setter
    def base_url(self, _url: Any) -> None:
        pass


def test_client_with_computed_url_follows_it(instrumented: Recorder) -> None:
    transport = payloads.http.MockTransport(lambda _: payloads.json_response(payloads.chat()))
    client = ChangingClient(api_key="k", http_client=payloads.http.Client(transport=transport))
    for url in (FIRST, SECOND):
        client.url = url
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert servers(instrumented) == EXPECTED


def test_client_follows_its_url_when_it_is_set(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    for url in (FIRST, SECOND):
        client.base_url = url
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert servers(instrumented) == EXPECTED
