"""The Responses API as messages: requests, replies, fetched responses, broken-off streams."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llamatelemetry.genai import (
    Content,
    ResponsesAccumulator,
    parse_created_response,
    parse_responses_request,
)
from llamatelemetry.genai.content.limits import limit_messages, limit_parts
from llamatelemetry.genai.content.responses_accumulator import ResponsesContentAccumulator
from llamatelemetry.genai.content.responses_messages import (
    item_parts,
    parse_fetched_content,
    parse_responses_content,
)
from tests.support.message_schemas import check, check_messages, check_parts

LARGE = base64.b64encode(b"\x00" * 3000).decode()
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}


def reply(*items: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1,
        "model": "smol",
        "status": "completed",
        "output": list(items),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **more,
    }


def message(*content: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "id": "msg-1",
        "role": "assistant",
        "status": "completed",
        "content": list(content),
        **more,
    }


def call(name: str = "weather", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": "fc-1",
        "call_id": "call-1",
        "name": name,
        "arguments": arguments,
        **more,
    }


def inputs(sent: Any) -> list[dict[str, Any]]:
    limited = limit_messages(parse_responses_request({"input": sent}).inputs, 1000)
    check_messages(limited)
    return limited


def outputs(content: Content) -> list[dict[str, Any]]:
    limited = limit_messages(content.outputs, 1000)
    check_messages(limited)
    return limited


# --- requests -----------------------------------------------------------------------------


def test_a_text_is_a_message_of_the_user() -> None:
    assert inputs("Hi") == [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]


def test_instructions_are_apart_from_the_messages() -> None:
    content = parse_responses_request(
        {
            "instructions": "Be brief.",
            "input": [{"role": "developer", "content": "Be kind."}],
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
        }
    )
    check("gen_ai.system_instructions", content.instructions)
    assert content == Content(
        instructions=[{"type": "text", "content": "Be brief."}],
        inputs=[{"role": "developer", "parts": [{"type": "text", "content": "Be kind."}]}],
        tools=[{"type": "function", "name": "f", "parameters": {}}],
    )


def test_media_of_an_input_message() -> None:
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "auto"},
        {"type": "input_image", "file_id": "file-1", "detail": "auto"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{LARGE}"},
        {"type": "input_file", "file_id": "file-2"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_file", "file_data": LARGE, "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    cut = {"content": "", "truncated": True, "original_bytes": 3000}
    (read,) = inputs([{"role": "user", "content": content}])
    assert read["parts"] == [
        {"type": "text", "content": "What is this?"},
        {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
        {"type": "file", "modality": "image", "file_id": "file-1"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", **cut},
        {"type": "file", "modality": "document", "file_id": "file-2"},
        {"type": "uri", "modality": "document", "uri": "https://x.test/a.pdf"},
        {"type": "blob", "modality": "document", "mime_type": "application/pdf", **cut},
        {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "AAAA"},
    ]


def test_what_the_model_produced_in_one_turn_is_one_message_and_each_result_another() -> None:
    assert inputs(
        [
            {"role": "user", "content": "Weather?"},
            {
                "type": "reasoning",
                "id": "rs-1",
                "summary": [{"type": "summary_text", "text": "Two cities."}],
                "encrypted_content": "SECRET",
            },
            message({"type": "output_text", "text": "Let me see."}),
            call(arguments='{"city": "Paris"}'),
            call(call_id="call-2", arguments='{"city": "Rome"}'),
            {"type": "function_call_output", "call_id": "call-1", "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": "call-2",
                "output": [{"type": "input_text", "text": "sun"}],
            },
            message({"type": "output_text", "text": "Rain and sun."}),
            {"role": "assistant", "content": "Anything else?"},
        ]
    ) == [
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Two cities."},
                {"type": "text", "content": "Let me see."},
                {
                    "type": "tool_call",
                    "id": "call-1",
                    "name": "weather",
                    "arguments": {"city": "Paris"},
                },
                {
                    "type": "tool_call",
                    "id": "call-2",
                    "name": "weather",
                    "arguments": {"city": "Rome"},
                },
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call-1", "response": "rain"}],
        },
        {
            "role": "tool",
            "parts": [
                {
                    "type": "tool_call_response",
                    "id": "call-2",
                    "response": [{"type": "text", "content": "sun"}],
                }
            ],
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "Rain and sun."}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Anything else?"}]},
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "item_reference", "id": "msg-1"}, "unknown"),
        ({"type": "mcp_approval_response", "approve": True}, "user"),
        ({"type": "computer_call_output", "output": None}, "tool"),
        ({"type": "web_search_call", "id": "ws-1"}, "assistant"),
        ({"type": "brand_new_call"}, "assistant"),
    ],
)
def test_an_item_without_a_role_gets_that_of_who_makes_such_items(
    item: dict[str, Any], expected: str
) -> None:
    assert inputs([item])[0]["role"] == expected


# --- items --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "5"},
            [{"type": "tool_call", "id": "c", "name": "sh", "arguments": "5"}],
        ),
        (
            {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
            [
                {
                    "type": "tool_call",
                    "id": "c",
                    "name": "local_shell",
                    "arguments": {"action": {"command": ["ls"]}},
                }
            ],
        ),
        (
            {"type": "computer_call", "call_id": "c", "action": {"type": "wait"}},
            [
                {
                    "type": "tool_call",
                    "id": "c",
                    "name": "computer",
                    "arguments": {"action": {"type": "wait"}},
                }
            ],
        ),
        (
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {
                    "type": "computer_screenshot",
                    "image_url": f"data:image/png;base64,{LARGE}",
                },
            },
            [
                {
                    "type": "tool_call_response",
                    "id": "c",
                    "response": [
                        {
                            "type": "blob",
                            "modality": "image",
                            "mime_type": "image/png",
                            "content": "",
                            "truncated": True,
                            "original_bytes": 3000,
                        }
                    ],
                }
            ],
        ),
        (
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}],
            },
            [
                {
                    "type": "tool_call_response",
                    "id": "c",
                    "response": [{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}],
                }
            ],
        ),
        (
            {
                "type": "web_search_call",
                "id": "ws",
                "status": "completed",
                "action": {"type": "search", "query": "rain"},
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ws",
                    "name": "web_search",
                    "server_tool_call": {
                        "type": "web_search",
                        "action": {"type": "search", "query": "rain"},
                    },
                }
            ],
        ),
        (
            {
                "type": "code_interpreter_call",
                "id": "ci",
                "code": "1+1",
                "container_id": "k",
                "outputs": [{"type": "logs", "logs": "2"}],
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ci",
                    "name": "code_interpreter",
                    "server_tool_call": {
                        "type": "code_interpreter",
                        "code": "1+1",
                        "container_id": "k",
                    },
                },
                {
                    "type": "server_tool_call_response",
                    "id": "ci",
                    "server_tool_call_response": {
                        "type": "code_interpreter",
                        "outputs": [{"type": "logs", "logs": "2"}],
                    },
                },
            ],
        ),
        (
            {
                "type": "mcp_call",
                "id": "mcp",
                "name": "roll",
                "server_label": "dice",
                "arguments": '{"n": 2}',
                "output": "7",
                "error": None,
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "mcp",
                    "name": "roll",
                    "server_tool_call": {
                        "type": "mcp",
                        "server_label": "dice",
                        "arguments": {"n": 2},
                    },
                },
                {
                    "type": "server_tool_call_response",
                    "id": "mcp",
                    "server_tool_call_response": {"type": "mcp", "output": "7"},
                },
            ],
        ),
        (
            {
                "type": "image_generation_call",
                "id": "ig",
                "revised_prompt": "A cat.",
                "output_format": "svg",
                "result": LARGE,
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ig",
                    "name": "image_generation",
                    "server_tool_call": {"type": "image_generation", "revised_prompt": "A cat."},
                },
                {
                    "type": "blob",
                    "modality": "image",
                    "mime_type": "image/svg+xml",
                    "content": "",
                    "truncated": True,
                    "original_bytes": 3000,
                },
            ],
        ),
        (
            {"type": "tool_search_output", "call_id": "c", "tools": []},
            [
                {
                    "type": "server_tool_call_response",
                    "id": "c",
                    "server_tool_call_response": {"type": "tool_search", "tools": []},
                }
            ],
        ),
        (
            {"type": "compaction", "id": "cp", "encrypted_content": "SECRET"},
            [{"type": "compaction", "id": "cp"}],
        ),
        (
            {"type": "program", "id": "p", "code": "f()", "encrypted_content": "SECRET"},
            [{"type": "program", "content": {"id": "p", "code": "f()"}}],
        ),
        ({"type": "reasoning", "id": "rs", "summary": []}, []),
        ({"type": "message", "content": None}, []),
    ],
)
def test_each_kind_of_item_becomes_its_parts(item: Any, expected: list[dict[str, Any]]) -> None:
    found = limit_parts(item_parts(item), 1000)
    check_parts(found)
    assert found == expected


# --- replies ------------------------------------------------------------------------------


def test_a_reply_is_one_message_with_all_its_items() -> None:
    assert outputs(
        parse_responses_content(
            reply(
                {
                    "type": "reasoning",
                    "id": "rs",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "Hm."}],
                },
                message(TEXT, {"type": "refusal", "refusal": "No."}),
            )
        )
    ) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Hi"},
                {"type": "text", "content": "No.", "refusal": True},
            ],
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize(
    ("items", "more", "expected"),
    [
        ([message(TEXT)], {}, "stop"),
        ([message(TEXT), call()], {}, "tool_call"),
        (
            [message(TEXT)],
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
        ),
        (
            [call()],
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
        ),
        ([message(TEXT)], {"status": "incomplete"}, "incomplete"),
        ([message(TEXT)], {"status": "failed"}, "error"),
        ([message(TEXT)], {"status": "in_progress"}, None),
        ([message(TEXT)], {"status": ["odd"]}, None),
    ],
)
def test_a_reply_says_why_it_ended(
    items: list[Any], more: dict[str, Any], expected: str | None
) -> None:
    (read,) = outputs(parse_responses_content(reply(*items, **more)))
    assert read.get("finish_reason") == expected


def test_a_reply_without_output_is_no_message() -> None:
    assert parse_responses_content(reply()) == Content()
    assert parse_responses_content(None) == Content()


def test_a_fetched_response_tells_its_instructions_and_tools() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}, "strict": True}]
    assert parse_fetched_content(reply(message(TEXT), instructions="Be brief.", tools=tools)) == (
        Content(
            outputs=[
                {
                    "role": "assistant",
                    "parts": [{"type": "text", "content": "Hi"}],
                    "finish_reason": "stop",
                }
            ],
            instructions=[{"type": "text", "content": "Be brief."}],
            tools=[{"type": "function", "name": "f", "parameters": {}}],
        )
    )
    as_items = [{"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}]
    assert parse_fetched_content(reply(instructions=as_items)).instructions == [
        {"type": "text", "content": "Be brief."}
    ]


def test_the_models_of_the_openai_client_read_like_their_json() -> None:
    body = reply(
        message(TEXT),
        call(arguments='{"a": [1]}'),
        {
            "type": "web_search_call",
            "id": "ws",
            "status": "completed",
            "action": {"type": "search", "query": "rain"},
        },
        {
            "type": "code_interpreter_call",
            "id": "ci",
            "status": "completed",
            "code": "1",
            "container_id": "k",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
    )
    types = pytest.importorskip("openai.types.responses", reason="older clients lack this API")
    model = types.Response.model_validate(body)
    assert parse_responses_content(model) == parse_responses_content(body)
    assert len(parse_responses_content(model).outputs[0]["parts"]) == 5


# --- streams ------------------------------------------------------------------------------


def delta(kind: str, text: str, output_index: int = 0, content_index: int = 0) -> dict[str, Any]:
    return {
        "type": f"response.{kind}.delta",
        "output_index": output_index,
        "content_index": content_index,
        "delta": text,
    }


def added(item: dict[str, Any], output_index: int, *, done: bool = False) -> dict[str, Any]:
    kind = f"response.output_item.{'done' if done else 'added'}"
    return {"type": kind, "output_index": output_index, "item": item}


BROKEN_OFF = [
    {"type": "response.created", "response": reply(status="in_progress")},
    added({"type": "reasoning", "id": "rs", "summary": []}, 0),
    delta("reasoning_summary_text", "H"),
    delta("reasoning_summary_text", "m."),
    added(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, 0, done=True
    ),
    added(message(), 1),
    delta("output_text", "He", 1),
    delta("output_text", "llo", 1),
    delta("refusal", "No", 1, 1),
    added(call(arguments=""), 2),
    delta("function_call_arguments", '{"city": ', 2),
]


def fold(events: list[dict[str, Any]], max_chars: int = 1000) -> Content:
    folded = ResponsesContentAccumulator(max_chars)
    for event in events:
        folded.add(event)
    return folded.content()


def test_a_stream_that_is_broken_off_gives_what_had_come() -> None:
    assert outputs(fold(BROKEN_OFF)) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Hello"},
                {"type": "text", "content": "No", "refusal": True},
                {
                    "type": "tool_call",
                    "id": "call-1",
                    "name": "weather",
                    "arguments": '{"city": ',
                },
            ],
        }
    ]


@pytest.mark.parametrize("ending", ["completed", "incomplete", "failed"])
def test_a_stream_that_came_to_its_end_is_read_from_its_last_event(ending: str) -> None:
    whole = reply(message(TEXT), status=ending)
    last = {"type": f"response.{ending}", "response": whole}
    assert fold([*BROKEN_OFF, last]) == parse_responses_content(whole)


def test_each_text_of_a_stream_is_kept_up_to_the_limit_and_counted_beyond_it() -> None:
    events = [added(message(), 0), *(delta("output_text", "abc") for _ in range(100))]
    (read,) = limit_messages(fold(events, 10).outputs, 10)
    assert read["parts"] == [
        {"type": "text", "content": "abcabcabc…", "truncated": True, "original_chars": 300}
    ]
    done = added(message({"type": "output_text", "text": "abc" * 100}), 0, done=True)
    kept = fold([*events, done], 10).outputs
    assert kept[0]["parts"][0]["content"] == "abcabcabc…"  # cut when it came
    (read,) = limit_messages(kept, 10)
    assert read["parts"] == [
        {"type": "text", "content": "abcabcabc…", "truncated": True, "original_chars": 300}
    ]


@pytest.mark.parametrize("fetched", [False, True])
def test_nothing_of_a_stream_is_held_when_content_is_not_wanted(fetched: bool) -> None:
    whole = reply(message(TEXT))
    for max_chars in (None, 10):
        folded = ResponsesAccumulator(max_chars, fetched=fetched)
        for event in [*BROKEN_OFF, {"type": "response.completed", "response": whole}]:
            folded.add(event)
        read = folded.response().read_content
        assert (read is None) is (max_chars is None)


def test_a_stream_of_ever_new_items_is_bounded() -> None:
    events = [delta("output_text", "a", index, index) for index in range(5000)]
    (read,) = fold(events).outputs
    assert len(read["parts"]) == 256
    (read,) = fold([delta("output_text", "a", 0, index) for index in range(5000)]).outputs
    assert len(read["parts"]) == 256


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (call(), "tool_calls"),
        ({"type": "local_shell_call", "call_id": "c"}, "tool_calls"),
        ({"type": "shell_call", "call_id": "c"}, "tool_calls"),
        ({"type": "shell_call", "environment": {"type": "local"}}, "tool_calls"),
        ({"type": "shell_call", "environment": {"type": "container_reference"}}, "stop"),
        ({"type": "web_search_call", "id": "w"}, "stop"),
    ],
)
def test_a_response_that_waits_for_the_application_ends_with_tool_calls(
    item: dict[str, Any], reason: str
) -> None:
    assert parse_created_response(reply(item)).finish_reasons == (reason,)
