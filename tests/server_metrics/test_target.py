"""Parsing of target URLs, and credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llamatelemetry.server_metrics.target import api_key_from_environment, parse_target
from tests.server_metrics.scripted import ScriptedModel


@pytest.mark.parametrize(
    ("url", "base_url", "attributes"),
    [
        ("http://h:8080/metrics", "http://h:8080", {"server.port": 8080}),
        ("http://h:8080", "http://h:8080", {"server.port": 8080}),
        ("https://h/metrics/", "https://h", {"server.port": 443}),
        (
            "http://h/prometheus/metrics",
            "http://h/prometheus",
            {"server.port": 80, "url.path": "/prometheus"},
        ),
        ("http://h/a/b/metrics", "http://h/a/b", {"server.port": 80, "url.path": "/a/b"}),
    ],
)
def test_parse_target_splits_url(url, base_url, attributes):
    target = parse_target(url)
    assert target.base_url == base_url
    assert target.attributes == {
        "server.address": "h",
        **attributes,
    }
    assert target.headers == {}


@pytest.mark.parametrize(
    ("url", "key", "sent"),
    [
        ("{}/metrics", None, None),
        ("{}/metrics", "k", "Bearer k"),
        ("{}/metrics".replace("{}", "user:pa%3Ass@"), "k", "Basic dXNlcjpwYTpzcw=="),
    ],
)
def test_target_sends_credentials_but_does_not_show_them(serve, url, key, sent):
    server = serve(ScriptedModel("smol"))
    server.required = sent
    origin = server.loopback.url
    url = (
        f"{origin}/metrics"
        if url.startswith("{}")
        else f"http://{url}".replace("@", f"@{urlsplit(origin).netloc}")
    )
    reader = server.reader(url, key)
    reader.scrape()
    reader.scrape()
    # Without the key, the first request asked whether the server needs it.
    asked = [each.headers.get("authorization") for each in server.loopback.asked]
    first = [None, None] if key and sent and sent.startswith("Bearer") else []
    assert asked == first + [sent] * (len(asked) - len(first))
    target = parse_target(url, key)
    for secret in ("pa%3Ass", "pa:ss", 'k"', "Bearer", "Basic"):
        assert secret not in f"{target} {target.base_url} {target.attributes}"


def test_api_key_is_not_sent_to_server_that_does_not_need_it(serve):
    server = serve(ScriptedModel("smol"))
    server.reader(api_key="k").scrape()
    assert {asked.headers.get("authorization") for asked in server.loopback.asked} == {None}


def test_api_key_is_read_from_variable_of_server(monkeypatch):
    monkeypatch.setenv("LLAMA_API_KEY", " secret ")
    assert api_key_from_environment() == "secret"
    monkeypatch.setenv("LLAMA_API_KEY", "")
    assert api_key_from_environment() is None
