"""Chunks add up to a response; nothing of them is kept but what it needs."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from llamatelemetry.genai import ChatAccumulator, Response, parse_response
from tests.support.json_strategies import REPLIES, json_values


def delta(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat stream with one choice."""
    return {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "smol",
        "choices": [{"index": index, "delta": fields, "finish_reason": finish_reason}],
    }


def fold(*chunks: Any) -> Response:
    folded = ChatAccumulator()
    for chunk in chunks:
        folded.add(chunk)
    return parse_response(folded.result())


TOKENS = {
    "content": delta(content="Hi"),
    "content beside the role": delta(role="assistant", content="Hi"),
    "reasoning of llama.cpp": delta(reasoning_content="Well"),
    "reasoning of others": delta(reasoning="Well"),
    "tool call": delta(
        tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]
    ),
    "function call": delta(function_call={"name": "f", "arguments": ""}),
    "refusal": delta(refusal="No"),
    "content with the finish reason": delta("stop", content="."),
    "second choice": {"choices": [{"delta": {}}, {"delta": {"content": "Hi"}}]},
    "text of a completion": {"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]},
}
NO_TOKENS = {
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
    "odd choices": {"choices": ["x", None, 5]},
}


@pytest.mark.parametrize("chunk", TOKENS.values(), ids=TOKENS)
def test_content_reasoning_and_tool_calls_are_tokens(chunk):
    assert ChatAccumulator().add(chunk) is True


@pytest.mark.parametrize("chunk", NO_TOKENS.values(), ids=NO_TOKENS)
def test_roles_ends_and_figures_are_not_tokens(chunk):
    assert ChatAccumulator().add(chunk) is False


@pytest.mark.parametrize(
    ("chunk", "carries_token"),
    [(delta(content="Hi"), True), (delta(role="assistant", content=None), False)],
)
def test_a_chunk_of_openais_own_type_is_read_alike(chunk, carries_token):
    folded = ChatAccumulator()
    assert folded.add(ChatCompletionChunk.model_validate(chunk)) is carries_token
    assert folded.add(ChatCompletionChunk.construct(**chunk)) is carries_token
    assert parse_response(folded.result()) == Response(id="c-1", model="smol")


def test_finish_reasons_come_in_the_order_of_the_choices_not_of_their_ends():
    assert fold(
        delta(index=1, content="a"),
        delta(index=0, content="b"),
        delta("length", index=1),
        delta(index=0, content="c"),
        delta("stop", index=0),
    ).finish_reasons == ("stop", "length")


def test_a_choice_that_never_finished_beside_one_that_did_is_an_error():
    assert fold(
        delta(index=0, content="a"), delta(index=1, content="b"), delta("stop", index=1)
    ).finish_reasons == ("error", "stop")


def test_a_finish_reason_is_not_lost_to_later_chunks_without_one():
    assert fold(delta("stop"), delta(), {"choices": []}).finish_reasons == ("stop",)


def test_choices_without_an_index_are_told_apart_by_their_place():
    chunk = {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}
    assert fold(chunk).finish_reasons == ("stop", "length")


def test_usage_and_timings_are_the_last_ones_said():
    usage = [{"prompt_tokens": 3, "completion_tokens": n} for n in (1, 2)]
    timings = [
        {"prompt_n": 3, "prompt_ms": 5.0, "predicted_n": n, "predicted_ms": 1.0 * n} for n in (1, 2)
    ]
    response = fold(
        {**delta(content="a"), "usage": usage[0], "timings": timings[0]},
        {**delta(content="b"), "usage": usage[1], "timings": timings[1]},
        {**delta("stop"), "usage": None, "timings": None},
    )
    assert response.usage.output_tokens == 2
    assert response.timings is not None
    assert response.timings.decode_ms == 2.0


def test_a_first_chunk_that_names_nothing_does_not_hide_the_names_in_the_next():
    # Azure opens a stream with the results of its content filter: empty id and model.
    filtered = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{}]}
    folded = ChatAccumulator()
    folded.add(filtered)
    assert not folded.model
    folded.add(delta(content="Hi") | {"system_fingerprint": "fp"})
    assert folded.model == "smol"
    assert parse_response(folded.result()) == Response(
        id="c-1", model="smol", system_fingerprint="fp"
    )


def test_the_names_are_those_that_came_first():
    assert fold(delta(content="a"), {**delta(content="b"), "id": "c-2", "model": "other"}) == (
        Response(id="c-1", model="smol")
    )


def test_nothing_folded_is_nothing_known():
    assert ChatAccumulator().model is None
    assert fold() == Response()


class Chunk(dict[str, Any]):
    """A dict that can be referred to weakly."""


def test_no_chunk_is_kept_not_even_the_first_or_the_last():
    folded = ChatAccumulator()
    kept: list[weakref.ref[Chunk]] = []
    for fields in ({"role": "assistant"}, {"content": "Hi"}, {}):
        chunk = Chunk(delta("stop" if not fields else None, **fields))
        folded.add(chunk)
        kept.append(weakref.ref(chunk))
        del chunk
    gc.collect()
    assert [ref() for ref in kept] == [None, None, None]


def test_memory_does_not_grow_with_the_length_of_the_stream():
    folded = ChatAccumulator()

    def pass_chunks(number: int) -> None:
        for position in range(number):
            folded.add({**delta(content=f"word {position} " * 20), "usage": {"n": position}})

    pass_chunks(100)
    tracemalloc.start()
    try:
        pass_chunks(10_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 10_000  # bytes: less than one per chunk


# --- a folded stream reads like the plain reply --------------------------------------------

REASONS = st.sampled_from(["stop", "length", "tool_calls"])
WORDS = st.lists(st.text(min_size=1, max_size=5), max_size=6)
USAGES = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)},
        optional={
            "prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 99)})
        },
    ),
)
ENGINE = st.one_of(
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
    choices=st.lists(st.tuples(WORDS, REASONS), min_size=1, max_size=3),
    usage=USAGES,
    timings=ENGINE,
    separate_figures=st.booleans(),
    data=st.data(),
)
def test_a_response_split_into_chunks_reads_like_the_whole(
    *, head, choices, usage, timings, separate_figures, data
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
    figures = {"usage": usage, "timings": timings}
    if separate_figures:
        chunks.append({**head, "choices": [], **figures})
    else:
        chunks[-1] |= figures
    assert fold(*chunks) == parse_response(plain)


@given(st.lists(st.one_of(REPLIES, json_values()), max_size=5))
def test_any_chunks_fold_without_error(chunks):
    assert isinstance(fold(*chunks), Response)
