"""Signal handlers of the application: their exceptions reach it, and they may make calls."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.model_server import ANSWER
from tests.support.recorder import Recorder

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
MESSAGES = [{"role": "user", "content": "Hi"}]


class AlarmError(Exception):
    """The exception of the application's handler, like that of a timeout."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def on_signal(_number: int, _frame: Any) -> None:
        raise AlarmError

    internal_errors.set_strict(False)  # As in an application: other errors are only logged.
    before = signal.signal(signal.SIGUSR1, on_signal)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def client(recorder: Recorder) -> Iterator[openai.OpenAI]:
    OpenAIInstrumentor().instrument(**recorder.providers)
    transport = payloads.http.MockTransport(lambda _: payloads.http.Response(200, json=ANSWER))
    with openai.OpenAI(
        api_key="k",
        base_url="http://127.0.0.1:1/v1",
        http_client=payloads.http.Client(transport=transport),
    ) as client:
        yield client
    OpenAIInstrumentor().uninstrument()


class InterruptedProcessor(SpanProcessor):
    """A signal arrives while a span starts or ends."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.when == "start":
            signal.raise_signal(signal.SIGUSR1)

    def on_end(self, span: Any) -> None:
        if self.when == "end":
            signal.raise_signal(signal.SIGUSR1)


@pytest.mark.usefixtures("alarm")
def test_exception_of_signal_handler_at_start_of_call_reaches_application(client, recorder):
    recorder.tracer_provider.add_span_processor(InterruptedProcessor("start"))
    with pytest.raises(AlarmError):
        client.chat.completions.create(model="smol", messages=MESSAGES)


@pytest.mark.usefixtures("alarm")
def test_exception_of_signal_handler_at_end_of_call_reaches_application(client, recorder):
    recorder.tracer_provider.add_span_processor(InterruptedProcessor("end"))
    with pytest.raises(AlarmError):
        client.chat.completions.create(model="smol", messages=MESSAGES)
    # The interrupted call has ended, so that the next one is not taken for a part of it.
    with pytest.raises(AlarmError):
        client.chat.completions.create(model="smol", messages=MESSAGES)
    assert len(recorder.calls()) == 2


def test_call_in_signal_handler_during_metric_collection_does_not_hang():
    # In a process of its own: handlers run in the main thread, which a deadlock would stop.
    done = subprocess.run(
        [sys.executable, "-m", "tests.openai_plugin.call_in_signal_handler"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
