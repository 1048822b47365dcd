"""What is said is recorded when it is asked for, in the conventions' schema, and not otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.sdk.trace import ReadableSpan
from transformers import TextIteratorStreamer

from tests.genai.message_schemas import check_messages
from tests.recorder import Recorder
from tests.transformers_plugin.conftest import calls, only
from tests.transformers_plugin.models import SOUND, llama, make_pipeline, not_letters, tokenizer
from tests.transformers_plugin.test_generate import encoded

GREEDY = {"do_sample": False, "max_new_tokens": 4, "suppress_tokens": not_letters()}
CONTENT = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions")
CHAT = [{"role": "system", "content": "Be."}, {"role": "user", "content": "SECRET"}]


def said(span: ReadableSpan, what: str = "input") -> Any:
    return json.loads(str(span.attributes[f"gen_ai.{what}.messages"]))


def text_message(role: str, text: str, **more: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def test_nothing_is_recorded_unless_asked(instrumented: Recorder, tmp_path: Path) -> None:
    make_pipeline("text-generation", tmp_path)(CHAT, **GREEDY)
    assert not set(CONTENT) & set(only(instrumented).attributes)
    assert "SECRET" not in str([span.to_json() for span in instrumented.spans()])
    assert instrumented.events() == []


def test_a_chat(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_and_event")
    (answer,) = make_pipeline("text-generation", tmp_path)(CHAT, **GREEDY)
    span = only(recorder)
    text = answer["generated_text"][-1]["content"]
    assert len(text) == 4
    assert said(span) == [text_message("system", "Be."), text_message("user", "SECRET")]
    assert said(span, "output") == [text_message("assistant", text, finish_reason="length")]
    (event,) = recorder.events()
    assert event.log_record.attributes["gen_ai.input.messages"][1]["role"] == "user"


def test_texts_and_their_answers(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_only")
    outputs = make_pipeline("text-generation", tmp_path)(["a", "bb"], batch_size=2, **GREEDY)
    texts = [
        output[0]["generated_text"].removeprefix(prompt)
        for prompt, output in zip(["a", "bb"], outputs, strict=True)
    ]
    span = only(recorder)
    assert said(span) == [text_message("user", "a"), text_message("user", "bb")]
    assert [message["parts"][0]["content"] for message in said(span, "output")] == texts


def test_what_is_pulled(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_only")
    pipe = make_pipeline("text-generation", tmp_path)
    list(pipe((text for text in ("a", "bb")), **GREEDY))
    assert [said(span) for span in calls(recorder)] == [
        [text_message("user", "a")],
        [text_message("user", "bb")],
    ]
    assert all(len(said(span, "output")) == 1 for span in calls(recorder))


def test_generate_is_read_where_something_can_make_text_of_it(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument(capture_content="span_only")
    model = llama()
    model.generate(**encoded("Hello"), **GREEDY)
    assert not set(CONTENT) & set(only(recorder).attributes)
    recorder.clear_spans()
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True)
    model.generate(**encoded("Hello"), streamer=streamer, **GREEDY)
    span = only(recorder)
    assert said(span) == [text_message("user", "Hello")]
    assert said(span, "output")[0]["parts"][0]["content"] == "".join(streamer)


def test_a_transcript(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_only")
    output = make_pipeline("automatic-speech-recognition", tmp_path)(SOUND)
    # The schema requires a finish reason, and a transcript has none.
    expected = text_message("assistant", output["text"]) | {"finish_reason": "unknown"}
    assert said(only(recorder), "output") == [expected]
    assert "gen_ai.input.messages" not in only(recorder).attributes


def test_tools(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_only")
    pipe = make_pipeline("text-generation", tmp_path)
    tool = {"type": "function", "function": {"name": "look", "description": "up"}}
    try:
        pipe(CHAT, tools=[tool], **GREEDY)
    except (TypeError, ValueError):
        pytest.skip("this version of pipelines takes no tools")
    tools = json.loads(str(only(recorder).attributes["gen_ai.tool.definitions"]))
    assert tools == [{"type": "function", "name": "look", "description": "up"}]


def test_embeddings_have_none(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = instrument(capture_content="span_and_event")
    make_pipeline("feature-extraction", tmp_path)("SECRET")
    assert not set(CONTENT) & set(only(recorder).attributes)
    assert recorder.events() == []


def test_what_is_recorded_has_the_conventions_schema(
    instrument: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = instrument(capture_content="span_only")
    torch.manual_seed(0)
    make_pipeline("text-generation", tmp_path)([CHAT, CHAT], **GREEDY)
    span = only(recorder)
    check_messages(said(span))
    check_messages(said(span, "output"))
