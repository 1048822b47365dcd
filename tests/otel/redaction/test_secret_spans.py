"""`SecretsSpanProcessor`: redacts keys, passwords and cookies without any configuration."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.redactor import Redaction
from llamatelemetry.otel.redaction.spans import SecretsSpanProcessor

GONE = "[REDACTED]"


def redacted(attributes):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(SecretsSpanProcessor())
    provider.get_tracer("app").start_span("work", attributes=attributes).end()
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


def test_secrets_processor_keeps_content_and_booleans():
    given = {"prompt": "Hi", "note": "https://host/?key=abc", "use.password": True, "n": 1}
    assert dict(redacted(given).attributes) == given


def test_secrets_processor_drops_all_attributes_when_it_fails(monkeypatch):
    fail_closed._logged.clear()
    monkeypatch.setattr(Redaction, "attribute", None)
    found = redacted({"app.password": "abc", "url.full": "https://host/?key=abc"})
    assert dict(found.attributes) == {"llamatelemetry.redaction.failed": True}
