"""Observers for raw bytes of responses, for streams that no client library parses.

The wrappers of `observers` pass these bytes instead of parsed chunks.
"""

from __future__ import annotations

import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.engines import read_engine
from llamatelemetry.genai.engines.proofs import MAY_PROVE
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.json_access import as_dict
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.streams.content_decoders import content_decoder
from llamatelemetry.genai.streams.observers import GAP_NS, StreamObserver
from llamatelemetry.genai.wire.bodies import BodyCapture
from llamatelemetry.genai.wire.openai_chat import find_usage
from llamatelemetry.genai.wire.sse import EventReader, parse_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.call import Call
    from llamatelemetry.genai.streams.accumulators import Accumulator
    from llamatelemetry.genai.streams.content_decoders import Decode

# After the first token, only the end of the stream is of interest. Quotation marks within the text are
# escaped by a backslash, so these patterns do not match there.
_END_OF_TEXT: Final = re.compile(
    rb'"(?:usage|timings|error)"\s*:\s*[^n\s]|"(?:finish_reason|stop_type)"\s*:\s*["{]'
    rb'|"done"\s*:\s*true'
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

    def on_error(self, error: BaseException) -> None:
        """Fail the call, unless the end mark has arrived: clients read on, and ignore errors there."""
        if self._reader.is_done:
            self.on_end()
        else:
            super().on_error(error)

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


_LINE_END: Final = re.compile(rb"[\r\n]")
_LONGEST_LAST_EVENT: Final = 256 * 1024
# No longer than this is the beginning of a match of `MAY_PROVE` at the end of a chunk.
_LONGEST_MATCH: Final = 64


class ProvisionalObserver:
    """Observer for the body of an unknown server, until an event proves an inference engine.

    The proof is often at the end, such as `timings` of llama.cpp if a proxy hides the server's name.
    For all other streams this costs one search per chunk.

    Args:
        confirm: Function that starts the call with the proved provider and returns the observer of the
            stream; `None` if it is not recorded.
    """

    __slots__ = ("_chunks", "_confirm", "_confirmed", "_first_ns", "_lines", "_may_prove")

    def __init__(self, confirm: Callable[[str], EventBytesObserver | None]) -> None:
        self._confirm: Callable[[str], EventBytesObserver | None] | None = confirm
        self._confirmed: EventBytesObserver | None = None
        self._lines = bytearray()  # from the beginning of an incomplete line
        self._may_prove = False  # whether `MAY_PROVE` matches there
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
        since = max(0, len(lines) - _LONGEST_MATCH)
        lines += chunk
        self._may_prove = self._may_prove or MAY_PROVE.search(lines, since) is not None
        if _LINE_END.search(chunk) is not None:
            if self._may_prove:
                provider = _provider_of_events(bytes(lines))
                if provider is not None:
                    self._start(provider, bytes(lines))
                    return
            del lines[: max(lines.rfind(b"\n"), lines.rfind(b"\r")) + 1]
            self._may_prove = MAY_PROVE.search(lines) is not None
        if len(lines) > _LONGEST_LAST_EVENT:
            self._confirm = None
            lines.clear()

    def _start(self, provider: str, lines: bytes) -> None:
        confirm, self._confirm = self._confirm, None
        try:
            observer = None if confirm is None else confirm(provider)
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


class ProvisionalBodyObserver:
    """Observer for a plain body of an unknown server.

    Args:
        on_body: Function that is called with the body if it was read to its end.
    """

    __slots__ = ("_capture", "_on_body")

    def __init__(self, on_body: Callable[[BodyCapture], None]) -> None:
        self._capture = BodyCapture()
        self._on_body: Callable[[BodyCapture], None] | None = on_body

    def on_chunk(self, chunk: bytes) -> None:
        """Keep the next bytes."""
        if self._on_body is not None:
            self._capture.feed(chunk)

    def on_end(self) -> None:
        """Hand over the body."""
        on_body, self._on_body = self._on_body, None
        if on_body is not None:
            try:
                on_body(self._capture)
            except Exception as error:
                internal_errors.log_once("looking for the engine in a response", error)

    def on_error(self, error: BaseException) -> None:  # noqa: ARG002 - as the other observers
        """Drop the body, which is incomplete."""
        self._on_body = None

    def on_close(self) -> None:
        """Drop the body if it was not read to its end."""
        self._on_body = None

    def on_abandon(self) -> None:
        """Drop the body."""
        self._on_body = None


_BULK_END: Final = 1024


def may_prove_engine(body: bytes, *, is_bulk_wanted: bool = True) -> bool:
    """Return whether a body can prove the engine, before it is parsed.

    Args:
        body: The body.
        is_bulk_wanted: Whether more than both ends of a long body can have the proof.
    """
    if not is_bulk_wanted and len(body) > 2 * _BULK_END:
        body = body[:_BULK_END] + body[-_BULK_END:]
    return MAY_PROVE.search(body) is not None


def _provider_of_events(data: bytes) -> str | None:
    """Return the provider that an event proves. Events of the Responses API contain a response."""
    for event in EventReader().feed(data):
        fields = as_dict(event.get("response")) or event
        provider = read_engine(fields, find_usage(fields)).provider
        if provider is not None:
            return provider
    return None
