"""Observers for raw bytes of responses, for streams that no client library parses.

The wrappers of `observers` pass these bytes instead of parsed chunks.
"""

from __future__ import annotations

import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.json_access import get_field
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.streams.content_decoders import content_decoder
from llamatelemetry.genai.streams.observers import GAP_NS, StreamObserver
from llamatelemetry.genai.wire.bodies import BodyCapture
from llamatelemetry.genai.wire.sse import EventReader, parse_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.call import Call
    from llamatelemetry.genai.streams.accumulators import Accumulator
    from llamatelemetry.genai.streams.content_decoders import Decode

# After the first token, only the end of the stream is of interest. Quotation marks within the text are
# escaped by a backslash, so these patterns do not match there.
_END_OF_TEXT: Final = re.compile(
    rb'"(?:usage|timings|error)"\s*:\s*[^n\s]|"(?:finish_reason|stop_type)"\s*:\s*"'
)
_NOT_A_DELTA: Final = re.compile(rb'"(?:response|item|message|usage|error)"\s*:')


def event_bytes_observer(
    call: Call, accumulator: Accumulator, encoding: str, *, is_typed: bool
) -> EventBytesObserver:
    """Create the observer for the bytes of an event stream.

    `encoding` is the `Content-Encoding`. `is_typed` means that events have a `type`, as in the
    Responses API.
    """
    return EventBytesObserver(
        call, accumulator, content_decoder(encoding), _NOT_A_DELTA if is_typed else _END_OF_TEXT
    )


class EventBytesObserver(StreamObserver):
    """Observer for an event stream in bytes.

    After the first token, events that contain only more text are timed but not parsed, unless content is
    captured. Parsing is half of the cost of a chunk.
    """

    __slots__ = ("_decode", "_is_replayed", "_parsed", "_reader", "_skipped", "_wanted")

    def __init__(
        self, call: Call, accumulator: Accumulator, decode: Decode | None, wanted: re.Pattern[bytes]
    ) -> None:
        super().__init__(call, accumulator)
        self._decode = decode
        self._reader = EventReader()
        self._wanted = wanted
        self._skipped: bytes | None = None
        self._parsed = 0
        self._is_replayed = False

    def on_chunk(self, chunk: bytes) -> None:
        """Process the next bytes."""
        try:
            if self._decode is None:  # not decodable: only the time is known
                self.on_bytes()
                return
            for payload in self._reader.payloads(self._decode(chunk)):
                if self._is_only_text(payload):
                    self._skip(payload)
                else:
                    self._read(payload)
        except Exception as error:
            internal_errors.log_once("reading the bytes of a stream", error)

    def replay(self, passed: bytes, first_ns: int | None) -> None:
        """Process the last bytes that arrived before the call was started.

        `first_ns` is the time of the first chunk, or `None` if these bytes are the first chunk.
        Otherwise the time of the first token and the intervals until now are unknown.
        """
        if first_ns is None:
            self.on_chunk(passed)
            return
        self._is_replayed = True
        self._intervals = None
        self.on_chunk(passed)
        self._call.first_chunk_ns = first_ns

    def _is_only_text(self, payload: bytes) -> bool:
        return (
            self._call.first_token_ns is not None
            and self._call.content_max_chars is None
            and self._parsed > 1  # names of model and response are known
            and self._wanted.search(payload) is None
        )

    def _skip(self, payload: bytes) -> None:
        now_ns = perf_counter_ns()
        if self._diagnostics is not None and now_ns - self._last_ns > GAP_NS:
            self._diagnostics.on_gap(self._last_ns, now_ns)
        if self._intervals is not None:
            self._intervals.add(now_ns)
        self._last_ns = now_ns
        self._skipped = payload

    def _read(self, payload: bytes) -> None:
        self._skipped = None
        event = parse_object(payload)
        if event is None:
            return
        self._parsed += 1
        # Events of some APIs have a type and may have an `error` of their own.
        is_typed = "type" in event and event.get("object") != "error"
        error = None if is_typed else find_reported_error(event)
        if error is not None:
            self.on_reported_error(error)
        else:
            super().on_chunk(event)

    def _response(self) -> Response:
        if self._is_replayed:
            self._call.first_token_ns = None
        # An interrupted stream: the last event may have counts.
        if self._skipped is not None:
            event = parse_object(self._skipped)
            if event is not None:
                self._accumulator.add(event)
        return super()._response()


class BodyBytesObserver(StreamObserver):
    """Observer for a plain body in bytes.

    Args:
        call: Call that the body belongs to.
        read: Function that parses the body at its end.
        decode: Function that undoes the content encoding; `None` if the encoding is not supported.
    """

    __slots__ = ("_capture", "_decode", "_read_body")

    def __init__(
        self, call: Call, read: Callable[[BodyCapture], Response], decode: Decode | None
    ) -> None:
        super().__init__(call)
        self._capture = BodyCapture()
        self._read_body = read
        self._decode = decode

    def on_chunk(self, chunk: bytes) -> None:
        """Process the next bytes."""
        try:
            self.on_bytes()
            if self._decode is not None:
                self._capture.feed(self._decode(chunk))
        except Exception as error:
            internal_errors.log_once("reading the bytes of a response", error)

    def _response(self) -> Response:
        try:
            return self._read_body(self._capture)
        except Exception as error:
            internal_errors.log_once("parsing a response", error)
            return Response()


_TIMINGS: Final = b'"timings"'
_LINE_END: Final = re.compile(rb"[\r\n]")
_LONGEST_LAST_EVENT: Final = 256 * 1024


class ProvisionalObserver:
    """Observer for a stream of an unknown server, until it proves to be llama.cpp's.

    The proof is `timings` at its end, because a proxy may hide the server's name. For all other streams
    this costs one search per chunk.

    Args:
        confirm: Function that starts the call and returns its observer; `None` if it is not recorded.
    """

    __slots__ = ("_chunks", "_confirm", "_confirmed", "_first_ns", "_has_word", "_lines")

    def __init__(self, confirm: Callable[[], EventBytesObserver | None]) -> None:
        self._confirm: Callable[[], EventBytesObserver | None] | None = confirm
        self._confirmed: EventBytesObserver | None = None
        self._lines = bytearray()  # from the beginning of an incomplete line
        self._has_word = False  # whether they contain `"timings"`
        self._chunks = 0
        self._first_ns = 0

    def on_chunk(self, chunk: bytes) -> None:
        """Process the next bytes."""
        if self._confirmed is not None:
            self._confirmed.on_chunk(chunk)
        elif self._confirm is not None:
            if not self._chunks:
                self._first_ns = perf_counter_ns()
            self._chunks += 1
            self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        # A line may arrive in thousands of chunks, so each byte is copied and searched once.
        lines = self._lines
        since = max(0, len(lines) - len(_TIMINGS) + 1)
        lines += chunk
        self._has_word = self._has_word or lines.find(_TIMINGS, since) >= 0
        if _LINE_END.search(chunk) is not None:
            if self._has_word and _has_timings(bytes(lines)):
                self._start(bytes(lines))
                return
            del lines[: max(lines.rfind(b"\n"), lines.rfind(b"\r")) + 1]
            self._has_word = _TIMINGS in lines
        if len(lines) > _LONGEST_LAST_EVENT:
            self._confirm = None
            lines.clear()

    def _start(self, lines: bytes) -> None:
        confirm, self._confirm = self._confirm, None
        try:
            observer = None if confirm is None else confirm()
            if observer is not None:
                observer.replay(lines, self._first_ns if self._chunks > 1 else None)
            self._confirmed = observer
        except Exception as error:
            internal_errors.log_once("starting a call retroactively", error)

    def on_end(self) -> None:
        """Handle the end of the stream."""
        if self._confirmed is not None:
            self._confirmed.on_end()

    def on_error(self, error: BaseException) -> None:
        """Handle a failure of the stream."""
        if self._confirmed is not None:
            self._confirmed.on_error(error)

    def on_close(self) -> None:
        """Handle a close by the application."""
        if self._confirmed is not None:
            self._confirmed.on_close()

    def on_abandon(self) -> None:
        """Handle a stream that was dropped unread."""
        if self._confirmed is not None:
            self._confirmed.on_abandon()


def _has_timings(data: bytes) -> bool:
    return any(
        "prompt_n" in timings
        for event in EventReader().feed(data)
        if isinstance(timings := get_field(event, "timings"), dict)
    )
