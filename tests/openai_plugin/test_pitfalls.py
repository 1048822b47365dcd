"""Known defects of similar instrumentations, and the test that detects each of them.

`TESTS_BY_DEFECT` names the tests in other files. The remaining tests are here.
"""

from __future__ import annotations

import ast
import inspect
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

TESTS = Path(__file__).parents[1]
TESTS_BY_DEFECT = {
    "parsing a response raises into the application": (
        "openai_plugin/test_transparency.py::test_any_json_response_is_passed_on_unchanged",
        "openai_plugin/test_transparency.py::test_any_event_stream_is_passed_on_unchanged_in_any_chunks",
        "openai_plugin/test_content_privacy.py::test_unexpected_content_raises_no_error_into_application",
    ),
    "a messages iterator is consumed before it is sent": (
        "openai_plugin/test_transparency.py::test_any_request_is_sent_unchanged",
        "openai_plugin/test_outcomes.py::test_messages_iterator_is_sent_complete",
    ),
    "every server has the provider openai and no address": (
        "openai_plugin/test_server_shapes.py::test_plain_response_of_server_shape_is_recorded",
        "openai_plugin/test_providers.py::test_server_and_provider_are_parsed_from_url",
        "openai_plugin/test_spans.py::test_server_header_identifies_llama_cpp_on_first_response",
    ),
    "a stream closed early is an error, or has no partial response": (
        "openai_plugin/test_outcomes.py::test_stream_closed_early_succeeds_with_partial_response",
        "openai_plugin/test_outcomes.py::test_abandoned_stream_ends_call_when_garbage_collected",
        "openai_plugin/test_raw_responses.py::test_raw_stream_closed_early_records_partial_response",
    ),
    "a stream without requested usage has no tokens": (
        "openai_plugin/test_spans.py::test_stream_without_usage_records_tokens_from_timings",
    ),
    "one call makes several spans": (
        "openai_plugin/test_one_client.py::test_wrapped_client_records_one_span_and_attempt_when_plugin_is_active",
        "openai_plugin/test_one_client.py::test_wrapping_twice_records_one_span",
        "openai_plugin/test_propagation.py::test_http_instrumentation_writes_the_only_traceparent",
        "genai/test_nested_calls.py::test_nested_call_of_same_operation_and_server_gets_no_span",
    ),
    "phase spans have no duration": (
        "openai_plugin/test_spans.py::test_phase_spans_are_children_with_actual_times",
    ),
    "retries are not counted, and errors have no status code": (
        "openai_plugin/test_outcomes.py::test_retries_are_counted_on_one_span",
        "openai_plugin/test_outcomes.py::test_failed_call_has_one_span_with_error_type",
    ),
    "content is parsed for spans that are not recorded": (
        "openai_plugin/test_content_privacy.py::test_content_is_not_parsed_when_call_is_not_recorded",
    ),
    "raw responses fail or are recorded as empty": (
        "openai_plugin/test_raw_responses.py::test_usage_of_raw_response_is_recorded_for_every_way_of_reading",
        "openai_plugin/test_transparency.py::test_any_json_response_is_passed_on_unchanged",
    ),
    "uninstrumenting removes another package's wrapper": (
        "openai_plugin/test_instrumentor.py::test_uninstrument_disables_wrapper_below_foreign_wrapper",
        "genai/test_patching_other_wrappers.py::test_revert_disables_wrapper_inside_other_wrapper",
    ),
    "an abandoned stream that is found during metric collection deadlocks": (
        "openai_plugin/test_abandoned_streams.py::test_calls_end_when_thousand_streams_are_dropped_during_metric_collection",
    ),
    "histograms of seconds are missing or have buckets of milliseconds": (
        "openai_plugin/test_metrics.py::test_streamed_call_records_each_histogram",
    ),
    "input tokens do not include cached tokens": (
        "openai_plugin/test_spans.py::test_stream_without_usage_records_tokens_from_timings",
    ),
    "metrics have a time series for each build of a server": (
        "openai_plugin/test_metric_names.py::test_llama_cpp_metrics_have_no_service_tier_or_fingerprint",
        "openai_plugin/test_metric_names.py::test_openai_metrics_have_service_tier_and_fingerprint",
    ),
}
ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
PAUSE_S = 0.03


@pytest.mark.parametrize("defect", TESTS_BY_DEFECT)
def test_each_listed_defect_has_a_test(defect: str) -> None:
    for place in TESTS_BY_DEFECT[defect]:
        file, _, name = place.partition("::")
        module = ast.parse((TESTS / file).read_text())
        names = {getattr(node, "name", None) for node in module.body}
        assert name in names, place


def slowly(parts: list[bytes]) -> Any:
    """Return a body with a pause before each part."""

    class Body(payloads.http.SyncByteStream, payloads.http.AsyncByteStream):
        def __iter__(self) -> Any:
            for part in parts:
                time.sleep(PAUSE_S)
                yield part

        async def __aiter__(self) -> Any:
            for part in self:
                yield part

    return payloads.http.Response(200, stream=Body(), headers={"content-type": "text/event-stream"})


def each(*chunks: dict[str, Any]) -> list[bytes]:
    return [
        *(payloads.sse([chunk], done=False) for chunk in chunks),
        payloads.sse([]),
    ]


async def ask(handler: payloads.Handler, is_async: bool, **options: Any) -> Any:
    client: Any = (payloads.async_client if is_async else payloads.client)(handler)
    result = client.chat.completions.create(model="smol", messages=payloads.MESSAGES, **options)
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> None:
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    for _ in () if hasattr(stream, "__aiter__") else stream:
        pass


@ASYNC
async def test_stream_span_ends_when_stream_was_read(
    instrumented: Recorder, is_async: bool
) -> None:
    """It does not end when the stream is returned."""
    parts = each(*payloads.chat_chunks(usage=payloads.USAGE))
    stream = await ask(lambda _: slowly(parts), is_async, stream=True)
    assert instrumented.spans() == []
    await read(stream)
    span = instrumented.call()
    duration_s = (span.end_time - span.start_time) / 1e9
    assert duration_s >= len(parts) * PAUSE_S
    # A busy machine can delay the first chunk, but not shorten the pauses after it. One is spare,
    # because the clocks of the span and of the chunk differ.
    pauses_after_s = (len(parts) - 2) * PAUSE_S
    first_chunk_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert PAUSE_S <= first_chunk_s <= duration_s - pauses_after_s
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


@ASYNC
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_missing_usage_is_absent_instead_of_zero(
    instrumented: Recorder, is_async: bool, stream: bool
) -> None:
    def answer(_: Any) -> Any:
        if stream:
            return payloads.stream_response(payloads.sse(payloads.chat_chunks()))
        return payloads.json_response(payloads.chat(usage=None))

    result = await ask(answer, is_async, stream=stream)
    if stream:
        await read(result)
    span = instrumented.call()
    assert [name for name in span.attributes if ".usage." in name or "ttft" in name] == []
    assert [name for name, value in span.attributes.items() if value == 0] == []
    assert instrumented.points("gen_ai.client.token.usage") == []
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is stream


class BrokenSampler(Sampler):
    """A sampler that drops every span."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no sampling today")

    def get_description(self) -> str:
        return "broken"


@ASYNC
@pytest.mark.parametrize("telemetry", ["good", "broken"])
async def test_failed_request_is_sent_once(
    recorder: Recorder, is_async: bool, telemetry: str
) -> None:
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return payloads.error_response(400)

    internal_errors.set_strict(False)
    broken = {"tracer_provider": TracerProvider(sampler=BrokenSampler())}
    OpenAIInstrumentor().instrument(**(recorder.providers if telemetry == "good" else broken))
    try:
        with pytest.raises(openai.BadRequestError):
            await ask(answer, is_async)
    finally:
        OpenAIInstrumentor().uninstrument()
    assert len(seen) == 1


@ASYNC
@pytest.mark.parametrize(
    "first",
    [
        {"content": "H"},
        {"reasoning_content": "Hm"},
        {"reasoning": "Hm"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
async def test_first_token_ignores_roles_pings_progress_and_empty_deltas(
    instrumented: Recorder, is_async: bool, first: dict[str, Any]
) -> None:
    before = [
        payloads.sse([payloads.chunk({"role": "assistant", "content": None})], done=False),
        b": ping\n\n",
        payloads.sse([payloads.chunk({}, prompt_progress={"processed": 5})], done=False),
        payloads.sse([payloads.chunk({"content": ""})], done=False),
    ]
    after = each(
        payloads.chunk(first),
        payloads.chunk({}, "stop", timings=payloads.TIMINGS),
    )
    await read(await ask(lambda _: slowly([*before, *after]), is_async, stream=True))
    span = instrumented.call()
    first_chunk_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert span.attributes["gen_ai.ttft_ms"] / 1000 >= first_chunk_s + len(before) * PAUSE_S


async def test_metrics_have_model_file_name_without_directory(instrumented: Recorder) -> None:
    path = "/srv/models/private/smol.gguf"
    body = payloads.sse([chunk | {"model": path} for chunk in payloads.chat_chunks()])
    client = payloads.client(lambda _: payloads.stream_response(body))
    await read(client.chat.completions.create(model=path, messages=payloads.MESSAGES, stream=True))
    assert "private" not in instrumented.call().to_json()
    for name, metric in instrumented.metrics().items():
        for point in metric.data.data_points:
            assert "private" not in str(point.attributes), name
            assert point.attributes["gen_ai.request.model"] == "smol.gguf"


async def test_instrumenting_again_uses_new_meter_provider() -> None:
    for _ in range(3):
        recorder = Recorder()
        OpenAIInstrumentor().instrument(**recorder.providers)
        try:
            await ask(lambda _: payloads.json_response(payloads.chat()), False)
        finally:
            OpenAIInstrumentor().uninstrument()
        (duration,) = recorder.points("gen_ai.client.operation.duration")
        assert duration.count == 1
        assert recorder.tokens("output") == 5
        recorder.tracer_provider.shutdown()
        recorder.meter_provider.shutdown()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_server_time_to_first_token_includes_queue(
    instrumented: Recorder, stream: bool
) -> None:
    """`prompt_ms` is 2. The time at the client, with the network, is a separate attribute."""

    def answer(_: Any) -> Any:
        # The queue: llama.cpp sends the headers when it starts to process the request.
        time.sleep(PAUSE_S)
        if stream:
            return slowly(each(*payloads.chat_chunks(timings=payloads.TIMINGS)))
        return payloads.json_response(payloads.chat(timings=payloads.TIMINGS))

    result = await ask(answer, False, stream=stream)
    if stream:
        await read(result)
    span = instrumented.call()
    engine_s = span.attributes["gen_ai.server.time_to_first_token"]
    (point,) = instrumented.points("gen_ai.server.time_to_first_token")
    assert point.sum == pytest.approx(engine_s)
    assert span.attributes["gen_ai.prefill_ms"] == 2.0
    queue_s = span.attributes["llamatelemetry.queue_duration"]
    assert (
        queue_s >= PAUSE_S - 0.006
    )  # The queue of a plain call is the time outside prefill and decode.
    assert engine_s == pytest.approx(queue_s + 0.002)
    if stream:
        assert span.attributes["gen_ai.ttft_ms"] / 1000 >= engine_s + PAUSE_S
