"""Watching the bytes of a reply pass."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from llamatelemetry.genai import (
    Call,
    ChatAccumulator,
    EventBytesObserver,
    LlamaCppAccumulator,
    ProvisionalObserver,
    ResponsesAccumulator,
    content_decoder,
    event_bytes_observer,
)
from tests.support import replies
from tests.support.recorder import Recorder

TOKENS = 20


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def stream() -> list[bytes]:
    """A role, tokens, and the end with its counts."""
    first = replies.chunk({"role": "assistant", "content": None})
    tokens = [replies.chunk({"content": f"t{number}"}) for number in range(TOKENS)]
    last = replies.chunk({}, "length", timings=replies.TIMINGS)
    return [event(chunk) for chunk in (first, *tokens, last)]


def watch(call: Call, encoding: str = "") -> EventBytesObserver:
    return event_bytes_observer(call, ChatAccumulator(), encoding, is_typed=False)


class Counting(ChatAccumulator):
    """A fold that tells how much it had to read."""

    added = 0

    def add(self, chunk: Any) -> bool:
        self.added += 1
        return super().add(chunk)


def test_once_an_answer_is_under_way_only_its_end_is_parsed(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    fold = Counting()
    watching = event_bytes_observer(start(stream=True), fold, "", is_typed=False)
    for piece in stream():
        watching.on_chunk(piece)
    watching.on_end()
    assert fold.added == 3  # the role, the first token, the end
    span = recorder.call()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    # Each gap was measured all the same.
    (gaps,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.count == TOKENS + 1


def test_a_stream_that_is_broken_off_is_read_to_where_it_got(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    native = [
        {"index": 0, "content": "a", "stop": False, "tokens_predicted": n, "tokens_evaluated": 7}
        for n in (1, 2, 3, 4)
    ]
    watching = event_bytes_observer(start(stream=True), LlamaCppAccumulator(), "", is_typed=False)
    for piece in native:
        watching.on_chunk(event(piece))
    watching.on_close()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 4
    assert recorder.call().attributes["gen_ai.usage.input_tokens"] == 7


@pytest.mark.parametrize("text", ['"finish_reason": "stop"', '"usage": {"a": 1}', "timings"])
def test_an_answer_that_speaks_of_its_end_is_not_at_it(
    start: Callable[..., Call], text: str
) -> None:
    fold = Counting()
    watching = event_bytes_observer(start(stream=True), fold, "", is_typed=False)
    pieces = stream()
    pieces[4] = event(replies.chunk({"content": text}))
    for piece in pieces:
        watching.on_chunk(piece)
    watching.on_end()
    assert fold.added == 3


def test_typed_events_are_parsed_where_they_are_more_than_deltas(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    response = {"id": "resp_1", "model": "smol", "status": "in_progress"}
    done = {
        **response,
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 9, "output_tokens": 5},
    }
    watching = event_bytes_observer(start(stream=True), ResponsesAccumulator(), "", is_typed=True)
    watching.on_chunk(event({"type": "response.created", "response": response}))
    for _ in range(TOKENS):
        watching.on_chunk(event({"type": "response.output_text.delta", "delta": "t"}))
    watching.on_chunk(event({"type": "response.completed", "response": done}))
    watching.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5
    assert recorder.call().attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_an_error_inside_the_stream_is_the_calls(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    watching = watch(start(stream=True))
    for piece in stream()[:5]:
        watching.on_chunk(piece)
    watching.on_chunk(event({"error": {"code": 500, "type": "server_error", "message": "SECRET"}}))
    watching.on_end()
    span = recorder.call()
    assert span.attributes["error.type"] == "server_error"
    assert "SECRET" not in str(span.status.description)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
def test_an_encoding_that_is_known_is_undone(
    start: Callable[..., Call], recorder: Recorder, encoding: str, encode: Any
) -> None:
    watching = watch(start(stream=True), encoding)
    body = encode(b"".join(stream()))
    for at in range(0, len(body), 50):
        watching.on_chunk(body[at : at + 50])
    watching.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "nonsense"])
def test_one_that_is_not_leaves_the_counts_unknown(
    start: Callable[..., Call], recorder: Recorder, encoding: str
) -> None:
    watching = watch(start(stream=True), encoding)
    watching.on_chunk(b"".join(stream()))
    watching.on_end()
    assert "gen_ai.usage.output_tokens" not in recorder.call().attributes


def test_a_body_that_explodes_when_decoded_is_left_alone() -> None:
    decode = content_decoder("gzip")
    assert decode is not None
    bomb = gzip.compress(b"\0" * 200_000_000)
    assert len(decode(bomb)) == 0
    assert decode(b"more") == b""


# --- a server that nothing is known of ---------------------------------------------------------


class Proof:
    """What starts watching in earnest."""

    def __init__(self, start: Callable[..., Call]) -> None:
        self._start = start
        self.calls: list[Call] = []

    def __call__(self) -> EventBytesObserver:
        self.calls.append(self._start(stream=True))
        return watch(self.calls[-1])


def test_other_streams_pass_without_a_call(start: Callable[..., Call]) -> None:
    proof = Proof(start)
    unproven = ProvisionalObserver(proof)
    for piece in stream()[:-1]:
        unproven.on_chunk(piece)
    unproven.on_end()
    unproven.on_close()
    unproven.on_error(ValueError())
    unproven.on_abandon()
    assert proof.calls == []


def test_what_is_never_a_line_is_not_kept(start: Callable[..., Call]) -> None:
    proof = Proof(start)
    unproven = ProvisionalObserver(proof)
    for _ in range(100):
        unproven.on_chunk(b"x" * 65536)
    assert len(unproven._line) < 400_000
    unproven.on_chunk(stream()[-1])
    assert proof.calls == []


@pytest.mark.parametrize("ending", ["on_end", "on_close", "on_error", "on_abandon"])
def test_a_proven_stream_ends_like_any_other(
    start: Callable[..., Call], recorder: Recorder, ending: str
) -> None:
    unproven = ProvisionalObserver(Proof(start))
    for piece in stream():
        unproven.on_chunk(piece)
    getattr(unproven, ending)(*((ConnectionError("gone"),) if ending == "on_error" else ()))
    span = recorder.call()
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert ("error.type" in span.attributes) is (ending == "on_error")


def test_a_stream_that_proves_itself_at_once_is_timed_in_full(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    """As with ``timings_per_token``."""
    unproven = ProvisionalObserver(Proof(start))
    for _ in range(3):
        unproven.on_chunk(event(replies.chunk({"content": "t"}, timings=replies.TIMINGS)))
    unproven.on_end()
    (gaps,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.count == 2
    assert "gen_ai.ttft_ms" in recorder.call().attributes


def test_a_stream_that_is_not_wanted_after_all_passes(start: Callable[..., Call]) -> None:
    unproven = ProvisionalObserver(lambda: None)
    for piece in stream():
        unproven.on_chunk(piece)
    unproven.on_end()


def test_when_its_first_token_came_is_not_known_of_one_that_proves_itself_late(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    """Though the chunk that proved it holds a token too."""
    call = start(stream=True)
    unproven = ProvisionalObserver(lambda: watch(call))
    pieces = stream()
    unproven.on_chunk(pieces[0])
    unproven.on_chunk(b"".join(pieces[-2:]))
    unproven.on_end()
    attributes = recorder.call().attributes
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    server_ms = attributes["gen_ai.server.time_to_first_token"] * 1000
    assert attributes["gen_ai.ttft_ms"] == pytest.approx(server_ms)
    assert recorder.points("gen_ai.client.operation.time_per_output_chunk") == []
