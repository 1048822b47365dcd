"""Helpers of the content tests: a call with a tool, its expected content, and readers of telemetry."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord

from tests.support import payloads
from tests.support.message_schemas import check
from tests.support.recorder import Recorder

EVENT = "gen_ai.client.inference.operation.details"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EMIT = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS},
    }
]
MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
]
REPLY = payloads.chat(
    choices=[
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                    }
                ],
            },
        }
    ]
)
EXPECTED = {
    "gen_ai.input.messages": [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    ],
    "gen_ai.output.messages": [
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"city": "Paris"},
                }
            ],
            "finish_reason": "tool_call",
        }
    ],
    "gen_ai.tool.definitions": [
        {
            "type": "function",
            "name": "weather",
            "description": "Tell it.",
            "parameters": PARAMETERS,
        }
    ],
}


def ask(reply: Any = REPLY, **request: Any) -> Any:
    request = {"model": "smol", "messages": MESSAGES, "tools": TOOLS, **request}
    client = payloads.client(lambda _: payloads.json_response(reply))
    return client.chat.completions.create(**request)


def stream(chunks: list[dict[str, Any]]) -> Any:
    client = payloads.client(lambda _: payloads.stream_response(payloads.sse(chunks)))
    return client.chat.completions.create(model="smol", messages=MESSAGES, stream=True)


def on_span(recorder: Recorder) -> dict[str, Any]:
    """Return the content on the span of the only call, decoded and validated."""
    found = {}
    for name in CONTENT:
        text = (recorder.call().attributes or {}).get(name)
        if text is not None:
            assert isinstance(text, str)
            found[name] = json.loads(text)
            check(name, found[name])
    return found


def in_event(recorder: Recorder) -> dict[str, Any]:
    """Return the content of the only event, validated."""
    found = {name: of(event(recorder)).get(name) for name in CONTENT}
    found = {name: plain(value) for name, value in found.items() if value is not None}
    for name, value in found.items():
        check(name, value)
    return found


def event(recorder: Recorder) -> ReadableLogRecord:
    (found,) = recorder.events()
    return found


def of(record: ReadableLogRecord) -> dict[str, Any]:
    return dict(record.log_record.attributes or {})


def plain(value: Any) -> Any:
    """Convert the tuples of the SDK to lists."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    return value


class Recording:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def on_completion(self, **given: Any) -> None:
        self.calls.append(given)
