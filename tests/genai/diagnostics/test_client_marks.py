"""Client marks on the spans of real clients, over real sockets."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.components import require
from tests.support.diagnostics import found
from tests.support.recorder import Recorder
from tests.support.scripted_stream import (
    CALLERS,
    MESSAGES,
    Script,
    llama_call,
    llama_call_async,
    openai_call,
    openai_call_async,
    scripted_server,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the age of data")
PAUSE_S = 0.08
TICK_S = 0.01  # resolution of the kernel's timer, at most


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return pem


def assert_in_order(*times_s: float) -> None:
    assert list(times_s) == sorted(times_s)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("stream", [True, False])
def test_marks_of_one_call_are_in_order_and_within_its_span(
    diagnosed: Recorder, caller: Any, stream: bool
):
    with scripted_server(Script()) as origin:
        caller(origin, stream=stream)
    span = diagnosed.call()
    duration_s = (span.end_time - span.start_time) / 1e9
    (marks,) = found(diagnosed, "client")
    started_s, connected_s = marks["connect"]
    assert_in_order(
        0.0, started_s, connected_s, marks["sent"], marks["headers"], marks["last_data"], duration_s
    )
    assert "attempts" not in marks
    assert "last_attempt" not in marks


@pytest.mark.parametrize("caller", CALLERS)
def test_connect_is_recorded_for_the_call_that_opens_the_connection(
    diagnosed: Recorder, caller: Any
):
    with scripted_server(Script()) as origin:
        caller(origin, stream=False, times=2)
    first, second = found(diagnosed, "client")
    assert "connect" in first
    assert "connect" not in second
    assert_in_order(second["sent"], second["headers"], second["last_data"])


@on_linux
@pytest.mark.parametrize("caller", CALLERS)
def test_read_delay_is_the_time_that_the_data_waited_for_the_application(
    diagnosed: Recorder, caller: Any
):
    script = Script()

    def work() -> None:
        assert script.sent.wait(10)
        time.sleep(PAUSE_S)

    with scripted_server(script) as origin:
        caller(origin, work)
    (marks,) = found(diagnosed, "client")
    at_headers_s, at_end_s = marks["read_delay"]
    assert at_headers_s < marks["last_data"] + TICK_S
    assert PAUSE_S / 2 < at_end_s < marks["last_data"] + TICK_S
    ((at, length, age),) = [map(int, gap.split(":")) for gap in marks["gaps"]]
    assert min(age, length) / 1000 > PAUSE_S / 2
    assert at / 1000 <= marks["last_data"] + 0.001


@on_linux
@pytest.mark.parametrize("caller", CALLERS)
def test_data_that_arrives_late_is_younger_than_the_gap_before_it(diagnosed: Recorder, caller: Any):
    script = Script()
    script.before_end.clear()

    def work() -> None:
        threading.Timer(PAUSE_S, script.before_end.set).start()

    with scripted_server(script) as origin:
        caller(origin, work)
    (marks,) = found(diagnosed, "client")
    ((_, length, age),) = [map(int, gap.split(":")) for gap in marks["gaps"]]
    assert length >= PAUSE_S * 900
    assert age < length + TICK_S * 1000


@on_linux
@pytest.mark.parametrize("caller", [openai_call, openai_call_async])
def test_read_delay_is_known_below_tls(diagnosed: Recorder, caller: Any, certificate: Path):
    script = Script()

    def work() -> None:
        assert script.sent.wait(10)
        time.sleep(PAUSE_S)

    context = ssl.create_default_context(cafile=str(certificate))
    kind = payloads.http.Client if caller is openai_call else payloads.http.AsyncClient
    with scripted_server(script, certificate) as origin:
        caller(origin, work, http_client=kind(verify=context))
    (marks,) = found(diagnosed, "client")
    assert PAUSE_S / 2 < marks["read_delay"][1] < marks["last_data"] + TICK_S
    assert marks["connect"][1] <= marks["sent"]


@on_linux
@pytest.mark.parametrize("caller", [openai_call, llama_call])
def test_plain_response_on_a_kept_connection_knows_the_delay_of_its_end_only(
    diagnosed: Recorder, caller: Any
):
    with scripted_server(Script()) as origin:
        caller(origin, stream=False, times=2)
    first, second = found(diagnosed, "client")
    assert [len(first["read_delay"]), len(second["read_delay"])] == [2, 1]


@pytest.mark.parametrize("caller", [openai_call, openai_call_async])
def test_failed_attempts_have_status_and_times(diagnosed: Recorder, caller: Any):
    with scripted_server(Script(503, 429)) as origin:
        caller(origin, max_retries=2)
    (marks,) = found(diagnosed, "client")
    attempts = [attempt.split(":") for attempt in marks["attempts"]]
    assert [status for _, _, status in attempts] == ["503", "429"]
    (first_at, first_ms, _), (second_at, second_ms, _) = attempts
    assert int(first_at) + int(first_ms) <= int(second_at) + 1
    assert (int(second_at) + int(second_ms)) / 1000 <= marks["last_attempt"] + 0.001
    assert_in_order(marks["last_attempt"], marks["sent"], marks["headers"])


@pytest.mark.parametrize("caller", [llama_call, llama_call_async])
def test_attempts_during_which_the_model_loads_are_failed_ones(diagnosed: Recorder, caller: Any):
    with scripted_server(Script(503)) as origin:
        caller(origin, stream=False)
    (marks,) = found(diagnosed, "client")
    assert marks["attempts"][0].endswith(":503")


@pytest.mark.parametrize("caller", [openai_call, openai_call_async])
def test_attempt_without_a_connection_names_the_exception(diagnosed: Recorder, caller: Any):
    with scripted_server(Script()) as origin:
        pass
    with pytest.raises(openai.APIConnectionError):
        caller(origin, max_retries=1)
    (marks,) = found(diagnosed, "client")
    (attempt,) = marks["attempts"]
    assert attempt.endswith(":ConnectError")
    assert not {"sent", "headers", "last_data", "connect"} & marks.keys()


def test_trace_extension_of_the_application_sees_the_same_events(diagnosed: Recorder):
    seen: list[list[str]] = []

    class Client(payloads.http.Client):
        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            request = super().build_request(*args, **kwargs)
            events: list[str] = []
            seen.append(events)
            request.extensions["trace"] = lambda event, _: events.append(event)
            return request

    with scripted_server(Script()) as origin:
        openai_call(origin, http_client=Client())
        OpenAIInstrumentor().uninstrument()
        openai_call(origin, http_client=Client())
    recorded, bare = seen
    assert recorded == bare != []
    (marks,) = found(diagnosed, "client")
    assert {"sent", "headers", "last_data"} <= marks.keys()


@pytest.mark.parametrize("caller", [openai_call, openai_call_async])
def test_error_of_the_trace_extension_reaches_the_application(diagnosed: Recorder, caller: Any):
    def fail(event: str, _: object) -> Any:
        raise LookupError(event)

    base: Any = payloads.http.Client if caller is openai_call else payloads.http.AsyncClient

    class Client(base):
        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            request = super().build_request(*args, **kwargs)
            request.extensions["trace"] = fail
            return request

    with scripted_server(Script()) as origin, pytest.raises(Exception) as caught:  # noqa: PT011
        caller(origin, http_client=Client(), max_retries=0)
    # Old versions of openai raise their own error from it.
    error = caught.value.__cause__ or caught.value
    assert isinstance(error, LookupError)
    assert "connect_tcp" in str(error)


def test_stream_that_the_application_closes_ends_its_last_data_with_the_call(diagnosed: Recorder):
    script = Script()
    script.before_end.clear()
    with scripted_server(script) as origin:
        with openai.OpenAI(base_url=f"{origin}/v1", api_key="none") as client:
            stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            next(iter(stream))
            stream.close()
        script.before_end.set()
    span = diagnosed.call()
    (marks,) = found(diagnosed, "client")
    assert marks["last_data"] == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)


def test_transport_without_events_leaves_the_marks_unknown(diagnosed: Recorder):
    transport = payloads.http.MockTransport(
        lambda _: payloads.http.Response(200, json={"choices": []})
    )
    with openai.OpenAI(
        base_url="http://llm.test/v1",
        api_key="none",
        http_client=payloads.http.Client(transport=transport),
    ) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert found(diagnosed, "client") == [{}]


@pytest.mark.parametrize("caller", [openai_call, llama_call])
def test_default_options_record_no_diagnostics(recorded: Recorder, caller: Any):
    OpenAIInstrumentor().instrument(**recorded.providers)
    try:
        with scripted_server(Script()) as origin:
            caller(origin)
    finally:
        OpenAIInstrumentor().uninstrument()
    names = diagnostic_names(recorded)
    assert not names


def diagnostic_names(recorder: Recorder) -> list[str]:
    groups = ("client", "loop", "prompt", "server")
    return [
        name
        for span in recorder.calls()
        for name in span.attributes or {}
        if name.startswith(tuple(f"llamatelemetry.{group}." for group in groups))
    ]
