"""The trace context in requests whose URL is excluded from HTTP instrumentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.support import payloads
from tests.support.byte_server import plain, scripted
from tests.support.recorder import Recorder


@pytest.mark.parametrize("how", ["variable", "argument"])
def test_request_to_excluded_url_has_traceparent_of_call(
    instrument: Callable[..., Recorder], recorder: Recorder, monkeypatch: Any, how: str
) -> None:
    module = pytest.importorskip("opentelemetry.instrumentation.requests")
    instrumentor = module.RequestsInstrumentor()
    options = {"excluded_urls": "127.0.0.1"} if how == "argument" else {}
    if how == "variable":
        monkeypatch.setenv("OTEL_PYTHON_REQUESTS_EXCLUDED_URLS", "127.0.0.1")
        monkeypatch.setattr(module, "_excluded_urls_from_env", module.get_excluded_urls("REQUESTS"))
    instrumentor.instrument(tracer_provider=recorder.tracer_provider, **options)
    try:
        with scripted(plain(json.dumps(payloads.chat()).encode())) as server:
            instrument(llamacpp_allow=(server.origin,))
            requests.post(
                f"{server.origin}/v1/chat/completions", json={"messages": payloads.MESSAGES}
            )
    finally:
        instrumentor.uninstrument()
    (span,) = recorder.spans()
    assert f"-{span.context.span_id:016x}-".encode() in server.requests[0]
