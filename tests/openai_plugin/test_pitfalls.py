"""What instrumentations of this kind get wrong, and the test that fails when the defect is put back.

Most have their test where their subject is, and `ELSEWHERE` says which; the others are here.
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
from tests.openai_plugin import replies
from tests.recorder import Recorder

TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    # ---- tracing
    "what is read of a reply raises into the application": (
        "openai_plugin/test_transparency.py::test_any_json_in_place_of_a_reply",
        "openai_plugin/test_transparency.py::test_any_event_stream_in_any_pieces",
        "openai_plugin/test_content_privacy.py::test_odd_content_never_reaches_the_application_as_an_error",
    ),
    "messages given as an iterator are drained before they are sent": (
        "openai_plugin/test_transparency.py::test_any_request_leaves_as_it_is_sent_without_us",
        "openai_plugin/test_outcomes.py::test_messages_given_as_an_iterator_reach_the_server_intact",
    ),
    "every server is called openai, and has no address": (
        "openai_plugin/test_server_shapes.py::test_a_plain_reply",
        "openai_plugin/test_providers.py::test_the_server_and_its_provider_are_read_from_the_url",
        "openai_plugin/test_spans.py::test_a_server_that_signs_as_llama_cpp_is_known_from_its_first_reply",
    ),
    "a stream that is closed early is an error, or says nothing of what had come": (
        "openai_plugin/test_outcomes.py::test_a_stream_closed_early_is_a_normal_end_with_what_had_come",
        "openai_plugin/test_outcomes.py::test_a_stream_dropped_unread_ends_when_it_is_collected",
        "openai_plugin/test_raw.py::test_a_raw_stream_closed_early_has_what_had_come",
    ),
    "a stream has no tokens unless its usage was asked for": (
        "openai_plugin/test_spans.py::test_a_stream_without_usage_takes_its_tokens_from_the_timings",
    ),
    "one call makes several spans": (
        "openai_plugin/test_one_client.py::test_beside_the_plugin_there_is_one_span_and_one_attempt",
        "openai_plugin/test_one_client.py::test_wrapping_twice_makes_one_span",
        "openai_plugin/test_propagation.py::test_the_http_span_is_named_and_nothing_is_written_before_it",
        "genai/test_nesting.py::test_nested_call_of_same_operation_and_server_gets_no_span",
    ),
    "phases have no length": (
        "openai_plugin/test_spans.py::test_queue_prefill_and_decode_are_children_at_their_true_times",
    ),
    "retries are not seen, and an error is a class without a status": (
        "openai_plugin/test_outcomes.py::test_retries_are_one_span_that_counts_them",
        "openai_plugin/test_outcomes.py::test_a_failed_call_is_one_span_with_the_kind_of_error",
    ),
    "content is read for spans that nobody records": (
        "openai_plugin/test_content_privacy.py::test_nothing_is_read_of_a_call_that_nobody_records",
    ),
    "raw responses break, or are seen as empty": (
        "openai_plugin/test_raw.py::test_however_a_raw_response_is_read_its_usage_is_recorded",
        "openai_plugin/test_transparency.py::test_any_json_in_place_of_a_reply",
    ),
    "uninstrumenting takes off somebody else's wrapper": (
        "openai_plugin/test_instrumentor.py::test_under_somebody_elses_wrapper_our_link_stays_switched_off",
        "genai/test_patching_beside_others.py::test_under_another_wrapper_ours_goes_off_and_theirs_works_on",
    ),
    "a dropped stream, found while metrics are collected, stops the process": (
        "openai_plugin/test_abandoned_streams.py::test_a_thousand_streams_dropped_during_metric_collection_all_end",
    ),
    # ---- metrics
    "histograms of seconds have the buckets of milliseconds, or are missing": (
        "openai_plugin/test_metrics.py::test_a_streamed_call_records_each_histogram",
    ),
    "input tokens without those from the cache": (
        "openai_plugin/test_spans.py::test_a_stream_without_usage_takes_its_tokens_from_the_timings",
    ),
    "a metric has a series for each build of a server": (
        "openai_plugin/test_metric_names.py::test_neither_is_on_the_metrics_of_a_llama_cpp_server",
        "openai_plugin/test_metric_names.py::test_tier_and_fingerprint_are_on_the_durations_and_tokens_of_openai",
    ),
}
ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
PAUSE_S = 0.03


@pytest.mark.parametrize("defect", ELSEWHERE)
def test_a_defect_has_its_test_elsewhere(defect: str) -> None:
    for place in ELSEWHERE[defect]:
        file, _, name = place.partition("::")
        module = ast.parse((TESTS / file).read_text())
        names = {getattr(node, "name", None) for node in module.body}
        assert name in names, place


# ---- what the tests below ask


def slowly(parts: list[bytes]) -> Any:
    """A body with a pause before each part."""

    class Body(replies.http.SyncByteStream, replies.http.AsyncByteStream):
        def __iter__(self) -> Any:
            for part in parts:
                time.sleep(PAUSE_S)
                yield part

        async def __aiter__(self) -> Any:
            for part in self:
                yield part

    return replies.http.Response(200, stream=Body(), headers={"content-type": "text/event-stream"})


def each(*chunks: dict[str, Any]) -> list[bytes]:
    return [*(replies.sse([chunk], done=False) for chunk in chunks), replies.sse([])]


async def ask(handler: replies.Handler, is_async: bool, **options: Any) -> Any:
    client: Any = (replies.async_client if is_async else replies.client)(handler)
    result = client.chat.completions.create(model="smol", messages=replies.MESSAGES, **options)
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> None:
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    for _ in () if hasattr(stream, "__aiter__") else stream:
        pass


# ---- tracing


@ASYNC
async def test_the_span_of_a_stream_ends_when_it_has_been_read(
    instrumented: Recorder, is_async: bool
) -> None:
    """Not when it is handed over, and that of an asynchronous call not before it is awaited."""
    parts = each(*replies.chat_chunks(usage=replies.USAGE))
    stream = await ask(lambda _: slowly(parts), is_async, stream=True)
    assert instrumented.spans() == []
    await read(stream)
    span = instrumented.call()
    duration_s = (span.end_time - span.start_time) / 1e9
    assert duration_s >= len(parts) * PAUSE_S
    assert PAUSE_S <= span.attributes["gen_ai.response.time_to_first_chunk"] < duration_s / 2
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


@ASYNC
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_what_a_reply_does_not_say_is_absent_and_not_0(
    instrumented: Recorder, is_async: bool, stream: bool
) -> None:
    def answer(_: Any) -> Any:
        if stream:
            return replies.stream_reply(replies.sse(replies.chat_chunks()))
        return replies.json_reply(replies.chat(usage=None))

    result = await ask(answer, is_async, stream=stream)
    if stream:
        await read(result)
    span = instrumented.call()
    assert [name for name in span.attributes if ".usage." in name or "ttft" in name] == []
    assert [name for name, value in span.attributes.items() if value == 0] == []
    assert instrumented.points("gen_ai.client.token.usage") == []
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is stream


class BrokenSampler(Sampler):
    """What an application may have configured."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no sampling today")

    def get_description(self) -> str:
        return "broken"


@ASYNC
@pytest.mark.parametrize("telemetry", ["good", "broken"])
async def test_a_request_that_fails_goes_out_once(
    recorder: Recorder, is_async: bool, telemetry: str
) -> None:
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return replies.error_reply(400)

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
async def test_roles_pings_progress_and_empty_deltas_are_not_the_first_token(
    instrumented: Recorder, is_async: bool, first: dict[str, Any]
) -> None:
    before = [
        replies.sse([replies.chunk({"role": "assistant", "content": None})], done=False),
        b": ping\n\n",
        replies.sse([replies.chunk({}, prompt_progress={"processed": 5})], done=False),
        replies.sse([replies.chunk({"content": ""})], done=False),
    ]
    after = each(replies.chunk(first), replies.chunk({}, "stop", timings=replies.TIMINGS))
    await read(await ask(lambda _: slowly([*before, *after]), is_async, stream=True))
    span = instrumented.call()
    first_chunk_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert span.attributes["gen_ai.ttft_ms"] / 1000 >= first_chunk_s + len(before) * PAUSE_S


async def test_a_model_file_has_no_folder_in_any_series(instrumented: Recorder) -> None:
    path = "/srv/models/private/smol.gguf"
    body = replies.sse([chunk | {"model": path} for chunk in replies.chat_chunks()])
    client = replies.client(lambda _: replies.stream_reply(body))
    await read(client.chat.completions.create(model=path, messages=replies.MESSAGES, stream=True))
    assert "private" not in instrumented.call().to_json()
    for name, metric in instrumented.metrics().items():
        for point in metric.data.data_points:
            assert "private" not in str(point.attributes), name
            assert point.attributes["gen_ai.request.model"] == "smol.gguf"


# ---- metrics


async def test_each_time_it_is_instrumented_the_plugin_records_to_the_meters_it_is_given() -> None:
    for _ in range(3):
        recorder = Recorder()
        OpenAIInstrumentor().instrument(**recorder.providers)
        try:
            await ask(lambda _: replies.json_reply(replies.chat()), False)
        finally:
            OpenAIInstrumentor().uninstrument()
        (duration,) = recorder.points("gen_ai.client.operation.duration")
        assert duration.count == 1
        assert recorder.tokens("output") == 5
        recorder.tracer_provider.shutdown()
        recorder.meter_provider.shutdown()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_servers_time_to_the_first_token_includes_its_queue(
    instrumented: Recorder, stream: bool
) -> None:
    """`prompt_ms` is 2; what the client saw, tokens on their way included, is told apart from it."""

    def answer(_: Any) -> Any:
        time.sleep(PAUSE_S)  # in the queue: llama.cpp sends the headers when it begins
        if stream:
            return slowly(each(*replies.chat_chunks(timings=replies.TIMINGS)))
        return replies.json_reply(replies.chat(timings=replies.TIMINGS))

    result = await ask(answer, False, stream=stream)
    if stream:
        await read(result)
    span = instrumented.call()
    engine_s = span.attributes["gen_ai.server.time_to_first_token"]
    (point,) = instrumented.points("gen_ai.server.time_to_first_token")
    assert point.sum == pytest.approx(engine_s)
    assert span.attributes["gen_ai.prefill_ms"] == 2.0
    queue_s = span.attributes["llamatelemetry.queue_duration"]
    assert queue_s >= PAUSE_S - 0.006  # of a plain call it is what prefill and decode leave
    assert engine_s == pytest.approx(queue_s + 0.002)
    if stream:
        assert span.attributes["gen_ai.ttft_ms"] / 1000 >= engine_s + PAUSE_S
