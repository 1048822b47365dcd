"""Phases from the spans that engines export themselves: recorded ones of vLLM, and other engines'."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llamatelemetry.local.call_phases import EngineUsage, phases_of_call, usage_of
from llamatelemetry.local.calls import RecordedCall, calls_from_spans
from llamatelemetry.local.engine_spans import EngineRequest, is_engine_request, read_engine_request
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.records import Event, SpanRecord
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.example_records import START_NS, call, latency, span, vllm
from tests.support.recorder import Recorder
from tests.support.vllm_replies import (
    as_records,
    recorded,
    recorded_spans,
    replay,
    spans_of_reply,
)

# vLLM sends `metrics` in these.
TIMED = (
    *("chat_plain", "chat_plain_again_cached", "chat_stream_usage", "chat_stream_continuous"),
    *("completion_plain", "completion_stream_usage", "responses_plain", "responses_stream"),
    *("chat_one_token", "speculative_chat"),
)


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[Recorder]:
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield recorder
    OpenAIInstrumentor().uninstrument()


def spans_of_call(recorder: Recorder, name: str) -> list[SpanRecord]:
    """Return the client's spans of the only call, and vLLM's, with the parent that it received."""
    client = as_records(*recorder.spans())
    (at,) = (each for each in client if each.kind == 3)
    return [
        *client,
        *(
            replace(own, trace_id=at.trace_id, parent_span_id=at.span_id)
            for own in spans_of_reply(name)
        ),
    ]


def only_call(spans: list[SpanRecord]) -> RecordedCall:
    (found,) = calls_from_spans(spans)
    # The order in which the spans arrive makes no difference.
    assert calls_from_spans(reversed(spans)) == [found]
    return found


@pytest.mark.parametrize("name", TIMED)
def test_phases_of_span_agree_with_those_of_response(instrumented: Recorder, name: str) -> None:
    metrics = replay(name, per_request_metrics=False)
    spans = spans_of_call(instrumented, name)
    (joined,) = join_calls(spans)
    phases = phases_of_call(joined.attributes, joined.requests)
    assert phases.queue_ms == pytest.approx(metrics["queue_time_ms"], abs=2)
    assert phases.prefill_ms == pytest.approx(metrics["time_to_first_token_ms"], abs=2)
    assert phases.decode_ms == pytest.approx(metrics["generation_time_ms"], abs=2)
    assert phases.tpot_ms == pytest.approx(metrics["mean_itl_ms"], abs=2)
    assert {phases.sources[name] for name in ("queue_ms", "prefill_ms", "decode_ms")} == {
        "engine_span"
    }
    found = only_call(spans)
    assert (found.queue_ms, found.prefill_ms) == (phases.queue_ms, phases.prefill_ms)
    assert found.ttft_ms is not None


@pytest.mark.parametrize("name", TIMED)
def test_figures_of_response_win(instrumented: Recorder, name: str) -> None:
    metrics = replay(name)
    (joined,) = join_calls(spans_of_call(instrumented, name))
    requests = [
        replace(request, timings=request.timings._replace(queue_ms=1.0, prefill_ms=1.0))
        for request in joined.requests
    ]
    phases = phases_of_call(joined.attributes, requests)
    assert set(phases.sources.values()) == {"client_span"}
    assert phases.queue_ms == pytest.approx(metrics["queue_time_ms"])
    assert phases.prefill_ms == pytest.approx(metrics["time_to_first_token_ms"])


@pytest.mark.parametrize("name", [*TIMED, "chat_n2", "completion_two_prompts"])
def test_tokens_of_spans_equal_those_of_response(instrumented: Recorder, name: str) -> None:
    replay(name)
    spans = spans_of_call(instrumented, name)
    (joined,) = join_calls(spans)
    found = only_call(spans)
    usage = usage_of(joined.requests)
    assert (usage.input_tokens, usage.output_tokens) == (found.input_tokens, found.output_tokens)


def test_stream_without_usage_gets_tokens_and_phases_of_span(instrumented: Recorder) -> None:
    replay("chat_stream_plain")
    client = as_records(*instrumented.spans())
    (before,) = calls_from_spans(client)
    assert (before.input_tokens, before.output_tokens, before.queue_ms) == (None, None, None)
    found = only_call(spans_of_call(instrumented, "chat_stream_plain"))
    assert (found.input_tokens, found.output_tokens) == (137, 6)
    assert found.prefill_ms == pytest.approx(3.775327)
    assert found.tpot_ms == pytest.approx(9.732988 / 5)
    assert found.ttft_ms == before.ttft_ms  # measured by the client


@pytest.mark.parametrize("name", ["chat_n2", "completion_two_prompts"])
def test_several_sequences_are_one_call_with_phases_of_last_one(
    instrumented: Recorder, name: str
) -> None:
    replay(name)
    spans = spans_of_call(instrumented, name)
    last = max(spans_of_reply(name), key=lambda own: own.end_ns).attributes
    found = only_call(spans)
    assert found.queue_ms == pytest.approx(last["gen_ai.latency.time_in_queue"] * 1000)
    assert found.prefill_ms == pytest.approx(last["gen_ai.latency.time_in_model_prefill"] * 1000)


def test_spans_without_a_client_are_calls_of_their_own() -> None:
    calls = calls_from_spans(recorded_spans())
    # 20 spans. Three pairs of them are choices or prompts of one request. The start has no call.
    assert len(calls) == 17
    by_operation = dict.fromkeys(("chat", "text_completion"), 0)
    for each in calls:
        by_operation[each.operation] += 1
        assert each.model is None
        assert None not in (each.queue_ms, each.prefill_ms, each.ttft_ms, each.output_tokens)
    assert by_operation == {"chat": 13, "text_completion": 4}
    two_choices = next(each for each in calls if each.output_tokens == 16)
    assert two_choices.input_tokens == recorded("chat_n2")["body"]["usage"]["prompt_tokens"]


def own(number: int, parent: int, scope: str, **changes: Any) -> SpanRecord:
    return span(number, parent, scope=scope, **{"kind": 2, **changes})


def at(start_ms: float, end_ms: float) -> dict[str, int]:
    return {"start_ns": START_NS + round(start_ms * 1e6), "end_ns": START_NS + round(end_ms * 1e6)}


UNTIMED = call(1, **{"gen_ai.ttft_ms": None, "gen_ai.tpot_ms": None})


def phases(*spans: SpanRecord) -> tuple[float | None, ...]:
    """Return queue, prefill, decode, TTFT and TPOT of the only call."""
    (joined,) = join_calls(spans)
    found = phases_of_call(joined.attributes, joined.requests)
    return (found.queue_ms, found.prefill_ms, found.decode_ms, found.ttft_ms, found.tpot_ms)


def sglang(**more: Any) -> list[SpanRecord]:
    """Return the spans of a request whose prompt was computed twice, because it was retracted."""
    scope = "sglang server"
    root = {
        "rid": "0f1e2d3c",
        "module": "sglang::request",
        **latency(
            e2e=0.09,
            time_to_first_token=0.042,
            time_in_model_prefill=0.038,  # with the queue
            time_in_model_decode=0.04,
        ),
        "gen_ai.usage.cached_tokens": 8,
        **more,
    }
    return [
        own(2, 1, scope, kind=1, name=" Req 0f1e2d3c", attributes=root, **at(0, 90)),
        own(3, 2, scope, kind=1, name="Scheduler [TP 0]", **at(3, 85)),
        own(4, 3, scope, kind=1, name="prefill_waiting", **at(5, 15)),
        own(5, 3, scope, kind=1, name="prefill_forward", **at(15, 40)),
        own(6, 5, scope, kind=1, name="chunked_prefill", **at(15, 30)),
        own(7, 5, scope, kind=1, name="chunked_prefill", **at(30, 40)),
        own(8, 3, scope, kind=1, name="decode_forward", **at(40, 80)),
        own(9, 8, scope, kind=1, name="prefill_forward", **at(60, 70)),
    ]


def tensorrt_llm(**more: Any) -> SpanRecord:
    found = latency(e2e=0.05, time_in_queue=0.01, time_to_first_token=0.03)
    return own(2, 1, "trt.llm", name="llm_request", attributes={**found, **more})


def tgi(queue_time: Any) -> list[SpanRecord]:
    scope = "opentelemetry-otlp"
    found = {
        "total_time": "40ms",
        "validation_time": "310.5µs",
        "queue_time": queue_time,
        "inference_time": "30.1ms",
        "time_per_token": "6.02ms",
    }
    return [
        own(2, 1, scope, name="HTTP request"),
        own(3, 2, scope, kind=1, name="generate", attributes=found),
    ]


def triton(*models: int) -> list[SpanRecord]:
    """Return the spans of a request to a model, or to an ensemble of models."""
    scope = "triton-server"

    def event(name: str, ms: float) -> Event:
        return Event(name, START_NS + round(ms * 1e6), {})

    def model(number: int, parent: int, parent_id: int) -> SpanRecord:
        events = [event("REQUEST_START", 1), event("QUEUE_START", 2), event("REQUEST_END", 30)]
        found = {"triton.model_name": "m", "triton.trace_parent_id": parent_id}
        return own(number, parent, scope, attributes=found, events=events)

    found = [own(2, 1, scope, name="InferRequest"), model(3, 2, 0)]
    for number in models:
        if len(models) > 1:
            found.append(model(10 + number, 3, 1))
        events = [event("COMPUTE_START", 7.5), event("COMPUTE_END", 30)]
        found.append(
            own(20 + number, found[-1].span_id and int(found[-1].span_id, 16), scope, events=events)
        )
    return found


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([vllm()], (10, 20, 12, 30, 3), id="vllm"),
        pytest.param(
            [replace(vllm(), scope="vllm.llm_engine")], (10, 20, 12, 30, 3), id="older vllm"
        ),
        pytest.param(sglang(), (10, 25, 40, 42, 10), id="sglang"),
        pytest.param(
            [
                replace(each, parent_span_id=f"{3:016x}") if "chunk" in each.name else each
                for each in sglang()
                if each.name != "prefill_forward"
            ],
            (10, 25, 40, 42, 10),
            id="sglang, by chunks",
        ),
        pytest.param(sglang()[:1], (None, None, 40, 42, 10), id="sglang, without stages"),
        pytest.param(
            sglang(bootstrap_room="0x1f"), (None,) * 5, id="sglang, prefill and decode servers"
        ),
        pytest.param([tensorrt_llm()], (10, 20, None, 30, None), id="tensorrt_llm"),
        pytest.param(
            [tensorrt_llm(**{"gen_ai.latency.kv_cache_transfer_time": 0.002})],
            (10, None, None, 30, None),
            id="tensorrt_llm, prefill and decode servers",
        ),
        pytest.param(
            [tensorrt_llm(**{"gen_ai.latency.time_in_queue": -1})],
            (None, None, None, 30, None),
            id="tensorrt_llm, unknown queue",
        ),
        *(
            pytest.param(tgi(text), (ms, None, None, None, None), id=f"tgi, {text}")
            for text, ms in {
                "15.25µs": 0.01525,
                "1.5ms": 1.5,
                "0.04s": 40,
                "900ns": 0.0009,
                "2": None,
                "-1ms": None,
                "1.5 ms": None,
                "NaNms": None,
                "1m3s": None,
            }.items()
        ),
        pytest.param(triton(0), (5.5, None, None, None, None), id="triton"),
        pytest.param(triton(0, 1), (None,) * 5, id="triton, ensemble"),
        pytest.param([replace(vllm(), scope="other")], (None,) * 5, id="scope of no engine"),
    ],
)
def test_figures_are_read_by_what_each_engine_measures(
    spans: list[SpanRecord], expected: tuple[float | None, ...]
) -> None:
    assert phases(UNTIMED, *spans) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value", [-0.001, float("nan"), float("inf"), "nan", "0.01", True, None, 10.0]
)
@pytest.mark.parametrize("position", range(3))
def test_impossible_figure_is_unknown_and_the_others_are_not(position: int, value: Any) -> None:
    names = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")
    found = phases(UNTIMED, vllm(**{names[position]: value}))
    expected = [None if at == position else ms for at, ms in enumerate((10, 20, 12))]
    assert list(found[:3]) == pytest.approx(expected)


def test_figures_that_exceed_their_span_together_are_unknown() -> None:
    # Each of them would fit into the 50 ms.
    found = phases(UNTIMED, vllm(time_in_queue=0.04))
    assert found == (None,) * 5


def test_retry_has_phases_and_tokens_of_last_attempt() -> None:
    first = vllm(2, request_id="chatcmpl-first", time_in_queue=0.001)
    second = vllm(9, request_id="chatcmpl-second")
    assert phases(UNTIMED, second, first)[0] == pytest.approx(10)
    # With an identifier of the client's, the attempts differ by their start.
    same = [vllm(2, time_in_queue=0.001), vllm(9)]
    requests = [read_engine_request(each) for each in same]
    assert phases(UNTIMED, *same)[0] == pytest.approx(10)
    assert usage_of(requests) == EngineUsage(20, None, 5)


def test_prompt_counts_once_for_its_choices_and_each_prompt_counts() -> None:
    def request(number: int, request_id: str, start: int = 0) -> EngineRequest:
        found = vllm(number, request_id=request_id)
        return read_engine_request(replace(found, start_ns=START_NS + start))

    choices = [request(2, "chatcmpl-a"), request(3, "chatcmpl-a")]
    assert usage_of(choices) == EngineUsage(20, None, 10)
    prompts = [request(2, "cmpl-a-0"), request(3, "cmpl-a-1"), request(4, "cmpl-a-11")]
    assert usage_of(prompts) == EngineUsage(60, None, 15)
    assert usage_of([]) == EngineUsage(None, None, None)
    unknown = replace(choices[0], input_tokens=None, request_id="other")
    assert usage_of([*choices, unknown]).input_tokens is None


def test_only_spans_of_requests_are_requests() -> None:
    assert [each.name for each in recorded_spans() if is_engine_request(each)] == [
        "llm_request"
    ] * 20
    assert [each.name for each in sglang() if is_engine_request(each)] == [" Req 0f1e2d3c"]


def test_request_to_triton_without_client_is_not_a_call_of_a_language_model() -> None:
    assert calls_from_spans(triton(0)) == []
    found = calls_from_spans(tgi("1ms"))
    assert [(each.operation, each.queue_ms) for each in found] == [("llm_request", 1)]
