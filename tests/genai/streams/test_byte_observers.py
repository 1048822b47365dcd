"""Observation of the raw bytes of streamed responses."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import json
import sys
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
from tests.support import payloads
from tests.support.recorder import Recorder

TOKENS = 20


def to_event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def stream_events() -> list[bytes]:
    """Return the events of a chat stream: the role, the tokens and a final chunk with counts."""
    first = payloads.chunk({"role": "assistant", "content": None})
    tokens = [payloads.chunk({"content": f"t{number}"}) for number in range(TOKENS)]
    last = payloads.chunk({}, "length", timings=payloads.TIMINGS)
    return [to_event(chunk) for chunk in (first, *tokens, last)]


def chat_observer(call: Call, encoding: str = "") -> EventBytesObserver:
    return event_bytes_observer(call, ChatAccumulator(), encoding, is_typed=False)


class CountingAccumulator(ChatAccumulator):
    """An accumulator that counts the chunks that it parses."""

    added = 0

    def add(self, chunk: Any) -> bool:
        self.added += 1
        return super().add(chunk)


def test_chat_stream_parses_first_token_and_final_chunk_only(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    accumulator = CountingAccumulator()
    observer = event_bytes_observer(start(stream=True), accumulator, "", is_typed=False)
    for data in stream_events():
        observer.on_chunk(data)
    observer.on_end()
    assert accumulator.added == 3  # The role, the first token and the final chunk.
    span = recorder.call()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    # Intervals of chunks that are not parsed are measured too.
    (intervals,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == TOKENS + 1


def test_interrupted_native_stream_has_counts_of_last_chunk(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    chunks = [
        {"index": 0, "content": "a", "stop": False, "tokens_predicted": n, "tokens_evaluated": 7}
        for n in (1, 2, 3, 4)
    ]
    observer = event_bytes_observer(start(stream=True), LlamaCppAccumulator(), "", is_typed=False)
    for chunk in chunks:
        observer.on_chunk(to_event(chunk))
    observer.on_close()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 4
    assert recorder.call().attributes["gen_ai.usage.input_tokens"] == 7


@pytest.mark.parametrize("error", [ConnectionError("gone"), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("is_done", [True, False])
def test_error_fails_stream_unless_its_end_mark_has_arrived(
    start: Callable[..., Call], recorder: Recorder, *, error: BaseException, is_done: bool
) -> None:
    """The asynchronous client of openai reads on for a moment, and ignores how that ends."""
    observer = chat_observer(start(stream=True))
    for data in [*stream_events(), b"data: [DONE]\n\n"][: None if is_done else -1]:
        observer.on_chunk(data)
    observer.on_error(error)
    span = recorder.call()
    assert ("error.type" in span.attributes) is not is_done
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("text", ['"finish_reason": "stop"', '"usage": {"a": 1}', "timings"])
def test_chunk_with_field_names_in_text_is_not_parsed(
    start: Callable[..., Call], text: str
) -> None:
    accumulator = CountingAccumulator()
    observer = event_bytes_observer(start(stream=True), accumulator, "", is_typed=False)
    events = stream_events()
    events[4] = to_event(payloads.chunk({"content": text}))
    for data in events:
        observer.on_chunk(data)
    observer.on_end()
    assert accumulator.added == 3


def test_typed_stream_records_usage_and_finish_reason_of_final_event(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    response = {"id": "resp_1", "model": "smol", "status": "in_progress"}
    done = {
        **response,
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 9, "output_tokens": 5},
    }
    observer = event_bytes_observer(start(stream=True), ResponsesAccumulator(), "", is_typed=True)
    observer.on_chunk(to_event({"type": "response.created", "response": response}))
    for _ in range(TOKENS):
        observer.on_chunk(to_event({"type": "response.output_text.delta", "delta": "t"}))
    observer.on_chunk(to_event({"type": "response.completed", "response": done}))
    observer.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5
    assert recorder.call().attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_error_event_is_recorded_without_message(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    observer = chat_observer(start(stream=True))
    for data in stream_events()[:5]:
        observer.on_chunk(data)
    observer.on_chunk(
        to_event({"error": {"code": 500, "type": "server_error", "message": "SECRET"}})
    )
    observer.on_end()
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
        ("deflate", lambda data: zlib.compress(data, wbits=-zlib.MAX_WBITS)),
    ],
)
def test_supported_content_encoding_is_decoded(
    start: Callable[..., Call], recorder: Recorder, encoding: str, encode: Any
) -> None:
    observer = chat_observer(start(stream=True), encoding)
    body = encode(b"".join(stream_events()))
    for start_byte in range(0, len(body), 50):
        observer.on_chunk(body[start_byte : start_byte + 50])
    observer.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "nonsense"])
def test_unsupported_content_encoding_leaves_counts_unknown(
    start: Callable[..., Call], recorder: Recorder, encoding: str
) -> None:
    observer = chat_observer(start(stream=True), encoding)
    observer.on_chunk(b"".join(stream_events()))
    observer.on_end()
    assert "gen_ai.usage.output_tokens" not in recorder.call().attributes


def test_decoder_ignores_body_that_expands_too_much() -> None:
    decode = content_decoder("gzip")
    assert decode is not None
    bomb = gzip.compress(b"\0" * 200_000_000)
    assert len(decode(bomb)) == 0
    assert decode(b"more") == b""


def _brotli(data: bytes) -> bytes:
    return pytest.importorskip("brotli").compress(data)


ZSTD_PACKAGES = ("compression.zstd", "backports.zstd", "zstandard")


def _zstandard(data: bytes) -> bytes:
    for name in ZSTD_PACKAGES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).compress(data)
    pytest.skip("no package for zstd is installed")


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "br": _brotli,
    "zstd": _zstandard,
    "gzip, br": lambda data: _brotli(gzip.compress(data)),
}


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_compressed_stream_has_its_tokens(
    start: Callable[..., Call], recorder: Recorder, encoding: str
) -> None:
    data = COMPRESSORS[encoding](b"".join(stream_events()))
    observer = chat_observer(start(stream=True), encoding)
    for position in range(0, len(data), 7):
        observer.on_chunk(data[position : position + 7])
    observer.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.parametrize("package", ZSTD_PACKAGES)
def test_stream_of_several_zstd_frames_has_its_tokens(
    start: Callable[..., Call], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    compress = pytest.importorskip(package).compress
    for other in ZSTD_PACKAGES:
        if other != package:
            monkeypatch.setitem(sys.modules, other, None)
    data = b"".join(map(compress, stream_events()))
    observer = chat_observer(start(stream=True), "zstd")
    for position in range(0, len(data), 700):
        observer.on_chunk(data[position : position + 700])
    observer.on_end()
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5


def test_bomb_in_several_zstd_frames_is_ignored() -> None:
    bomb = _zstandard(b"\0" * 1_000_000) * 20
    decode = content_decoder("zstd")
    assert decode is not None
    assert decode(bomb) == b""


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_decoder_ignores_invalid_and_expanding_data(encoding: str) -> None:
    bomb = COMPRESSORS[encoding](b"\0" * 200_000_000)
    for data in (bomb, b"not compressed"):
        decode = content_decoder(encoding)
        assert decode is not None
        assert len(decode(data)) == 0
        assert decode(b"more") == b""


class ObserverStart:
    """A function that starts a call and returns its observer; it keeps the started calls."""

    def __init__(self, start: Callable[..., Call]) -> None:
        self._start = start
        self.calls: list[Call] = []

    def __call__(self, provider: str) -> EventBytesObserver:
        assert provider == "llama_cpp"
        self.calls.append(self._start(stream=True))
        return chat_observer(self.calls[-1])


def test_stream_without_timings_starts_no_call(start: Callable[..., Call]) -> None:
    start_observer = ObserverStart(start)
    observer = ProvisionalObserver(start_observer)
    for data in stream_events()[:-1]:
        observer.on_chunk(data)
    observer.on_end()
    observer.on_close()
    observer.on_error(ValueError())
    observer.on_abandon()
    assert start_observer.calls == []


def test_provisional_observer_finds_timings_in_small_chunks_of_long_line(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    padding = b'data: {"x": "' + b"a" * 200_000 + b'"}\n\n'
    data = padding + b"".join(stream_events())
    start_observer = ObserverStart(start)
    observer = ProvisionalObserver(start_observer)
    for position in range(0, len(data), 8):
        observer.on_chunk(data[position : position + 8])
    observer.on_end()
    assert len(start_observer.calls) == 1
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] > 0


def test_provisional_observer_limits_buffered_line(start: Callable[..., Call]) -> None:
    start_observer = ObserverStart(start)
    observer = ProvisionalObserver(start_observer)
    for _ in range(100):
        observer.on_chunk(b"x" * 65536)
    assert len(observer._lines) < 400_000
    observer.on_chunk(stream_events()[-1])
    assert start_observer.calls == []


@pytest.mark.parametrize("ending", ["on_end", "on_close", "on_error", "on_abandon"])
def test_confirmed_stream_ends_call_for_every_ending(
    start: Callable[..., Call], recorder: Recorder, ending: str
) -> None:
    observer = ProvisionalObserver(ObserverStart(start))
    for data in stream_events():
        observer.on_chunk(data)
    getattr(observer, ending)(*((ConnectionError("gone"),) if ending == "on_error" else ()))
    span = recorder.call()
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert ("error.type" in span.attributes) is (ending == "on_error")


def test_stream_confirmed_by_first_chunk_has_all_times(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    """The option `timings_per_token` adds timings to every chunk."""
    observer = ProvisionalObserver(ObserverStart(start))
    for _ in range(3):
        observer.on_chunk(to_event(payloads.chunk({"content": "t"}, timings=payloads.TIMINGS)))
    observer.on_end()
    (intervals,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 2
    assert "gen_ai.ttft_ms" in recorder.call().attributes


def test_provisional_observer_ignores_stream_when_no_call_starts(
    start: Callable[..., Call],
) -> None:
    observer = ProvisionalObserver(lambda _: None)
    for data in stream_events():
        observer.on_chunk(data)
    observer.on_end()


def test_stream_confirmed_late_has_time_to_first_token_from_timings(
    start: Callable[..., Call], recorder: Recorder
) -> None:
    """The chunk with the timings contains a token, but it is not the first one."""
    call = start(stream=True)
    observer = ProvisionalObserver(lambda _: chat_observer(call))
    events = stream_events()
    observer.on_chunk(events[0])
    observer.on_chunk(b"".join(events[-2:]))
    observer.on_end()
    attributes = recorder.call().attributes
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    server_ms = attributes["gen_ai.server.time_to_first_token"] * 1000
    assert attributes["gen_ai.ttft_ms"] == pytest.approx(server_ms)
    assert recorder.points("gen_ai.client.operation.time_per_output_chunk") == []
