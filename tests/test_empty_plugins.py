"""The plugin for Transformers loads like any other and, so far, changes nothing."""

from __future__ import annotations

import httpx
import httpx2
import pytest
import requests
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor


def _patchable() -> list[object]:
    clients = (httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient)
    return [*(vars(client)["send"] for client in clients), vars(requests.Session)["send"]]


@pytest.mark.parametrize("disabled", ["true", "false"])
def test_instrumenting_patches_nothing(disabled, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    before = _patchable()
    plugin = TransformersInstrumentor()
    plugin.instrument(
        tracer_provider=NoOpTracerProvider(),
        meter_provider=NoOpMeterProvider(),
        logger_provider=None,
        config=LlamaTelemetryConfig(),
        skip_dep_check=True,
    )
    try:
        assert _patchable() == before
    finally:
        plugin.uninstrument()
    assert not plugin.is_instrumented_by_opentelemetry


def test_without_transformers_the_plugin_says_so_and_stays_inactive(caplog):
    plugin = TransformersInstrumentor()
    plugin.instrument()
    assert not plugin.is_instrumented_by_opentelemetry
    assert "transformers" in caplog.text
