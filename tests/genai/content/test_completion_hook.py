"""Completion hooks: loading, the content that they receive, and their changes to it."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from llamatelemetry.genai import BlobData, CompletionHook, Content
from llamatelemetry.genai.content import completion_hook
from llamatelemetry.genai.content.completion_hook import (
    GuardedCompletionHook,
    HookMessages,
    OtherPart,
    load_completion_hook,
    message_types,
)
from llamatelemetry.genai.content.parts import CutText, refusal_part
from llamatelemetry.genai.content.recorder import read_genai_variables

types = pytest.importorskip("opentelemetry.util.genai.types")
if not hasattr(types, "TextPart"):
    pytest.skip(
        "completion hooks need opentelemetry-util-genai 1.2 or newer", allow_module_level=True
    )

IMAGE = b"\x89PNG" * 1000
PARTS: list[dict[str, Any]] = [
    {"type": "text", "content": "Hi"},
    {"type": "reasoning", "content": "Hm."},
    {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}},
    {"type": "tool_call_response", "id": "c", "response": None},
    {"type": "server_tool_call", "id": "s", "name": "w", "server_tool_call": {"type": "w"}},
    {"type": "server_tool_call_response", "id": "s", "server_tool_call_response": {"type": "w"}},
    {"type": "compaction", "id": "k"},
    {"type": "file", "modality": "image", "file_id": "file-1"},
    {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
    *refusal_part("No."),
    {"type": "hologram", "content": {"beam": 1}},
]
BLOB = {
    "type": "blob",
    "modality": "image",
    "mime_type": "image/png",
    "content": BlobData(base64.b64encode(IMAGE).decode()),
}


def content() -> Content:
    return Content(
        inputs=[{"role": "user", "name": "ann", "parts": [*PARTS, BLOB]}],
        outputs=[
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": CutText("Hi", 99)}],
                "finish_reason": "stop",
            }
        ],
        instructions=[{"type": "text", "content": "Be brief."}],
        tools=[
            {"type": "function", "name": "f", "description": "Does.", "parameters": {}},
            {"type": "web_search", "name": "web_search"},
        ],
    )


class RecordingHook:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def on_completion(self, **arguments: Any) -> None:
        self.calls.append(arguments)


def test_hook_receives_untruncated_content_as_util_genai_types() -> None:
    hook = RecordingHook()
    GuardedCompletionHook(hook, types).run(content(), INVALID_SPAN, None)
    (arguments,) = hook.calls
    assert arguments["span"] is INVALID_SPAN
    assert arguments["log_record"] is None
    (message,) = arguments["inputs"]
    assert type(message) is types.InputMessage
    assert (message.role, message.name) == ("user", "ann")
    assert message.parts == [
        types.TextPart("Hi"),
        types.ReasoningPart("Hm."),
        types.ToolCallRequestPart({"a": 1}, "f", "c"),
        types.ToolCallResponsePart(None, "c"),
        types.ServerToolCallPart("w", {"type": "w"}, "s"),
        types.ServerToolCallResponsePart({"type": "w"}, "s"),
        types.CompactionPart("k"),
        types.FilePart(None, "image", "file-1"),
        types.UriPart(None, "image", "https://x.test/a.png"),
        types.TextPart("No."),
        OtherPart("hologram", {"beam": 1}),
        types.BlobPart("image/png", "image", IMAGE),
    ]
    assert arguments["outputs"] == [
        types.OutputMessage("assistant", [types.TextPart("Hi")], finish_reason="stop")
    ]
    assert type(arguments["outputs"][0].parts[0].content) is str
    assert arguments["system_instruction"] == [types.TextPart("Be brief.")]
    assert arguments["tool_definitions"] == [
        types.FunctionToolDefinition("f", "Does.", {}),
        types.GenericToolDefinition("web_search", "web_search"),
    ]


def test_hook_receives_none_as_tools_when_request_has_none() -> None:
    hook = RecordingHook()
    GuardedCompletionHook(hook, types).run(Content(), INVALID_SPAN, None)
    assert hook.calls == [
        {
            "inputs": [],
            "outputs": [],
            "system_instruction": [],
            "tool_definitions": None,
            "span": INVALID_SPAN,
            "log_record": None,
        }
    ]


def test_unchanged_content_is_returned_by_hook_messages() -> None:
    returned = HookMessages(content(), types).content()
    expected = content()
    expected.inputs[0]["parts"][-1] = {**BLOB, "content": IMAGE}
    assert returned == expected


def test_changes_of_hook_are_recorded() -> None:
    class Masking:
        def on_completion(
            self, *, inputs: list[Any], outputs: list[Any], **_arguments: Any
        ) -> None:
            inputs[0].parts[0].content = "***"
            inputs[0].parts[9:] = [types.TextPart("new"), {"type": "text", "content": "plain"}, 7]
            del inputs[0].parts[1:9]
            outputs.clear()

    hook: Any = Masking()
    changed_content = GuardedCompletionHook(hook, types).run(content(), INVALID_SPAN, None)
    assert changed_content.outputs == []
    assert changed_content.inputs[0]["parts"] == [
        {"type": "text", "content": "***"},
        {"type": "text", "content": "new"},
        {"type": "text", "content": "plain"},
    ]


def test_failing_hook_is_logged_once_and_content_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def on_completion(self, **_arguments: Any) -> None:
            raise RuntimeError("out of order")

    caplog.set_level(logging.DEBUG, "llamatelemetry")
    hook = GuardedCompletionHook(Broken(), types)
    for _ in range(2):
        assert hook.run(content(), INVALID_SPAN, None).instructions == content().instructions
    first, second = caplog.records
    assert first.levelno == logging.WARNING
    assert "Broken" in first.getMessage()
    assert first.exc_info is not None
    assert isinstance(first.exc_info[1], RuntimeError)
    assert second.levelno == logging.DEBUG


def test_keyboard_interrupt_of_hook_is_raised() -> None:
    class Interrupted:
        def on_completion(self, **_arguments: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GuardedCompletionHook(Interrupted(), types).run(content(), INVALID_SPAN, None)


@pytest.mark.parametrize(
    "installed_types", [None, ModuleType("old_types")], ids=["absent", "before 1.2"]
)
def test_missing_message_types_log_one_warning_with_install_command(
    installed_types: ModuleType | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.util.genai.types", installed_types)
    message_types.cache_clear()
    try:
        assert message_types() is None
        assert message_types() is None
    finally:
        message_types.cache_clear()
    (record,) = caplog.records
    assert "pip install --pre 'opentelemetry-util-genai >= 1.2b0'" in record.getMessage()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the hooks of this module as entry points."""
    group = "opentelemetry_genai_completion_hook"
    entry_points = EntryPoints(
        EntryPoint(name, f"{__name__}:{value}", group)
        for name, value in {
            "recording": "RecordingHook",
            "broken": "no_such_name",
            "raising": "fail_to_create",
            "no-hook": "Content",
            "no-op": "_NoOpCompletionHook",
        }.items()
    )
    monkeypatch.setattr(
        completion_hook, "entry_points", lambda group: entry_points.select(group=group)
    )
    load_completion_hook.cache_clear()
    yield
    load_completion_hook.cache_clear()


def fail_to_create() -> None:
    raise OSError("no bucket")


class _NoOpCompletionHook(RecordingHook):
    """The class that the `upload` hook of util-genai returns when its configuration is invalid."""


@pytest.mark.usefixtures("installed")
def test_load_completion_hook_creates_hook_once(caplog: pytest.LogCaptureFixture) -> None:
    hook = load_completion_hook("recording")
    assert isinstance(hook, RecordingHook)
    assert isinstance(hook, CompletionHook)
    assert load_completion_hook("recording") is hook
    assert not caplog.records


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "expected_texts"),
    [
        ("unknown", ["unknown", "broken, no-hook, no-op, raising, recording"]),
        ("broken", ["broken"]),
        ("raising", ["raising"]),
        ("no-hook", ["on_completion"]),
    ],
)
def test_load_completion_hook_logs_one_warning_when_hook_cannot_be_loaded(
    name: str, expected_texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert load_completion_hook(name) is None
    assert load_completion_hook(name) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for expected_text in expected_texts:
        assert expected_text in record.getMessage()


@pytest.mark.usefixtures("installed")
def test_load_completion_hook_returns_none_for_no_op_hook() -> None:
    assert load_completion_hook("no-op") is None


def test_upload_hook_of_util_genai_writes_content(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_UPLOAD_BASE_PATH", str(tmp_path))
    load_completion_hook.cache_clear()
    hook: Any = load_completion_hook("upload")
    load_completion_hook.cache_clear()
    assert hook is not None
    GuardedCompletionHook(hook, types).run(content(), INVALID_SPAN, None)
    hook.shutdown()
    stored = {
        path.name.split("_", 1)[1]: json.loads(path.read_text()) for path in tmp_path.iterdir()
    }
    assert set(stored) == {
        "inputs.json",
        "outputs.json",
        "system_instruction.json",
        "tool.definitions.json",
    }
    assert stored["inputs.json"][0]["parts"][-1] == {
        "type": "blob",
        "modality": "image",
        "mime_type": "image/png",
        "content": base64.b64encode(IMAGE).decode(),
    }


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("", None), ("true", True), (" FALSE ", False)]
)
def test_emit_event_variable_is_parsed(text: str | None, expected: bool | None) -> None:
    environ = {} if text is None else {"OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": text}
    assert read_genai_variables(environ).emit_event is expected


def test_invalid_emit_event_value_is_ignored_with_warning(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": "maybe"}
    assert read_genai_variables(environ).emit_event is None
    (record,) = caplog.records
    for expected_text in ("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "maybe", "true or false"):
        assert expected_text in record.getMessage()


def test_completion_hook_variable_is_parsed() -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
    assert read_genai_variables({}).completion_hook is None
    assert read_genai_variables({name: " "}).completion_hook is None
    assert read_genai_variables({name: " upload "}).completion_hook == "upload"
