"""The trace context in requests, with and without HTTP instrumentations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation import httpx as otel_httpx
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.openai_plugin.loopback import Loopback, loopback_server
from tests.support import payloads
from tests.support.recorder import Recorder

# The instrumentor of the HTTP library that this version of openai uses, and the other one.
USES_HTTPX2 = payloads.http.__name__ == "httpx2"
THE_RIGHT_ONE, THE_OTHER = (
    (HTTPX2ClientInstrumentor, HTTPXClientInstrumentor)
    if USES_HTTPX2
    else (HTTPXClientInstrumentor, HTTPX2ClientInstrumentor)
)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as server:
        yield server


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., None]]:
    def instrument(propagate: str = "auto", **providers: Any) -> None:
        config = LlamaTelemetryConfig(propagate=propagate)
        OpenAIInstrumentor().instrument(**{**recorder.providers, **providers}, config=config)

    yield instrument
    OpenAIInstrumentor().uninstrument()


@pytest.fixture
def instrument_http(recorder: Recorder) -> Iterator[Callable[[type], None]]:
    yield lambda kind: kind().instrument(tracer_provider=recorder.tracer_provider)
    for kind in (HTTPXClientInstrumentor, HTTPX2ClientInstrumentor):
        if kind().is_instrumented_by_opentelemetry:
            kind().uninstrument()


def make_client(server: Loopback, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": server.url, "api_key": "k", "max_retries": 0, **options})


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="smol", messages=payloads.MESSAGES, **more)


def named_by(server: Loopback) -> tuple[str, bool]:
    """Return the span id and the sampled flag of the only `traceparent` of the only request."""
    (header,) = server.sent("traceparent")
    version, _trace_id, span_id, flags = header.split("-")
    assert version == "00"
    return span_id, bool(int(flags, 16) & TraceFlags.SAMPLED)


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def our_span(recorder: Recorder) -> ReadableSpan:
    (span,) = [span for span in recorder.spans() if span.name == "chat smol"]
    return span


def http_span(recorder: Recorder) -> ReadableSpan:
    (span,) = [span for span in recorder.spans() if span.name == "POST"]
    return span


def plain(client: Any) -> None:
    ask(client)


def stream(client: Any) -> None:
    list(ask(client, stream=True))


def raw(client: Any) -> None:
    client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES
    ).parse()


def raw_stream(client: Any) -> None:
    response = client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    list(response.parse())


def streaming_response(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="smol", messages=payloads.MESSAGES
    ) as response:
        response.read()


@pytest.mark.parametrize("use", [plain, stream, raw, raw_stream, streaming_response])
def test_request_has_traceparent_of_call_span(instrument, recorder, server, use):
    instrument()
    with make_client(server) as client:
        use(client)
    assert named_by(server)[1]
    if use is not raw_stream:  # That call is ended by its stream.
        assert named_by(server)[0] == id_of(our_span(recorder))


async def test_asynchronous_request_has_traceparent_of_call_span(instrument, recorder, server):
    instrument()
    async with openai.AsyncOpenAI(base_url=server.url, api_key="k") as client:
        await client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert named_by(server) == (id_of(our_span(recorder)), True)


def test_each_attempt_has_one_traceparent(instrument, recorder, server):
    instrument()
    server.statuses = [500, 500]
    with make_client(server, max_retries=2) as client:
        ask(client)
    headers = [request.get_all("traceparent") for request in server.requests]
    assert len(headers) == 3
    assert all(len(found) == 1 for found in headers)
    assert {found[0].split("-")[2] for found in headers} == {id_of(our_span(recorder))}


def test_tracestate_is_propagated_but_baggage_is_not(instrument, recorder, server):
    instrument()
    remote = SpanContext(
        trace_id=0x1234, span_id=0x5678, is_remote=True, trace_flags=TraceFlags(1),
        trace_state=TraceState([("vendor", "x")]),
    )  # fmt: skip
    here = trace.set_span_in_context(NonRecordingSpan(remote))
    token = context.attach(baggage.set_baggage("user.id", "secret", here))
    try:
        with make_client(server) as client:
            ask(client)
    finally:
        context.detach(token)
    (header,) = server.sent("traceparent")
    assert header.startswith(f"00-{0x1234:032x}-{id_of(our_span(recorder))}-")
    assert server.sent("tracestate") == ["vendor=x"]
    assert server.sent("baggage") == []


def test_traceparent_of_unsampled_call_has_unsampled_flag(instrument, server):
    instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    with make_client(server) as client:
        ask(client)
    assert not named_by(server)[1]


def test_callers_context_is_propagated_without_tracer_provider(instrument, server):
    instrument(tracer_provider=trace.NoOpTracerProvider())
    span = NonRecordingSpan(SpanContext(0x1234, 0x5678, is_remote=True, trace_flags=TraceFlags(1)))
    with trace.use_span(span), make_client(server) as client:
        ask(client)
    assert server.sent("traceparent") == [f"00-{0x1234:032x}-{0x5678:016x}-01"]


def test_request_has_no_traceparent_without_context(instrument, server):
    instrument(tracer_provider=trace.NoOpTracerProvider())
    with make_client(server) as client:
        ask(client)
    assert server.sent("traceparent") == []


def test_request_has_traceparent_of_enclosing_foreign_call(instrument, recorder, server):
    instrument()
    tracer = trace.get_tracer("another", tracer_provider=recorder.tracer_provider)
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "smol"}
    outer = tracer.start_as_current_span("outer", kind=SpanKind.CLIENT, attributes=attributes)
    with outer, make_client(server) as client:
        ask(client)
    (span,) = recorder.spans()
    assert span.name == "outer"
    assert named_by(server) == (id_of(span), True)


THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("where", ["extra_headers", "default_headers"])
def test_existing_traceparent_is_kept(instrument, server, mode, where):
    instrument(mode)
    given = {"Traceparent": THEIRS, "Tracestate": "a=b"}
    of_client = {"default_headers": given} if where == "default_headers" else {}
    of_call = {"extra_headers": given} if where == "extra_headers" else {}
    with make_client(server, **of_client) as client:
        ask(client, **of_call)
    assert server.sent("traceparent") == [THEIRS]
    assert server.sent("tracestate") == ["a=b"]
    assert given == {"Traceparent": THEIRS, "Tracestate": "a=b"}


def test_existing_tracestate_is_kept(instrument, server):
    instrument()
    remote = SpanContext(0x1234, 0x5678, True, TraceFlags(1), TraceState([("vendor", "x")]))
    with trace.use_span(NonRecordingSpan(remote)), make_client(server) as client:
        ask(client, extra_headers={"TraceState": "a=b"})
    assert server.sent("tracestate") == ["a=b"]
    assert len(server.sent("traceparent")) == 1


def test_headers_of_caller_are_not_modified(instrument, server):
    instrument()
    default, extra = {"x-a": "1"}, {"x-b": "2"}
    with make_client(server, default_headers=default) as client:
        ask(client, extra_headers=extra)
        assert "traceparent" not in client.default_headers
        assert "traceparent" not in client._client.headers
    assert (default, extra) == ({"x-a": "1"}, {"x-b": "2"})
    assert (server.sent("x-a"), server.sent("x-b")) == (["1"], ["2"])
    assert len(server.sent("traceparent")) == 1


def test_request_has_no_traceparent_when_propagate_is_off(instrument, server):
    instrument("off")
    with make_client(server) as client:
        ask(client)
    assert server.sent("traceparent") == []


def test_request_has_no_traceparent_when_instrumentation_is_suppressed(instrument, server):
    instrument()
    with suppress_instrumentation(), make_client(server) as client:
        ask(client)
    assert server.sent("traceparent") == []


def test_request_to_other_endpoint_has_no_traceparent(instrument, server):
    instrument()
    with make_client(server) as client:
        client.models.list()
    assert server.sent("traceparent") == []


@pytest.mark.parametrize(("mode", "is_there"), [("auto", False), ("on", True)])
def test_propagators_without_tracecontext_turn_auto_off(instrument, server, mode, is_there):
    """`OTEL_PROPAGATORS` is `none` or `b3`."""
    instrument(mode)
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([]))
    try:
        with make_client(server) as client:
            ask(client)
    finally:
        propagate.set_global_textmap(before)
    assert bool(server.sent("traceparent")) is is_there


def instrumented_for_all(client: openai.OpenAI, **options: Any) -> openai.OpenAI:
    THE_RIGHT_ONE().instrument(**options)
    return client


def instrumented_alone(client: openai.OpenAI, **options: Any) -> openai.OpenAI:
    THE_RIGHT_ONE.instrument_client(client._client, **options)
    return client


def with_their_transport(client: openai.OpenAI, **options: Any) -> openai.OpenAI:
    name = "SyncOpenTelemetryTransport" + ("Httpx2" if USES_HTTPX2 else "")
    kind = getattr(otel_httpx, name)
    transport = kind(payloads.http.HTTPTransport(), **options)
    return client.with_options(http_client=payloads.http.Client(transport=transport))


def with_a_transport_of_ones_own(client: openai.OpenAI, **options: Any) -> openai.OpenAI:
    class Transport(payloads.http.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            return super().handle_request(request)

    THE_RIGHT_ONE().instrument(**options)
    return client.with_options(http_client=payloads.http.Client(transport=Transport()))


def legacy(client: openai.OpenAI, **options: Any) -> openai.OpenAI:
    """Use a client of httpx, which openai 3 accepts as well."""
    HTTPXClientInstrumentor().instrument(**options)
    return client.with_options(http_client=httpx.Client())


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
@pytest.mark.parametrize(
    "way",
    [
        instrumented_for_all,
        instrumented_alone,
        with_their_transport,
        with_a_transport_of_ones_own,
        pytest.param(
            legacy,
            marks=pytest.mark.skipif(not USES_HTTPX2, reason="httpx is the library it uses"),
        ),
    ],
)
@pytest.mark.usefixtures("instrument_http")
def test_http_instrumentation_writes_the_only_traceparent(instrument, recorder, mode, way):
    instrument(mode)
    there_before: list[bool] = []

    def request_hook(_span: Any, request: Any) -> None:
        there_before.append("traceparent" in request.headers)

    with loopback_server() as server, make_client(server) as client:
        options = {"tracer_provider": recorder.tracer_provider, "request_hook": request_hook}
        with way(client, **options) as client_in_use:
            stream(client_in_use)
    assert there_before == [mode == "on"]
    assert named_by(server) == (id_of(http_span(recorder)), True)
    assert http_span(recorder).parent.span_id == our_span(recorder).context.span_id


async def test_asynchronous_http_instrumentation_writes_the_only_traceparent(
    instrument, instrument_http, recorder, server
):
    instrument()
    instrument_http(THE_RIGHT_ONE)
    async with openai.AsyncOpenAI(base_url=server.url, api_key="k") as client:
        await client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert named_by(server) == (id_of(http_span(recorder)), True)


def test_instrumentation_of_other_http_library_is_ignored(
    instrument, instrument_http, recorder, server
):
    """openai 3 uses httpx2, so the instrumentation of httpx writes no header."""
    instrument()
    instrument_http(THE_OTHER)
    with make_client(server) as client:
        ask(client)
    assert named_by(server) == (id_of(our_span(recorder)), True)


def test_single_instrumented_http_client_writes_traceparent_itself(instrument, recorder, server):
    instrument()
    with make_client(server) as client, make_client(server) as neighbour:
        THE_RIGHT_ONE.instrument_client(client._client, tracer_provider=recorder.tracer_provider)
        ask(client)
        assert named_by(server) == (id_of(http_span(recorder)), True)
        recorder.clear_spans()
        server.requests.clear()
        ask(neighbour)
        assert named_by(server) == (id_of(our_span(recorder)), True)


def test_plugin_writes_traceparent_for_uninstrumented_transport(
    instrument, instrument_http, recorder
):
    instrument()
    instrument_http(THE_RIGHT_ONE)
    seen = []

    def handle(request: Any) -> Any:
        seen.append(request.headers.get("traceparent"))
        return payloads.json_response(payloads.chat())

    ask(payloads.client(handle))
    assert seen[0].split("-")[2] == id_of(our_span(recorder))


def test_plugin_writes_traceparent_when_http_instrumentation_is_suppressed(
    instrument, instrument_http, recorder, server
):
    instrument()
    instrument_http(THE_RIGHT_ONE)
    with suppress_http_instrumentation(), make_client(server) as client:
        ask(client)
    assert named_by(server) == (id_of(our_span(recorder)), True)


def test_plugin_writes_traceparent_after_http_instrumentation_was_removed(
    instrument, instrument_http, recorder, server
):
    instrument()
    instrument_http(THE_RIGHT_ONE)
    THE_RIGHT_ONE().uninstrument()
    with make_client(server) as client:
        ask(client)
    assert named_by(server) == (id_of(our_span(recorder)), True)


@pytest.mark.parametrize("way", [instrumented_for_all, instrumented_alone, with_their_transport])
@pytest.mark.usefixtures("instrument_http")
def test_plugin_writes_traceparent_when_http_instrumentation_excludes_url(
    instrument, recorder, server, monkeypatch, way
):
    monkeypatch.setenv("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "127.0.0.1")
    instrument()
    with (
        make_client(server) as client,
        way(client, tracer_provider=recorder.tracer_provider) as client_in_use,
    ):
        ask(client_in_use)
    assert [span.name for span in recorder.spans()] == ["chat smol"]
    assert named_by(server) == (id_of(our_span(recorder)), True)
