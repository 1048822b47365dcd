"""Responses and streams of the Anthropic Messages API, which llama.cpp serves too."""

from __future__ import annotations

from typing import Any

from hypothesis import given

from llamatelemetry.genai import AnthropicAccumulator, Usage, parse_messages_response
from tests.support.json_strategies import json_values

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "content": [{"type": "text", "text": "Hi"}],
    "model": "smol",
    "stop_reason": "max_tokens",
    "usage": {"cache_read_input_tokens": 25, "input_tokens": 6, "output_tokens": 3},
}


def test_input_tokens_include_cached_tokens() -> None:
    response = parse_messages_response(MESSAGE)
    assert response.id == "msg_1"
    assert response.finish_reasons == ("max_tokens",)
    assert response.usage == Usage(input_tokens=31, output_tokens=3, cache_read_tokens=25)


def test_stream_yields_same_response_as_plain_request() -> None:
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
    accumulator = AnthropicAccumulator()
    for event, carries_token in events:
        assert accumulator.add(event) is carries_token
    assert accumulator.model == "smol"
    assert accumulator.response() == parse_messages_response(MESSAGE)


def test_error_event_is_returned_without_message() -> None:
    accumulator = AnthropicAccumulator()
    accumulator.add({"type": "error", "error": {"type": "overloaded_error", "message": "SECRET"}})
    error = accumulator.response().error
    assert error is not None
    assert error.type == "overloaded_error"


@given(json_values())
def test_any_json_is_accepted(value: Any) -> None:
    parse_messages_response(value)
    accumulator = AnthropicAccumulator()
    accumulator.add(value)
    accumulator.add({"type": "message_start", "message": value, "index": value, "usage": value})
    accumulator.response()
