"""Folding what the chunks of chat and text completions say into the reply they add up to."""

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


def call(index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


def folded(chunks: list[dict[str, Any]], max_chars: int = 1000) -> list[dict[str, Any]]:
    fold = ChatAccumulator(max_chars)
    for item in chunks:
        fold.add(item)
    read = parse_response(fold.result()).read_content
    assert read is not None
    limited = limit_messages(read().outputs, max_chars)
    check_messages(limited)
    return limited


def parts(*deltas: dict[str, Any]) -> list[dict[str, Any]]:
    (message,) = folded([chunk(delta) for delta in deltas])
    return message["parts"]


def test_the_deltas_of_a_choice_add_up_to_its_message() -> None:
    chunks = [
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "H"}),
        chunk({"reasoning_content": "m."}),
        chunk({"content": "He"}),
        chunk({"content": "llo"}),
        chunk(call(0, id="call_1", function={"name": "weather", "arguments": ""})),
        chunk(call(0, function={"arguments": '{"city"'})),
        chunk(call(1, id="call_2", function={"name": "now", "arguments": "{}"})),
        chunk(call(0, function={"arguments": ': "Paris"}'})),
        chunk({}, finish_reason="tool_calls"),
        {"id": "c", "model": "m", "choices": [], "usage": {}},
    ]
    assert folded(chunks) == [
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


def test_choices_are_told_apart_and_come_in_their_order() -> None:
    chunks = [
        chunk({"content": "b"}, 1),
        chunk({"content": "a"}, 0),
        chunk({"content": "B"}, 1),
        chunk({"content": "A"}, 0, finish_reason="length"),
    ]
    assert folded(chunks) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "aA"}],
            "finish_reason": "length",
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "bB"}]},
    ]


def test_text_completions_add_up_as_well() -> None:
    chunks = [
        {"choices": [{"index": 0, "text": " the", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "re", "finish_reason": "stop"}]},
    ]
    assert folded(chunks) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": " there"}],
            "finish_reason": "stop",
        }
    ]


def test_a_refusal_comes_in_deltas_too() -> None:
    assert parts({"refusal": "N"}, {"refusal": "o."}) == [
        {"type": "text", "content": "No.", "refusal": True}
    ]


def test_a_call_without_an_index_begins_with_its_id() -> None:
    deltas = [
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": None, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "{}"}}]},
    ]
    assert parts(*deltas) == [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}},
        {"type": "tool_call", "id": "b", "name": "g", "arguments": {}},
    ]


@pytest.mark.parametrize("index", ["one", [], {}, 1.5])
def test_an_index_that_is_none_is_no_index(index: Any) -> None:
    begun = call(index, id="a", function={"name": "f", "arguments": '{"x"'})
    assert parts(begun, call(index, function={"arguments": ": 1}"})) == [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}}
    ]


def test_custom_calls_and_functions_of_old_come_in_deltas_too() -> None:
    deltas = [
        call(0, id="a", custom={"name": "sh", "input": "l"}),
        call(0, custom={"input": "s"}),
        {"function_call": {"name": "now", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
    ]
    assert parts(*deltas) == [
        {"type": "tool_call", "id": "a", "name": "sh", "arguments": "ls"},
        {"type": "tool_call", "name": "now", "arguments": {}},
    ]


def test_sound_is_counted_and_its_transcript_kept() -> None:
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


def test_each_text_is_kept_up_to_the_limit_and_counted_beyond_it() -> None:
    deltas = [
        {"content": "0123456"},
        {"content": "789ABC"},
        {"content": "D"},
        call(0, id="c", function={"name": "f", "arguments": '"0123456789"'}),
        # What is left of it is JSON by chance, and not what was sent.
        call(1, id="d", function={"name": "g", "arguments": "123456789012345"}),
    ]
    (message,) = folded([chunk(delta) for delta in deltas], 10)
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


@pytest.mark.parametrize("pieces", [["0123456789"], ["01234", "56789"], list("0123456789")])
def test_a_text_of_just_the_limit_is_whole(pieces: list[str]) -> None:
    (message,) = folded([chunk({"content": piece}) for piece in pieces], 10)
    assert message["parts"] == [{"type": "text", "content": "0123456789"}]


@given(st.text(max_size=60), st.lists(st.integers(1, 9)), st.integers(1, 70))
def test_a_text_folds_the_same_however_it_is_split(
    text: str, sizes: list[int], max_chars: int
) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    pieces.append(text[at:])
    split = folded([chunk({"content": piece}) for piece in pieces], max_chars)
    assert split == folded([chunk({"content": text})], max_chars)


def test_a_stream_of_ever_new_choices_or_calls_is_bounded() -> None:
    assert len(parts(*(call(index, id="c") for index in range(2000)))) == 256
    many = folded([chunk({"content": "a"}, index) for index in range(2000)])
    assert sum(1 for message in many if message["parts"]) == 256


@pytest.mark.slow
def test_a_long_stream_costs_time_in_proportion_and_memory_up_to_the_limit() -> None:
    def cost(count: int) -> tuple[float, int]:
        fold = ChatAccumulator(16384)
        piece = chunk({"content": "four"})
        began = time.process_time()
        tracemalloc.start()
        for _ in range(count):
            fold.add(piece)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return time.process_time() - began, peak

    cost(100)
    short_s, short_bytes = cost(10_000)
    long_s, long_bytes = cost(80_000)
    assert long_s < 8 * short_s * 3
    assert long_bytes < 300_000
    assert short_bytes < 300_000


def test_nothing_of_what_is_said_is_collected_when_content_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    original = chat_accumulator.GrowingText.__init__

    def counting(self: Any, max_chars: int) -> None:
        made.append(self)
        original(self, max_chars)

    monkeypatch.setattr(chat_accumulator.GrowingText, "__init__", counting)
    for max_chars, expected in ((None, 0), (10, 1)):
        fold = ChatAccumulator(max_chars)
        fold.add(chunk({"content": "the secret"}))
        assert len(made) == expected
        assert ("the secret" in repr(fold.result())) is (max_chars is not None)


ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("index", "delta", "text", "content", "reasoning", "refusal", "role"),
                    *("tool_calls", "function", "function_call", "custom", "audio", "id"),
                    *("name", "arguments", "input", "data", "transcript", "finish_reason"),
                ]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=15,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"choices": st.one_of(ODD, st.lists(st.fixed_dictionaries({"delta": ODD}), max_size=2))}
        ),
        max_size=6,
    )
)
def test_any_chunks_give_messages_of_the_schema(chunks: list[dict[str, Any]]) -> None:
    folded(chunks)
