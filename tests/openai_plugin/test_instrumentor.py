"""Turning the plugin on and off, deferred patching, and other packages' wrappers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import openai
import pytest
import wrapt
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder


def ask(client: openai.OpenAI | None = None) -> None:
    client = client or payloads.client(lambda _: payloads.json_response(payloads.chat()))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)


def test_uninstrument_restores_original_functions(recorder: Recorder) -> None:
    before = [dict(vars(kind)) for kind in (openai.OpenAI, openai.AsyncOpenAI)]
    OpenAIInstrumentor().instrument(**recorder.providers)
    assert "request" in vars(openai.OpenAI)
    OpenAIInstrumentor().uninstrument()
    assert [dict(vars(kind)) for kind in (openai.OpenAI, openai.AsyncOpenAI)] == before
    ask()
    assert recorder.spans() == []


def test_uninstrument_disables_wrapper_below_foreign_wrapper(recorder: Recorder) -> None:
    seen: list[str] = []

    def other_wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("other")
        return wrapped(*args, **kwargs)

    OpenAIInstrumentor().instrument(**recorder.providers)
    wrapt.wrap_function_wrapper("openai._client", "OpenAI.request", other_wrapper)
    try:
        OpenAIInstrumentor().uninstrument()
        ask()
        assert seen == ["other"]
        assert recorder.spans() == []
        OpenAIInstrumentor().instrument(**recorder.providers)
        ask()
        assert seen == ["other", "other"]
        recorder.call()
    finally:
        OpenAIInstrumentor().uninstrument()
        del openai.OpenAI.request


def test_client_created_before_instrumenting_is_recorded(recorder: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    completions = client.chat.completions
    OpenAIInstrumentor().instrument(**recorder.providers)
    try:
        completions.create(model="smol", messages=payloads.MESSAGES)
    finally:
        OpenAIInstrumentor().uninstrument()
    recorder.call()


def test_suppressed_instrumentation_records_nothing(instrumented: Recorder) -> None:
    with suppress_instrumentation():
        ask()
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


def test_instrument_patches_nothing_when_sdk_is_disabled(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    OpenAIInstrumentor().instrument(**recorder.providers)
    try:
        assert "request" not in vars(openai.OpenAI)
    finally:
        OpenAIInstrumentor().uninstrument()


def test_instrument_does_not_import_openai() -> None:
    program = (
        "import sys; from llamatelemetry_instrumentation_openai import OpenAIInstrumentor as I; "
        "I().instrument(); assert not any(n.split('.')[0] == 'openai' for n in sys.modules); "
        "assert not any(n.endswith('openai._wrappers') for n in sys.modules); "
        "import openai; assert 'request' in vars(openai.OpenAI)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class BrokenSampler(Sampler):
    """A configured sampler that raises."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no sampling today")

    def get_description(self) -> str:
        return "broken"


def test_failing_telemetry_logs_one_warning_and_call_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    internal_errors.set_strict(False)
    OpenAIInstrumentor().instrument(tracer_provider=TracerProvider(sampler=BrokenSampler()))
    try:
        ask()
        ask()
    finally:
        OpenAIInstrumentor().uninstrument()
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.name == "llamatelemetry"
    assert "starting a call" in warning.getMessage()
    assert warning.exc_info is not None
