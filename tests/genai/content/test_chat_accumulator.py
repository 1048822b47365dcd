"""Accumulation of the content of chat and text completion chunks into messages."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import ChatAccumulator, parse_response
from llamatelemetry.genai.content import chat_accumulator
from llamatelemetry.genai.content.limits import limit_messages
from tests.support.message_schemas import check_messages


def chunk(delta: Any, index: Any = 0, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta, **choice}]}


def tool_call_delta(index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


def messages_of(chunks: list[dict[str, Any]], max_chars: int = 1000) -> list[dict[str, Any]]:
    """Return the messages as they are recorded, after a check against the schema."""
    accumulator = ChatAccumulator(max_chars)
    for each in chunks:
        accumulator.add(each)
    read_content = parse_response(accumulator.result()).read_content
    assert read_content is not None
    messages = limit_messages(read_content().outputs, max_chars)
    check_messages(messages)
    return messages


def parts(*deltas: dict[str, Any]) -> list[dict[str, Any]]:
    (message,) = messages_of([chunk(delta) for delta in deltas])
    return message["parts"]


def test_deltas_of_choice_become_message() -> None:
    chunks = [
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "H"}),
        chunk({"reasoning_content": "m."}),
        chunk({"content": "He"}),
        chunk({"content": "llo"}),
        chunk(tool_call_delta(0, id="call_1", function={"name": "weather", "arguments": ""})),
        chunk(tool_call_delta(0, function={"arguments": '{"city"'})),
        chunk(tool_call_delta(1, id="call_2", function={"name": "now", "arguments": "{}"})),
        chunk(tool_call_delta(0, function={"arguments": ': "Paris"}'})),
        chunk({}, finish_reason="tool_calls"),
        {"id": "c", "model": "m", "choices": [], "usage": {}},
    ]
    assert messages_of(chunks) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Hello"},
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"city": "Paris"},
                },
                {"type": "tool_call", "id": "call_2", "name": "now", "arguments": {}},
            ],
            "finish_reason": "tool_call",
        }
    ]


def test_choices_become_messages_in_order_of_index() -> None:
    chunks = [
        chunk({"content": "b"}, 1),
        chunk({"content": "a"}, 0),
        chunk({"content": "B"}, 1),
        chunk({"content": "A"}, 0, finish_reason="length"),
    ]
    assert messages_of(chunks) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "aA"}],
            "finish_reason": "length",
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "bB"}]},
    ]


def test_text_completion_becomes_message() -> None:
    chunks = [
        {"choices": [{"index": 0, "text": " the", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "re", "finish_reason": "stop"}]},
    ]
    assert messages_of(chunks) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": " there"}],
            "finish_reason": "stop",
        }
    ]


def test_refusal_deltas_become_marked_text_part() -> None:
    assert parts({"refusal": "N"}, {"refusal": "o."}) == [
        {"type": "text", "content": "No.", "refusal": True}
    ]


def test_tool_call_without_index_starts_at_delta_with_id() -> None:
    deltas = [
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": None, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "{}"}}]},
    ]
    assert parts(*deltas) == [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}},
        {"type": "tool_call", "id": "b", "name": "g", "arguments": {}},
    ]


def test_parallel_tool_calls_with_same_index_stay_apart() -> None:
    deltas = [
        tool_call_delta(id="a", function={"name": "f", "arguments": '{"x"'}),
        tool_call_delta(function={"arguments": ": 1}"}),
        tool_call_delta(id="b", function={"name": "f", "arguments": '{"x"'}),
        tool_call_delta(id="", function={"arguments": ": 2}"}),
        tool_call_delta(id="a", function={"name": "f", "arguments": ""}),
    ]
    assert parts(*deltas) == [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}},
        {"type": "tool_call", "id": "b", "name": "f", "arguments": {"x": 2}},
    ]


def test_tool_call_whose_chunks_have_new_ids_stays_one_call() -> None:
    deltas = [
        tool_call_delta(id="a", function={"name": "f", "arguments": '{"x"'}),
        tool_call_delta(id="b", function={"arguments": ": 1}"}),
    ]
    assert parts(*deltas) == [{"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}}]


def test_content_in_lists_of_parts_becomes_parts() -> None:
    deltas = [
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}]},
        {"content": [{"type": "text", "text": "Good"}, {"type": "text", "text": "bye"}]},
        {"content": ["!", {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}, 5]},
    ]
    assert parts(*deltas) == [
        {"type": "reasoning", "content": "Hmm"},
        {"type": "text", "content": "Goodbye!"},
        {"type": "uri", "modality": "image", "uri": "https://a.test/b.png"},
    ]


@pytest.mark.parametrize("index", ["one", [], {}, 1.5])
def test_invalid_index_of_tool_call_is_ignored(index: Any) -> None:
    first_delta = tool_call_delta(index, id="a", function={"name": "f", "arguments": '{"x"'})
    assert parts(first_delta, tool_call_delta(index, function={"arguments": ": 1}"})) == [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}}
    ]


def test_custom_and_legacy_function_call_deltas_become_tool_calls() -> None:
    deltas = [
        tool_call_delta(0, id="a", custom={"name": "sh", "input": "l"}),
        tool_call_delta(0, custom={"input": "s"}),
        {"function_call": {"name": "now", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
    ]
    assert parts(*deltas) == [
        {"type": "tool_call", "id": "a", "name": "sh", "arguments": "ls"},
        {"type": "tool_call", "name": "now", "arguments": {}},
    ]


def test_audio_is_counted_and_transcript_is_kept() -> None:
    deltas = [
        {"audio": {"id": "audio-1"}},
        {"audio": {"data": "AAAA" * 300, "transcript": "He"}},
        {"audio": {"data": "AAAA" * 300, "transcript": "llo"}},
    ]
    assert parts(*deltas) == [
        {
            "type": "blob",
            "modality": "audio",
            "content": "",
            "truncated": True,
            "original_bytes": 1800,
        },
        {"type": "text", "content": "Hello"},
    ]


def test_text_and_arguments_beyond_limit_are_counted_and_not_kept() -> None:
    deltas = [
        {"content": "0123456"},
        {"content": "789ABC"},
        {"content": "D"},
        tool_call_delta(0, id="c", function={"name": "f", "arguments": '"0123456789"'}),
        # The truncated text is valid JSON by chance, but must not be parsed.
        tool_call_delta(1, id="d", function={"name": "g", "arguments": "123456789012345"}),
    ]
    (message,) = messages_of([chunk(delta) for delta in deltas], 10)
    assert message["parts"] == [
        {"type": "text", "content": "012345678…", "truncated": True, "original_chars": 14},
        {
            "type": "tool_call",
            "id": "c",
            "name": "f",
            "arguments": '"01234567…',
            "truncated": True,
            "original_chars": 12,
        },
        {
            "type": "tool_call",
            "id": "d",
            "name": "g",
            "arguments": "123456789…",
            "truncated": True,
            "original_chars": 15,
        },
    ]


@pytest.mark.parametrize("fragments", [["0123456789"], ["01234", "56789"], list("0123456789")])
def test_text_of_exact_limit_is_not_truncated(fragments: list[str]) -> None:
    (message,) = messages_of([chunk({"content": fragment}) for fragment in fragments], 10)
    assert message["parts"] == [{"type": "text", "content": "0123456789"}]


@given(st.text(max_size=60), st.lists(st.integers(1, 9)), st.integers(1, 70))
def test_text_is_same_for_any_fragments(text: str, sizes: list[int], max_chars: int) -> None:
    fragments, position = [], 0
    for size in sizes:
        fragments.append(text[position : position + size])
        position += size
    fragments.append(text[position:])
    split = messages_of([chunk({"content": fragment}) for fragment in fragments], max_chars)
    assert split == messages_of([chunk({"content": text})], max_chars)


def test_number_of_choices_and_tool_calls_is_bounded() -> None:
    assert len(parts(*(tool_call_delta(index, id="c") for index in range(2000)))) == 256
    messages = messages_of([chunk({"content": "a"}, index) for index in range(2000)])
    assert sum(1 for message in messages if message["parts"]) == 256


@pytest.mark.slow
def test_long_stream_needs_linear_time_and_bounded_memory() -> None:
    def cost(count: int) -> tuple[float, int]:
        accumulator = ChatAccumulator(16384)
        fragment = chunk({"content": "four"})
        started_s = time.thread_time()
        tracemalloc.start()
        for _ in range(count):
            accumulator.add(fragment)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return time.thread_time() - started_s, peak

    cost(100)
    short_s, short_bytes = cost(10_000)
    long_s, long_bytes = cost(80_000)
    assert long_s < 8 * short_s * 3
    assert long_bytes < 300_000
    assert short_bytes < 300_000


def test_accumulator_keeps_no_content_when_capture_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created: list[Any] = []
    original = chat_accumulator.GrowingText.__init__

    def count_and_init(self: Any, max_chars: int) -> None:
        created.append(self)
        original(self, max_chars)

    monkeypatch.setattr(chat_accumulator.GrowingText, "__init__", count_and_init)
    for max_chars, expected in ((None, 0), (10, 1)):
        accumulator = ChatAccumulator(max_chars)
        accumulator.add(chunk({"content": "the secret"}))
        assert len(created) == expected
        assert ("the secret" in repr(accumulator.result())) is (max_chars is not None)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("index", "delta", "text", "content", "reasoning", "refusal", "role"),
                    *("tool_calls", "function", "function_call", "custom", "audio", "id"),
                    *("name", "arguments", "input", "data", "transcript", "finish_reason"),
                ]
            ),
            children,
            max_size=5,
        ),
    ),
    max_leaves=15,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "choices": st.one_of(
                    JSON_VALUES, st.lists(st.fixed_dictionaries({"delta": JSON_VALUES}), max_size=2)
                )
            }
        ),
        max_size=6,
    )
)
def test_any_chunks_become_messages_of_schema(chunks: list[dict[str, Any]]) -> None:
    messages_of(chunks)
