"""What llama.cpp's server has beside OpenAI's formats, in the words it really uses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from llamatelemetry.genai import (
    AnthropicAccumulator,
    ChatAccumulator,
    EngineTimings,
    LlamaCppAccumulator,
    Request,
    Response,
    Usage,
    describe_status,
    parse_choice_count,
    parse_messages_response,
    parse_native_completion,
    parse_response,
)
from llamatelemetry.genai.wire.openai_chat import correct_undercount
from tests.genai.strategies import json_values

TIMINGS = {"cache_n": 9, "prompt_n": 1, "prompt_ms": 7.0, "predicted_n": 3, "predicted_ms": 24.0}


def native(**changes: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "content": " runs",
        "id_slot": 1,
        "stop": True,
        "model": "/models/smol.gguf",
        "tokens_predicted": 3,
        "tokens_evaluated": 10,
        "prompt": "SECRET",
        "generation_settings": {"seed": 1},
        "truncated": False,
        "stop_type": "limit",
        "timings": TIMINGS,
        **changes,
    }


def test_a_native_completion() -> None:
    response = parse_native_completion(native())
    assert response.model == "smol.gguf"
    assert response.finish_reasons == ("length",)
    assert response.usage == Usage(input_tokens=10, output_tokens=3, cache_read_tokens=9)
    assert response.timings is not None
    assert response.timings.prefill_ms == 7.0
    assert response.attributes == {"llamatelemetry.slot": 1}


@pytest.mark.parametrize(
    ("stop_type", "reasons"),
    [("eos", ("stop",)), ("word", ("stop",)), ("limit", ("length",)), ("none", ()), (None, ())],
)
def test_why_it_stopped_is_told_in_the_words_of_chat(stop_type: Any, reasons: Any) -> None:
    assert parse_native_completion(native(stop_type=stop_type)).finish_reasons == reasons


def test_a_truncated_prompt_is_told() -> None:
    assert (
        parse_native_completion(native(truncated=True)).attributes["llamatelemetry.truncated"]
        is True
    )


def test_fields_that_were_not_asked_for_are_unknown() -> None:
    assert parse_native_completion({"content": " runs"}) == Response()


def test_of_several_prompts_the_tokens_add_up() -> None:
    response = parse_native_completion(
        [native(), native(index=1, tokens_evaluated=5, stop_type="eos")]
    )
    assert response.finish_reasons == ("length", "stop")
    assert response.usage == Usage(input_tokens=15, output_tokens=6, cache_read_tokens=18)


def test_of_several_answers_to_one_prompt_the_prompt_counts_once() -> None:
    response = parse_native_completion([native(), native(index=1)], answers_per_prompt=2)
    assert response.usage == Usage(input_tokens=10, output_tokens=6, cache_read_tokens=9)


def test_a_count_that_is_missing_makes_the_sum_unknown() -> None:
    response = parse_native_completion([native(), native(tokens_predicted=None)])
    assert response.usage.output_tokens is None


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"prompt": "Hi"}, 1),
        ({"prompt": ["Hi", "Ho"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["Hi", 5]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["Hi", "Ho"], "n": 3}, 6),
        ({"n": 3}, 3),
        ({"n_cmpl": 4}, 4),
        ({"n": 0}, 1),
        ({"n": "many", "prompt": 7}, 1),
    ],
)
def test_how_many_answers_are_asked_for(body: dict[str, Any], count: int) -> None:
    assert parse_choice_count(body) == count


def piece(content: str, predicted: int, index: int = 0) -> dict[str, Any]:
    return {
        "index": index,
        "content": content,
        "stop": False,
        "id_slot": -1,
        "tokens_predicted": predicted,
        "tokens_evaluated": 10,
    }


def test_a_native_stream_reads_like_the_plain_reply() -> None:
    fold = LlamaCppAccumulator()
    progress = piece("", 0) | {"prompt_progress": {"total": 10, "processed": 5}}
    carried = [fold.add(event) for event in (progress, piece(" r", 1), piece("uns", 2), native())]
    assert carried == [False, True, True, True]
    assert fold.model == "/models/smol.gguf"
    assert fold.response() == parse_native_completion(native())


def test_a_native_stream_that_was_broken_off_counts_what_had_come() -> None:
    fold = LlamaCppAccumulator()
    for event in (piece(" r", 1), piece("uns", 2)):
        fold.add(event)
    assert fold.response() == Response(usage=Usage(input_tokens=10, output_tokens=2))


def test_the_answers_of_a_native_stream_are_kept_apart() -> None:
    fold = LlamaCppAccumulator(answers_per_prompt=2)
    for event in (piece("a", 1), piece("b", 1, 1), native(), native(index=1, stop_type="eos")):
        fold.add(event)
    response = fold.response()
    assert response.finish_reasons == ("length", "stop")
    assert response.usage == Usage(input_tokens=10, output_tokens=6, cache_read_tokens=9)


def test_an_error_in_a_native_stream_is_told() -> None:
    fold = LlamaCppAccumulator()
    fold.add({"error": {"code": 500, "type": "server_error", "message": "SECRET"}})
    error = fold.response().error
    assert error is not None
    assert error.type == "server_error"
    assert "SECRET" not in error.description


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "content": [{"type": "text", "text": "Hi"}],
    "model": "smol",
    "stop_reason": "max_tokens",
    "usage": {"cache_read_input_tokens": 25, "input_tokens": 6, "output_tokens": 3},
}


def test_anthropics_input_tokens_leave_out_the_cached_ones() -> None:
    response = parse_messages_response(MESSAGE)
    assert response.id == "msg_1"
    assert response.finish_reasons == ("max_tokens",)
    assert response.usage == Usage(input_tokens=31, output_tokens=3, cache_read_tokens=25)


def test_a_stream_of_messages_reads_like_the_plain_reply() -> None:
    usage = {"cache_read_input_tokens": 25, "input_tokens": 6, "output_tokens": 0}
    events: list[tuple[dict[str, Any], bool]] = [
        (
            {
                "type": "message_start",
                "message": {**MESSAGE, "stop_reason": None, "usage": usage},
            },
            False,
        ),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, False),
        ({"type": "ping"}, False),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, True),
        (
            {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "?"}},
            True,
        ),
        (
            {
                "type": "content_block_delta",
                "delta": {"type": "input_json_delta", "partial_json": "{"},
            },
            True,
        ),
        ({"type": "content_block_delta", "delta": {"type": "signature_delta"}}, False),
        ({"type": "content_block_stop"}, False),
        (
            {
                "type": "message_delta",
                "delta": {"stop_reason": "max_tokens"},
                "usage": {"output_tokens": 3},
            },
            False,
        ),
        ({"type": "message_stop"}, False),
    ]
    fold = AnthropicAccumulator()
    for event, carries_token in events:
        assert fold.add(event) is carries_token
    assert fold.model == "smol"
    assert fold.response() == parse_messages_response(MESSAGE)


def test_an_error_in_a_stream_of_messages_is_told() -> None:
    fold = AnthropicAccumulator()
    fold.add({"type": "error", "error": {"type": "overloaded_error", "message": "SECRET"}})
    error = fold.response().error
    assert error is not None
    assert error.type == "overloaded_error"


@given(json_values())
def test_anything_is_read_without_error(value: Any) -> None:
    parse_native_completion(value)
    parse_messages_response(value)
    for fold in (LlamaCppAccumulator(), AnthropicAccumulator()):
        fold.add(value)
        fold.add({"type": "message_start", "message": value, "index": value, "usage": value})
        fold.response()
    describe_status(500, value)


def test_the_kind_of_an_error_is_the_servers_own_word() -> None:
    body = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "SECRET"}}
    error = describe_status(400, body)
    assert (error.type, error.status_code) == ("exceed_context_size_error", 400)
    assert error.description == "HTTP 400 exceed_context_size_error"
    assert describe_status(502, None).type == "502"


# --- several answers over OpenAI's formats ---------------------------------------------------


TWO: Any = {"gen_ai.request.choice.count": 2}


def answers(count: int) -> dict[str, Any]:
    return {
        "model": "smol",
        "choices": [{"index": index, "finish_reason": "stop"} for index in range(count)],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        "timings": TIMINGS,
    }


def test_what_llama_cpp_counts_of_the_first_answer_alone_is_unknown_of_all() -> None:
    response = parse_response(answers(2))
    correct_undercount(response, Request("chat", "llama_cpp", choice_count=2, parameters=TWO))
    assert response.usage == Usage(input_tokens=10, output_tokens=None, cache_read_tokens=9)


def test_of_several_prompts_the_input_is_unknown_too() -> None:
    for parameters, choice_count in (({}, 2), (TWO, 4)):
        response = parse_response(answers(choice_count))
        request = Request("text_completion", "llama_cpp", parameters={**parameters})
        request.choice_count = choice_count
        correct_undercount(response, request)
        assert response.usage == Usage()


def test_a_count_that_is_of_all_stays() -> None:
    reply = answers(2)
    reply["usage"] = {"prompt_tokens": 10, "completion_tokens": 7}
    response = parse_response(reply)
    correct_undercount(response, Request("chat", "llama_cpp", choice_count=2))
    assert response.usage.output_tokens == 7


def test_one_answer_and_no_timings_need_no_correction() -> None:
    for reply, wanted in ((answers(1), 1), (answers(2) | {"timings": None}, 2)):
        response = parse_response(reply)
        correct_undercount(response, Request("chat", "llama_cpp", choice_count=wanted))
        assert response.usage.output_tokens == 3


def end(index: int, predicted: int) -> dict[str, Any]:
    return {
        "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}],
        "timings": {**TIMINGS, "predicted_n": predicted},
    }


def test_a_stream_counts_each_answer_at_its_end() -> None:
    fold = ChatAccumulator()
    for chunk in (end(0, 3), end(1, 4)):
        fold.add(chunk)
    assert fold.response().usage.output_tokens == 7


def test_also_where_usage_was_asked_for() -> None:
    fold = ChatAccumulator()
    for index, predicted in ((0, 3), (1, 4)):
        fold.add(end(index, predicted))
        counts = {"prompt_tokens": 10, "completion_tokens": predicted}
        fold.add({"choices": [], "usage": counts, "timings": {**TIMINGS, "predicted_n": predicted}})
    assert fold.response().usage.output_tokens == 7


def test_timings_of_every_token_do_not_add_up() -> None:
    fold = ChatAccumulator()
    for predicted in (1, 2):
        token = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
        fold.add({**token, "timings": {**TIMINGS, "predicted_n": predicted}})
    fold.add(end(0, 2))
    response = fold.response()
    assert response.usage.output_tokens == 2
    assert response.timings == EngineTimings(1, 7.0, 2, 24.0, cached_tokens=9)
