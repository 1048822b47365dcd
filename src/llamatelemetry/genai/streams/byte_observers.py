"""Watching the bytes of a reply pass, where nobody in sight of us parses them.

The counterpart of `streams`, whose chunks a client library has parsed already. The taps there
serve here too: what they pass on to the watch is bytes.
"""

from __future__ import annotations

import re
import zlib
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.errors import describe_reported_error
from llamatelemetry.genai.json_access import get_field
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.streams.observers import StreamObserver
from llamatelemetry.genai.wire.bodies import BodyCapture
from llamatelemetry.genai.wire.sse import EventReader, parse_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.call import Call
    from llamatelemetry.genai.streams.accumulators import Accumulator

    Decode = Callable[[bytes], bytes]

# After the first token the pieces of an answer are alike: what is looked for is its end. A
# quotation mark inside of the answer itself has a backslash before it.
_END_OF_CHUNKS: Final = re.compile(
    rb'"(?:usage|timings|error)"\s*:\s*[^n\s]|"(?:finish_reason|stop_type)"\s*:\s*"'
)
_MORE_THAN_DELTAS: Final = re.compile(rb'"(?:response|item|message|usage|error)"\s*:')


def event_bytes_observer(
    call: Call, fold: Accumulator, encoding: str, *, is_typed: bool
) -> EventBytesObserver:
    """Make what watches the bytes of an event stream.

    Args:
        call: the call that the stream is the reply of.
        fold: for the format of the stream.
        encoding: the reply's ``Content-Encoding``.
        is_typed: whether its events have a ``type``, as those of the Responses API have.
    """
    return EventBytesObserver(
        call, fold, content_decoder(encoding), _MORE_THAN_DELTAS if is_typed else _END_OF_CHUNKS
    )


class EventBytesObserver(StreamObserver):
    """An event stream, told as bytes.

    Once the first token has come, events that hold nothing but more of the answer are timed and
    not parsed, unless content is captured: parsing is half of what watching a chunk costs.
    """

    __slots__ = ("_decode", "_is_late", "_parsed", "_reader", "_skipped", "_wanted")

    def __init__(
        self, call: Call, fold: Accumulator, decode: Decode | None, wanted: re.Pattern[bytes]
    ) -> None:
        super().__init__(call, fold)
        self._decode = decode
        self._reader = EventReader()
        self._wanted = wanted
        self._skipped: bytes | None = None
        self._parsed = 0
        self._is_late = False

    def chunk(self, chunk: bytes) -> None:
        """Bytes have come."""
        try:
            if self._decode is None:  # not to be read: the time of it is all that is known
                self.on_bytes()
                return
            for payload in self._reader.payloads(self._decode(chunk)):
                if self._is_more_of_the_same(payload):
                    self._skip(payload)
                else:
                    self._read(payload)
        except Exception as error:
            internal_errors.log_once("reading the bytes of a stream", error)

    def replay(self, passed: bytes, first_ns: int | None) -> None:
        """Take in the last of what passed before it was known that this call is to be watched.

        ``first_ns`` is when its first chunk came, if that was not this one: the time of the
        first token, and the gaps up to now, are not known then.
        """
        if first_ns is None:
            self.chunk(passed)
            return
        self._is_late = True
        self._gaps = None
        self.chunk(passed)
        self._call.first_chunk_ns = first_ns

    def _is_more_of_the_same(self, payload: bytes) -> bool:
        return (
            self._call.first_token_ns is not None
            and self._call.content_max_chars is None
            and self._parsed > 1  # whatever names the stream has been read
            and self._wanted.search(payload) is None
        )

    def _skip(self, payload: bytes) -> None:
        now_ns = perf_counter_ns()
        if self._gaps is not None:
            self._gaps.chunk(now_ns)
        self._last_ns = now_ns
        self._skipped = payload

    def _read(self, payload: bytes) -> None:
        self._skipped = None
        event = parse_object(payload)
        if event is None:
            return
        self._parsed += 1
        error = event.get("error")
        if error and "type" not in event:
            self.reported(describe_reported_error(error))
        else:
            super().chunk(event)

    def _response(self) -> Response:
        if self._is_late:
            self._call.first_token_ns = None
        # A stream that was broken off: the last that came may count what had come by then.
        if self._skipped is not None:
            event = parse_object(self._skipped)
            if event is not None:
                self._fold.add(event)
        return super()._response()


class BodyBytesObserver(StreamObserver):
    """A plain body, told as bytes.

    Args:
        call: the call that the body is the reply of.
        read: reads the body when it has ended: the bytes kept of it, and whether that is all.
        decode: what undoes the encoding; ``None`` where it is not known how.
    """

    __slots__ = ("_capture", "_decode", "_read_body")

    def __init__(
        self, call: Call, read: Callable[[BodyCapture], Response], decode: Decode | None
    ) -> None:
        super().__init__(call)
        self._capture = BodyCapture()
        self._read_body = read
        self._decode = decode

    def chunk(self, chunk: bytes) -> None:
        """Bytes have come."""
        try:
            self.on_bytes()
            if self._decode is not None:
                self._capture.feed(self._decode(chunk))
        except Exception as error:
            internal_errors.log_once("reading the bytes of a reply", error)

    def _response(self) -> Response:
        try:
            return self._read_body(self._capture)
        except Exception as error:
            internal_errors.log_once("reading a reply", error)
            return Response()


_TIMINGS: Final = b'"timings"'
_LONGEST_LAST_EVENT: Final = 256 * 1024


class ProvisionalObserver:
    """A stream from a server that nothing is known of, until it proves to be llama.cpp's.

    That is what ``timings`` in it do, which come at its end: a proxy in between may have put
    its own name over the server's. For all other streams this costs one look at each chunk.

    Args:
        prove: starts watching the stream in earnest; gives ``None`` where it is not wanted.
    """

    __slots__ = ("_chunks", "_first_ns", "_line", "_prove", "_proven")

    def __init__(self, prove: Callable[[], EventBytesObserver | None]) -> None:
        self._prove: Callable[[], EventBytesObserver | None] | None = prove
        self._proven: EventBytesObserver | None = None
        self._line = b""  # that has not ended yet
        self._chunks = 0
        self._first_ns = 0

    def chunk(self, chunk: bytes) -> None:
        """Bytes have come."""
        if self._proven is not None:
            self._proven.chunk(chunk)
        elif self._prove is not None:
            if not self._chunks:
                self._first_ns = perf_counter_ns()
            self._chunks += 1
            lines = self._line + chunk if self._line else chunk
            if _TIMINGS in lines and _has_timings(lines):
                self._start(lines)
            elif lines.endswith(b"\n"):
                self._line = b""
            else:
                self._line = lines[lines.rfind(b"\n") + 1 :]
                if len(self._line) > _LONGEST_LAST_EVENT:
                    self._prove = None

    def _start(self, lines: bytes) -> None:
        prove, self._prove = self._prove, None
        try:
            watch = None if prove is None else prove()
            if watch is not None:
                watch.replay(lines, self._first_ns if self._chunks > 1 else None)
            self._proven = watch
        except Exception as error:
            internal_errors.log_once("starting a call late", error)

    def finished(self) -> None:
        """The stream was read to its end."""
        if self._proven is not None:
            self._proven.finished()

    def failed(self, error: BaseException) -> None:
        """The stream broke."""
        if self._proven is not None:
            self._proven.failed(error)

    def closed(self) -> None:
        """The application has had enough."""
        if self._proven is not None:
            self._proven.closed()

    def abandoned(self) -> None:
        """The stream was dropped unread."""
        if self._proven is not None:
            self._proven.abandoned()


def _has_timings(data: bytes) -> bool:
    return any(
        "prompt_n" in timings
        for event in EventReader().feed(data)
        if isinstance(timings := get_field(event, "timings"), dict)
    )


# A chunk that becomes longer than this when decoded is no piece of an answer.
_LONGEST_DECODED: Final = 8 * 1024 * 1024


def content_decoder(encoding: str) -> Decode | None:
    """Give what undoes a ``Content-Encoding``, chunk by chunk; ``None`` for one that is not known.

    What is not in that encoding after all, or grows beyond measure, decodes to nothing.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return _identity
    if name in {"gzip", "x-gzip", "deflate"}:
        return _Inflate()
    return None


def _identity(data: bytes) -> bytes:
    return data


class _Inflate:
    def __init__(self) -> None:
        # 32 more than the window: both the gzip and the zlib format, by the header.
        self._inflate: Any = zlib.decompressobj(zlib.MAX_WBITS + 32)

    def __call__(self, data: bytes) -> bytes:
        if self._inflate is None:
            return b""
        try:
            decoded: bytes = self._inflate.decompress(data, _LONGEST_DECODED)
        except zlib.error:
            self._inflate = None
            return b""
        if self._inflate.unconsumed_tail:
            self._inflate = None
            return b""
        return decoded
