"""Requests and responses of SGLang's native route as data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llamatelemetry.genai import (
    SGLangAccumulator,
    parse_sglang_choice_count,
    parse_sglang_parameters,
    parse_sglang_request,
    parse_sglang_response,
)
from tests.support.engine_formats import SGLANG_META, SGLANG_REPLY, sglang_events


def test_sampling_parameters_are_read() -> None:
    sampling = {"max_new_tokens": 9, "temperature": 0.5, "stop": "x", "n": 2, "sampling_seed": 3}
    assert parse_sglang_parameters({"text": "a", "sampling_params": sampling}) == {
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.seed": 3,
    }
    assert parse_sglang_parameters({"sampling_params": [sampling]}) == {}
    assert parse_sglang_parameters({"temperature": 0.5}) == {}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"text": "a"}, 1),
        ({"text": ["a", "b"]}, 2),
        ({"text": ["a", "b"], "sampling_params": {"n": 3}}, 6),
        ({"input_ids": [1, 2, 3]}, 1),
        ({"input_ids": [[1], [2]]}, 2),
        ({}, 1),
    ],
)
def test_choices_are_counted(body: dict[str, Any], count: int) -> None:
    assert parse_sglang_choice_count(body) == count


def test_prompts_are_messages() -> None:
    texts = [
        message["parts"][0]["content"]
        for message in parse_sglang_request({"text": ["a", "b"]}).inputs
    ]
    assert texts == ["a", "b"]
    assert parse_sglang_request({"input_ids": [1, 2]}).inputs == []


@pytest.mark.parametrize("is_incremental", [True, False])
def test_stream_of_whole_or_new_text_has_whole_text(*, is_incremental: bool) -> None:
    accumulator = SGLangAccumulator(1, 1000)
    for each in sglang_events(is_incremental=is_incremental):
        assert accumulator.add(each)
    response = accumulator.response()
    assert response.read_content is not None
    (message,) = response.read_content().outputs
    assert message["parts"] == [{"type": "text", "content": "SECRET answer"}]
    assert response.usage.output_tokens == 3
    assert response.timings is not None
    assert (response.timings.queue_ms, response.timings.decode_ms) == (500.0, 1000.0)


def test_stream_keeps_choices_separate() -> None:
    accumulator = SGLangAccumulator(2, 1000)
    for index, reason in ((0, "stop"), (1, "length")):
        meta = {**SGLANG_META, "finish_reason": {"type": reason}}
        accumulator.add({"index": index, "text": f"text {index}", "meta_info": meta})
    response = accumulator.response()
    assert response.finish_reasons == ("stop", "length")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (20, 10)
    assert response.read_content is not None
    assert [message["parts"] for message in response.read_content().outputs] == [
        [{"type": "text", "content": "text 0"}],
        [{"type": "text", "content": "text 1"}],
    ]


def test_interrupted_stream_has_counts_so_far_and_no_times() -> None:
    accumulator = SGLangAccumulator()
    for each in sglang_events()[:2]:
        accumulator.add(each)
    response = accumulator.response()
    assert (response.usage.input_tokens, response.usage.output_tokens) == (20, 2)
    assert response.finish_reasons == ()
    assert response.timings is not None
    assert response.timings.decode_ms is None


def test_counts_of_batch_are_summed_and_its_times_unknown() -> None:
    response = parse_sglang_response([SGLANG_REPLY] * 4, 2)
    assert (response.usage.input_tokens, response.usage.output_tokens) == (40, 20)
    assert response.finish_reasons == ("stop",) * 4
    assert (response.timings, response.provider) == (None, "sglang")


def test_abort_with_a_status_is_an_error() -> None:
    reason = {"type": "abort", "message": "SECRET", "status_code": 400}
    response = parse_sglang_response(
        {**SGLANG_REPLY, "meta_info": {**SGLANG_META, "finish_reason": reason}}
    )
    assert response.finish_reasons == ("abort",)
    assert response.error is not None
    assert response.error.type == "400"
    assert "SECRET" not in response.error.description


def test_error_event_is_the_error_of_the_stream() -> None:
    accumulator = SGLangAccumulator()
    accumulator.add(sglang_events()[0])
    assert not accumulator.add({"error": {"message": "SECRET", "code": 500}})
    error = accumulator.response().error
    assert error is not None
    assert error.type == "500"


def test_log_probabilities_of_events_are_not_kept() -> None:
    accumulator = SGLangAccumulator()
    meta = {**SGLANG_META, "output_token_logprobs": [[0.1, 5, None]] * 1000}
    accumulator.add({**SGLANG_REPLY, "meta_info": meta})
    assert "output_token_logprobs" not in accumulator._metas[0]


@pytest.mark.parametrize("value", [-1, math.nan, "5", True, None, []])
def test_impossible_count_is_unknown(value: Any) -> None:
    meta = {**SGLANG_META, "completion_tokens": value}
    usage = parse_sglang_response({**SGLANG_REPLY, "meta_info": meta}).usage
    assert (usage.input_tokens, usage.output_tokens) == (20, None)


@pytest.mark.parametrize("reply", [None, [], [None], "text", {"meta_info": 5}, {"text": ["a"]}])
def test_any_reply_can_be_parsed(reply: Any) -> None:
    response = parse_sglang_response(reply)
    assert (response.provider, response.timings) == (None, None)
    assert response.read_content is not None
    response.read_content()
    accumulator = SGLangAccumulator(1, 10)
    accumulator.add(reply)
    accumulator.response()
