"""Accumulation of the chunks of chat and text completions into a response."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from llamatelemetry.genai import ChatAccumulator, EngineTimings, Response, parse_response
from tests.support.json_strategies import REPLIES, json_values


def delta(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a chunk of a chat stream with one choice."""
    return {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "smol",
        "choices": [{"index": index, "delta": fields, "finish_reason": finish_reason}],
    }


def response_of(*chunks: Any) -> Response:
    accumulator = ChatAccumulator()
    for chunk in chunks:
        accumulator.add(chunk)
    return parse_response(accumulator.result())


CHUNKS_WITH_TOKEN = {
    "content": delta(content="Hi"),
    "content and role": delta(role="assistant", content="Hi"),
    "reasoning_content, as sent by llama.cpp": delta(reasoning_content="Well"),
    "reasoning, as sent by other servers": delta(reasoning="Well"),
    "tool call": delta(
        tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]
    ),
    "function call": delta(function_call={"name": "f", "arguments": ""}),
    "refusal": delta(refusal="No"),
    "content with the finish reason": delta("stop", content="."),
    "second choice": {"choices": [{"delta": {}}, {"delta": {"content": "Hi"}}]},
    "text of a text completion": {"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]},
}
CHUNKS_WITHOUT_TOKEN = {
    "role and null content": delta(role="assistant", content=None),
    "role alone": delta(role="assistant"),
    "role and empty content": delta(role="assistant", content=""),
    "empty delta": delta(),
    "finish reason": delta("stop"),
    "empty tool calls": delta(tool_calls=[]),
    "null delta": {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]},
    "usage only": {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    "null choices": {"choices": None},
    "no choices": {"id": "c-1"},
    "prompt progress": {**delta(role="assistant", content=None), "prompt_progress": {"total": 5}},
    "empty text": {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]},
    "nothing": {},
    "null": None,
    "garbage": "data",
    "invalid choices": {"choices": ["x", None, 5]},
}


@pytest.mark.parametrize("chunk", CHUNKS_WITH_TOKEN.values(), ids=CHUNKS_WITH_TOKEN)
def test_chunk_with_content_reasoning_or_tool_call_carries_token(chunk):
    assert ChatAccumulator().add(chunk) is True


@pytest.mark.parametrize("chunk", CHUNKS_WITHOUT_TOKEN.values(), ids=CHUNKS_WITHOUT_TOKEN)
def test_chunk_with_role_finish_reason_or_usage_carries_no_token(chunk):
    assert ChatAccumulator().add(chunk) is False


@pytest.mark.parametrize(
    ("chunk", "carries_token"),
    [(delta(content="Hi"), True), (delta(role="assistant", content=None), False)],
)
def test_chunk_model_of_openai_client_is_accepted(chunk, carries_token):
    accumulator = ChatAccumulator()
    assert accumulator.add(ChatCompletionChunk.model_validate(chunk)) is carries_token
    assert accumulator.add(ChatCompletionChunk.construct(**chunk)) is carries_token
    assert parse_response(accumulator.result()) == Response(id="c-1", model="smol")


def test_finish_reasons_have_order_of_choice_indexes():
    assert response_of(
        delta(index=1, content="a"),
        delta(index=0, content="b"),
        delta("length", index=1),
        delta(index=0, content="c"),
        delta("stop", index=0),
    ).finish_reasons == ("stop", "length")


def test_unfinished_choice_has_finish_reason_error_when_another_finished():
    assert response_of(
        delta(index=0, content="a"), delta(index=1, content="b"), delta("stop", index=1)
    ).finish_reasons == ("error", "stop")


def test_finish_reason_is_kept_when_later_chunks_have_none():
    assert response_of(delta("stop"), delta(), {"choices": []}).finish_reasons == ("stop",)


def test_choices_without_index_are_identified_by_position():
    chunk = {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}
    assert response_of(chunk).finish_reasons == ("stop", "length")


def test_last_usage_and_timings_are_used():
    usage = [{"prompt_tokens": 3, "completion_tokens": n} for n in (1, 2)]
    timings = [
        {"prompt_n": 3, "prompt_ms": 5.0, "predicted_n": n, "predicted_ms": 1.0 * n} for n in (1, 2)
    ]
    response = response_of(
        {**delta(content="a"), "usage": usage[0], "timings": timings[0]},
        {**delta(content="b"), "usage": usage[1], "timings": timings[1]},
        {**delta("stop"), "usage": None, "timings": None},
    )
    assert response.usage.output_tokens == 2
    assert response.timings is not None
    assert response.timings.decode_ms == 2.0


def test_empty_id_and_model_are_replaced_by_those_of_next_chunk():
    # The first chunk of Azure has the results of its content filter, an empty id and an empty model.
    filtered = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{}]}
    accumulator = ChatAccumulator()
    accumulator.add(filtered)
    assert not accumulator.model
    accumulator.add(delta(content="Hi") | {"system_fingerprint": "fp"})
    assert accumulator.model == "smol"
    assert parse_response(accumulator.result()) == Response(
        id="c-1", model="smol", system_fingerprint="fp"
    )


def test_first_id_and_model_are_used():
    assert response_of(
        delta(content="a"), {**delta(content="b"), "id": "c-2", "model": "other"}
    ) == (Response(id="c-1", model="smol"))


def test_response_is_empty_when_no_chunk_was_added():
    assert ChatAccumulator().model is None
    assert response_of() == Response()


class Chunk(dict[str, Any]):
    """A dict that supports weak references."""


def test_accumulator_keeps_no_reference_to_chunks():
    accumulator = ChatAccumulator()
    references: list[weakref.ref[Chunk]] = []
    for fields in ({"role": "assistant"}, {"content": "Hi"}, {}):
        chunk = Chunk(delta("stop" if not fields else None, **fields))
        accumulator.add(chunk)
        references.append(weakref.ref(chunk))
        del chunk
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


def test_memory_does_not_grow_with_number_of_chunks():
    accumulator = ChatAccumulator()

    def add_chunks(number: int) -> None:
        for position in range(number):
            accumulator.add({**delta(content=f"word {position} " * 20), "usage": {"n": position}})

    def grown_bytes() -> int:
        tracemalloc.start()
        try:
            add_chunks(10_000)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    add_chunks(100)
    # The best of three runs, because tracemalloc also counts what other threads allocate.
    assert min(grown_bytes() for _ in range(3)) < 10_000  # Less than one byte per chunk.


LLAMA_CPP_TIMINGS = {
    "cache_n": 9,
    "prompt_n": 1,
    "prompt_ms": 7.0,
    "predicted_n": 3,
    "predicted_ms": 24.0,
}


def final_chunk(index: int, predicted: int) -> dict[str, Any]:
    return {
        "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}],
        "timings": {**LLAMA_CPP_TIMINGS, "predicted_n": predicted},
    }


def test_output_tokens_are_sum_over_final_chunks_of_choices() -> None:
    accumulator = ChatAccumulator()
    for chunk in (final_chunk(0, 3), final_chunk(1, 4)):
        accumulator.add(chunk)
    assert accumulator.response().usage.output_tokens == 7


def test_output_tokens_are_sum_over_choices_when_usage_is_requested() -> None:
    accumulator = ChatAccumulator()
    for index, predicted in ((0, 3), (1, 4)):
        accumulator.add(final_chunk(index, predicted))
        counts = {"prompt_tokens": 10, "completion_tokens": predicted}
        accumulator.add(
            {
                "choices": [],
                "usage": counts,
                "timings": {**LLAMA_CPP_TIMINGS, "predicted_n": predicted},
            }
        )
    assert accumulator.response().usage.output_tokens == 7


def test_output_tokens_are_last_count_when_every_chunk_has_timings() -> None:
    accumulator = ChatAccumulator()
    for predicted in (1, 2):
        token_chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
        accumulator.add({**token_chunk, "timings": {**LLAMA_CPP_TIMINGS, "predicted_n": predicted}})
    accumulator.add(final_chunk(0, 2))
    response = accumulator.response()
    assert response.usage.output_tokens == 2
    assert response.timings == EngineTimings(
        *(1, 7.0, 2, 24.0), cached_tokens=9, provider="llama_cpp", is_queue_derivable=True
    )


REASONS = st.sampled_from(["stop", "length", "tool_calls"])
TEXTS = st.lists(st.text(min_size=1, max_size=5), max_size=6)
USAGES = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)},
        optional={
            "prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 99)})
        },
    ),
)
TIMINGS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"prompt_n": st.integers(0, 99), "prompt_ms": st.floats(0, 1e4)}
        | {"predicted_n": st.integers(0, 99), "predicted_ms": st.floats(0, 1e4)},
        optional={"cache_n": st.integers(0, 99)},
    ),
)


@given(
    head=st.fixed_dictionaries(
        {"id": st.just("c-1"), "model": st.sampled_from(["smol", "/models/smol.gguf"])},
        optional={"service_tier": st.just("default"), "system_fingerprint": st.just("b1")},
    ),
    choices=st.lists(st.tuples(TEXTS, REASONS), min_size=1, max_size=3),
    usage=USAGES,
    timings=TIMINGS,
    has_usage_chunk=st.booleans(),
    data=st.data(),
)
def test_response_split_into_chunks_equals_plain_response(
    *, head, choices, usage, timings, has_usage_chunk, data
):
    plain = {
        **head,
        "choices": [{"index": i, "finish_reason": r} for i, (_, r) in enumerate(choices)],
        "usage": usage,
        "timings": timings,
    }
    queues = [
        [delta(None, index, content=word) for word in words] + [delta(reason, index)]
        for index, (words, reason) in enumerate(choices)
    ]
    chunks = []
    while remaining := [queue for queue in queues if queue]:
        chunks.append({**data.draw(st.sampled_from(remaining)).pop(0), **head})
    usage_and_timings = {"usage": usage, "timings": timings}
    if has_usage_chunk:
        chunks.append({**head, "choices": [], **usage_and_timings})
    else:
        chunks[-1] |= usage_and_timings
    assert response_of(*chunks) == parse_response(plain)


@given(st.lists(st.one_of(REPLIES, json_values()), max_size=5))
def test_any_chunks_are_accepted(chunks):
    assert isinstance(response_of(*chunks), Response)
