"""`SecretsSpanProcessor`: redacts keys, passwords and cookies without any configuration."""

from __future__ import annotations

import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, StatusCode

from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.redactor import Redaction
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor

GONE = "[REDACTED]"


def exporter_and_tracer():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(SecretsSpanProcessor())
    return exporter, provider.get_tracer("app")


def redacted(attributes):
    exporter, tracer = exporter_and_tracer()
    tracer.start_span("work", attributes=attributes).end()
    return exporter.get_finished_spans()[0]


def test_secrets_processor_redacts_headers_and_url_keys():
    found = redacted(
        {
            "url.full": "https://me:pw@host:1/v1?api_key=abc&model=smol",
            "http.url": "https://host/?key=abc",
            "http.target": "/v1?token=abc",
            "http.request.header.authorization": ("Bearer abc",),
            "http.request.header.accept": ("*/*",),
            "gen_ai.headers": "{}",
            "app.password": "abc",
        }
    )
    assert dict(found.attributes) == {
        "url.full": f"https://{GONE}@host:1/v1?api_key={GONE}&model=smol",
        "http.url": f"https://host/?key={GONE}",
        "http.target": f"/v1?token={GONE}",
        "http.request.header.authorization": (GONE,),
        "http.request.header.accept": ("*/*",),
        "gen_ai.headers": GONE,
        "app.password": GONE,
    }


PARAMETERS = (
    *("key", "api_key", "api-key", "apiKey", "x-api-key", "xi-api-key", "access_key", "sentry_key"),
    *("subscription-key", "token", "access_token", "hf_token", "private_token", "id_token"),
    *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature"),
    *("AWSAccessKeyId", "OSSAccessKeyId", "Signature", "sig", "q-sign", "q-ak", "ak", "sk"),
    *("secret", "client_secret", "auth", "x-auth", "authorization", "jwt", "code", "appid"),
    *("password", "passwd", "pwd", "pass", "session_id", "JSESSIONID", "SAMLResponse"),
    *("assertion", "ticket", "otp", "auth[token]", "auth%5Btoken%5D"),
)


@pytest.mark.parametrize("name", PARAMETERS)
def test_secrets_processor_redacts_secret_parameter_of_url(name):
    query = f"model=smol&{name}=abc&x=1"
    found = redacted({"url.full": f"https://host/?{query}", "url.query": query})
    expected = f"model=smol&{name}={GONE}&x=1"
    assert dict(found.attributes) == {
        "url.full": f"https://host/?{expected}",
        "url.query": expected,
    }


@pytest.mark.parametrize(
    "name",
    [
        *("oauth.access_token", "oauth.accessToken", "app.Client-Secret", "secretKey", "apiKey"),
        *("openai_api_key", "app.openaiApiKey", "db_password", "HF-Access-Token"),
    ],
)
def test_secrets_processor_redacts_name_in_any_spelling(name):
    assert dict(redacted({name: "abc"}).attributes) == {name: GONE}


@pytest.mark.parametrize("name", ["max_tokens", "gen_ai.token.type", "password.length", "keyword"])
def test_secrets_processor_keeps_names_that_contain_such_words(name):
    assert dict(redacted({name: "abc"}).attributes) == {name: "abc"}


def test_secrets_processor_redacts_secret_headers_of_any_vendor():
    header = "http.request.header"
    secret = ("x-goog-api-key", "x-vault-token", "xi-api-key", "x-amz-security-token", "x_auth")
    given = {f"{header}.{name}": ("abc",) for name in secret}
    given |= {f"{header}.x-request-id": ("abc",), "gen_ai.token.type": "input"}
    found = dict(redacted(given).attributes)
    assert found == given | {f"{header}.{name}": (GONE,) for name in secret}


def test_secrets_processor_redacts_url_in_exception_of_http_library():
    exporter, tracer = exporter_and_tracer()
    with pytest.raises(requests.ConnectionError) as failed, tracer.start_as_current_span("GET"):
        requests.get("http://127.0.0.1:9/v1?a=1&secret=abc&b=2", timeout=5)
    assert "secret=abc" in str(failed.value)
    [span] = exporter.get_finished_spans()
    assert "secret=abc" not in span.to_json()
    assert f"/v1?a=1&secret={GONE}&b=2" in span.status.description
    [event] = span.events
    assert f"/v1?a=1&secret={GONE}&b=2" in event.attributes["exception.message"]
    assert "ConnectionRefusedError" in event.attributes["exception.stacktrace"]
    assert event.attributes["exception.type"] == "requests.exceptions.ConnectionError"


def test_secrets_processor_keeps_events_without_secrets():
    exporter, tracer = exporter_and_tracer()
    span = tracer.start_span("work")
    span.add_event("step", {"note": "https://host/?key=abc", "n": 1})
    span.set_status(StatusCode.ERROR, "invalid value")
    span.end()
    [found] = exporter.get_finished_spans()
    assert dict(found.events[0].attributes) == {"note": "https://host/?key=abc", "n": 1}
    assert found.status.description == "invalid value"


def test_secrets_processor_redacts_links():
    exporter, tracer = exporter_and_tracer()
    context = SpanContext(1, 2, is_remote=True)
    secret = {"authorization": "Bearer abc", "url.full": "https://host/?key=abc", "queue": "jobs"}
    harmless = Link(context, {"queue": "jobs"})
    tracer.start_span("work", links=[Link(context, secret), harmless]).end()
    [redacted_link, kept] = exporter.get_finished_spans()[0].links
    assert redacted_link.context == context
    assert dict(redacted_link.attributes) == {
        "authorization": GONE,
        "url.full": f"https://host/?key={GONE}",
        "queue": "jobs",
    }
    assert dict(kept.attributes) == {"queue": "jobs"}


def test_secrets_processor_keeps_content_and_booleans():
    given = {"prompt": "Hi", "note": "https://host/?key=abc", "use.password": True, "n": 1}
    assert dict(redacted(given).attributes) == given


def test_secrets_processor_drops_all_attributes_when_it_fails(monkeypatch):
    fail_closed._logged.clear()
    monkeypatch.setattr(Redaction, "attribute", None)
    found = redacted({"app.password": "abc", "url.full": "https://host/?key=abc"})
    assert dict(found.attributes) == {"llamatelemetry.redaction.failed": True}
