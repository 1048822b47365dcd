"""Turning the plugin on and off, propagation, and enclosing spans."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import inspect
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
import requests
import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_cpp_responses import BODY, CHAT, EVENTS
from tests.support.recorder import Recorder

URL = "http://llama.test:8080/v1/chat/completions"
KINDS = (httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient, requests.Session)
both = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def mock(library: Any, **headers: str) -> Any:
    def reply(request: Any) -> Any:
        requests_seen.append(request)
        return library.Response(
            200, json=payloads.chat(), headers={"Server": "llama.cpp", **headers}
        )

    requests_seen: list[Any] = []
    client = library.Client(transport=library.MockTransport(reply))
    client.seen = requests_seen
    return client


def test_instrument_succeeds_when_any_library_is_installed() -> None:
    """llama-cpp-python is missing here, and the base class would require it."""
    plugin = LlamaCppInstrumentor()
    plugin.instrument()
    assert plugin.is_instrumented_by_opentelemetry
    plugin.uninstrument()


def test_uninstrument_restores_original_functions(instrument: Callable[..., Recorder]) -> None:
    before = [dict(vars(kind)) for kind in KINDS]
    instrument()
    assert all(
        vars(kind)["send"] is not old["send"] for kind, old in zip(KINDS, before, strict=True)
    )
    LlamaCppInstrumentor().uninstrument()
    assert [dict(vars(kind)) for kind in KINDS] == before


def test_instrument_patches_nothing_when_sdk_is_disabled(
    instrument: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [dict(vars(kind)) for kind in KINDS]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    instrument()
    assert [dict(vars(kind)) for kind in KINDS] == before


def test_instrument_imports_no_http_library() -> None:
    program = (
        "import sys; from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor as I; "
        "I().instrument(); names = {n.split('.')[0] for n in sys.modules}; "
        "assert not names & {'httpx', 'httpx2', 'requests', 'llama_cpp', 'xllamacpp'}, names; "
        "import httpx2; assert hasattr(httpx2.Client.send, '_self_wrapper')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_patched_method_has_signature_of_original(instrumented: Recorder) -> None:
    assert inspect.iscoroutinefunction(httpx2.AsyncClient.send)
    assert not inspect.iscoroutinefunction(httpx2.Client.send)
    assert list(inspect.signature(requests.Session.send).parameters) == [
        "self",
        "request",
        "kwargs",
    ]


@both
def test_client_created_before_instrumenting_is_recorded(
    library: Any, instrument: Callable[..., Recorder]
) -> None:
    with mock(library) as client:
        recorder = instrument()
        client.post(URL, json=BODY)
    recorder.call()


@both
def test_uninstrument_disables_wrapper_below_foreign_wrapper(
    library: Any, instrument: Callable[..., Recorder]
) -> None:
    seen: list[str] = []

    def other_wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("other")
        return wrapped(*args, **kwargs)

    original = vars(library.Client)["send"]
    recorder = instrument()
    wrapt.wrap_function_wrapper(f"{library.__name__}._client", "Client.send", other_wrapper)
    try:
        LlamaCppInstrumentor().uninstrument()
        with mock(library) as client:
            client.post(URL, json=BODY)
        assert seen == ["other"]
        assert recorder.spans() == []
    finally:
        library.Client.send = original


def test_suppressed_instrumentation_records_nothing(instrumented: Recorder) -> None:
    with suppress_instrumentation(), mock(httpx2) as client:
        client.post(URL, json=BODY)
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


@pytest.mark.parametrize("choices", [1, 2])
def test_latency_names_have_what_llama_cpp_reports(
    instrument: Callable[..., Recorder], choices: int
) -> None:
    recorder = instrument(engine_latency_names=True)
    timings = {"prompt_n": 3, "prompt_ms": 20.0, "predicted_n": 2, "predicted_ms": 40.0}
    reply = httpx.Response(
        200, json=payloads.chat(timings=timings), headers={"Server": "llama.cpp"}
    )
    with httpx.Client(transport=httpx.MockTransport(lambda _: reply)) as client:
        client.post(URL, json={**BODY, "n": choices})
    found = recorder.call().attributes or {}
    latencies = {name: value for name, value in found.items() if "gen_ai.latency." in name}
    assert found["gen_ai.prefill_ms"] == 20.0
    # The queue is the client's measurement. Of several choices, the figures are those of the first.
    expected = {
        "gen_ai.latency.time_in_model_prefill": 0.02,
        "gen_ai.latency.time_in_model_decode": 0.04,
        "gen_ai.latency.time_in_model_inference": 0.06,
    }
    assert latencies == (pytest.approx(expected) if choices == 1 else {})


class BrokenSampler(Sampler):
    """A configured sampler that raises."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no sampling today")

    def get_description(self) -> str:
        return "broken"


def test_failing_telemetry_logs_warning_and_call_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    internal_errors.set_strict(False)
    LlamaCppInstrumentor().instrument(tracer_provider=TracerProvider(sampler=BrokenSampler()))
    try:
        with mock(httpx2) as client:
            for _ in range(3):
                assert client.post(URL, json=BODY).json() == payloads.chat()
    finally:
        LlamaCppInstrumentor().uninstrument()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert {record.name for record in warnings} == {"llamatelemetry"}
    assert 1 <= len(warnings) <= 2  # One for the identifying response, one for the known server.


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_known_server_gets_traceparent_and_request_is_not_modified(
    instrument: Callable[..., Recorder], caller: str, mode: str
) -> None:
    recorder = instrument(propagate=mode, llamacpp_allow=("127.0.0.1",))
    with scripted(plain(CHAT)) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    (sent,) = server.requests
    if mode == "off":
        assert b"traceparent" not in sent.lower()
        return
    span = recorder.call()
    assert (
        f"traceparent: 00-{span.context.trace_id:032x}-{span.context.span_id:016x}".encode() in sent
    )
    assert b"baggage" not in sent


@pytest.mark.parametrize("caller", ["httpx2", "requests"])
def test_existing_traceparent_is_kept(instrument: Callable[..., Recorder], caller: str) -> None:
    instrument(llamacpp_allow=("127.0.0.1",))
    with scripted(plain(CHAT)) as server:
        headers = {"traceparent": "mine"}
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY, headers))
    assert server.requests[0].lower().count(b"traceparent") == 1


@both
def test_headers_of_request_object_are_not_modified(
    library: Any, instrument: Callable[..., Recorder]
) -> None:
    instrument(llamacpp_allow=("llama.test",))
    with mock(library) as client:
        request = client.build_request("POST", URL, json=BODY)
        headers = request.headers
        first, second = client.send(request), client.send(request)
    assert request.headers is headers
    assert "traceparent" not in headers
    assert first.request is second.request is request


def test_plugin_writes_no_traceparent_when_requests_is_instrumented(
    instrument: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper here has the marker of OpenTelemetry's instrumentation."""
    original = requests.Session.send

    @functools.wraps(original)
    def send(self: Any, request: Any, **kwargs: Any) -> Any:
        return original(self, request, **kwargs)

    send.opentelemetry_instrumentation_requests_applied = True  # type: ignore[attr-defined]
    monkeypatch.setattr(requests.Session, "send", send)
    recorder = instrument(llamacpp_allow=("127.0.0.1",))
    with scripted(plain(CHAT)) as server:
        CALLERS["requests"](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    assert b"traceparent" not in server.requests[0]
    recorder.call()
    LlamaCppInstrumentor().uninstrument()


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(
    "around",
    [
        ("pipeline", SpanKind.INTERNAL, {}),
        ("invoke_agent", SpanKind.INTERNAL, {"gen_ai.operation.name": "invoke_agent"}),
        ("invoke_agent", SpanKind.CLIENT, {"gen_ai.operation.name": "invoke_agent"}),
        ("execute_tool", SpanKind.INTERNAL, {"gen_ai.operation.name": "execute_tool"}),
        ("GET /", SpanKind.SERVER, {}),
    ],
)
def test_call_is_child_of_pipeline_agent_tool_or_server_span(
    instrument: Any, caller: str, known: bool, around: tuple[str, Any, Any]
) -> None:
    name, kind, attributes = around
    recorder = instrument(llamacpp_allow=("127.0.0.1",) if known else ())
    tracer = trace.get_tracer("app", tracer_provider=recorder.tracer_provider)
    with (
        scripted(plain(CHAT)) as server,
        tracer.start_as_current_span(name, kind=kind, attributes=attributes) as outer,
    ):
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    (call,) = [span for span in recorder.calls() if span.name == "chat smol"]
    assert call.parent is not None
    assert call.parent.span_id == outer.get_span_context().span_id
    assert dict(outer.attributes) == attributes


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("caller", CALLERS)
def test_engine_timings_are_added_to_span_of_other_instrumentation(
    instrument: Callable[..., Recorder], caller: str, known: bool
) -> None:
    recorder = instrument(llamacpp_allow=("127.0.0.1",) if known else ())
    tracer = trace.get_tracer("another", tracer_provider=recorder.tracer_provider)
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "smol",
        "gen_ai.provider.name": "openai",
    }
    answer = chunked(EVENTS) if caller in STREAMED else plain(CHAT)
    with (
        scripted(answer) as server,
        tracer.start_as_current_span("chat smol", kind=SpanKind.CLIENT, attributes=attributes),
    ):
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    span = recorder.call()
    assert span.instrumentation_scope.name == "another"
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.prefill_ms"] == 2.0
    assert span.attributes["llamatelemetry.accepted_tokens"] == 3
    assert span.attributes["llamatelemetry.drafted_tokens"] == 4
    # The other instrumentation records tokens and duration, the plugin records engine metrics.
    assert recorder.points("gen_ai.client.token.usage") == []
    assert len(recorder.points("gen_ai.server.request.duration")) == 1


def stream_of(library: Any) -> Any:
    class Endless(library.SyncByteStream):
        def __iter__(self) -> Any:
            yield from EVENTS[:3]
            yield from iter(lambda: b":\n\n", None)

    headers = {"Server": "llama.cpp", "Content-Type": "text/event-stream"}
    reply = library.MockTransport(
        lambda _: library.Response(200, headers=headers, stream=Endless())
    )
    return library.Client(transport=reply)


def has_cycles(library: Any) -> bool:
    """Return whether responses are reference cycles, as in httpx and the first httpx2."""
    client = stream_of(library)
    response = client.send(client.build_request("POST", URL, json=BODY), stream=True)
    reference = weakref.ref(response)
    del response
    return reference() is not None


# Evaluated before anything is instrumented.
CYCLES = {library: has_cycles(library) for library in (httpx, httpx2)}


@pytest.fixture
def collect_by_hand() -> Iterator[Callable[[Any], None]]:
    """Collect garbage only for libraries with reference cycles: the plugin must not add one."""
    gc.disable()
    yield lambda library: gc.collect() if CYCLES[library] else None  # type: ignore[misc]
    gc.enable()


@both
def test_abandoned_stream_ends_call(
    library: Any, instrumented: Recorder, collect_by_hand: Callable[[Any], None]
) -> None:
    client = stream_of(library)
    response = client.send(client.build_request("POST", URL, json=BODY), stream=True)
    chunks = response.iter_raw()
    for _ in range(3):
        next(chunks)
    del response, chunks
    collect_by_hand(library)
    span = instrumented.call()
    assert span.attributes["gen_ai.response.id"] == "chatcmpl-1"
    client.close()


@both
def test_closed_stream_ends_call_at_once(library: Any, instrumented: Recorder) -> None:
    client = stream_of(library)
    response = client.send(client.build_request("POST", URL, json=BODY), stream=True)
    chunks = response.iter_raw()
    next(chunks)
    assert instrumented.spans() == []
    response.close()
    assert instrumented.call().attributes["gen_ai.response.id"] == "chatcmpl-1"
    client.close()
    del chunks


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_closed_asynchronous_stream_ends_call_at_once(
    library: str, instrumented: Recorder
) -> None:
    http: Any = importlib.import_module(library)

    class Endless(http.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for event in EVENTS[:3]:
                yield event
            await asyncio.Event().wait()

    headers = {"Server": "llama.cpp", "Content-Type": "text/event-stream"}
    reply = http.MockTransport(lambda _: http.Response(200, headers=headers, stream=Endless()))
    async with http.AsyncClient(transport=reply) as client:
        request = client.build_request("POST", URL, json=BODY)
        response = await client.send(request, stream=True)
        chunks = response.aiter_raw()
        await anext(chunks)
        assert instrumented.spans() == []
        await response.aclose()
        instrumented.call()
        await chunks.aclose()


def test_closed_requests_stream_ends_call_at_once(instrumented: Recorder) -> None:
    with (
        scripted(chunked([*EVENTS, *[b": ping\n\n"] * 20])) as server,
        requests.Session() as session,
    ):
        url = f"{server.origin}/v1/chat/completions"
        response = session.post(url, json=BODY, stream=True)
        chunks = response.iter_content(None)
        next(chunks)
        assert instrumented.spans() == []
        response.close()
        assert instrumented.call().attributes["gen_ai.response.id"] == "chatcmpl-1"
        del chunks


@both
def test_abandoned_unread_response_ends_call(
    library: Any, instrumented: Recorder, collect_by_hand: Callable[[Any], None]
) -> None:
    client = stream_of(library)
    response = client.send(client.build_request("POST", URL, json=BODY), stream=True)
    del response
    collect_by_hand(library)
    assert instrumented.call().status.status_code is StatusCode.UNSET
    client.close()


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_cancelled_task_ends_call_and_stays_cancelled(
    library: str, instrument: Callable[..., Recorder]
) -> None:
    recorder = instrument(llamacpp_allow=("llama.test",))
    http: Any = importlib.import_module(library)
    started = asyncio.Event()

    async def never(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    async with http.AsyncClient(transport=http.MockTransport(never)) as client:
        task = asyncio.create_task(client.post(URL, json=BODY))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    span = recorder.call()
    assert "CancelledError" in span.attributes["error.type"]


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_call_through_asgi_transport_is_recorded(
    library: str, instrumented: Recorder
) -> None:
    """Tests of web applications use this transport."""
    http: Any = importlib.import_module(library)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"server", b"llama.cpp"), (b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in EVENTS:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with (
        http.AsyncClient(transport=http.ASGITransport(app=application)) as client,
        client.stream("POST", URL, json=BODY) as response,
    ):
        assert await response.aread() == b"".join(EVENTS)
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


@both
def test_streamed_request_body_is_not_read(
    library: Any, instrument: Callable[..., Recorder]
) -> None:
    recorder = instrument(llamacpp_allow=("llama.test",))
    chunks = iter([b'{"model": "smol", ', b'"messages": []}'])
    with mock(library) as client:
        client.post(URL, content=chunks)
        assert client.seen[0].headers["transfer-encoding"] == "chunked"
    assert recorder.call().name == "chat"


@both
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": 7, "stream": "x"}']
)
def test_invalid_request_body_is_sent_unchanged(
    library: Any, instrument: Callable[..., Recorder], content: bytes
) -> None:
    recorder = instrument(llamacpp_allow=("llama.test",))
    with mock(library) as client:
        client.post(URL, content=content)
        assert client.seen[0].read() == content
    assert recorder.call().name == "chat"
