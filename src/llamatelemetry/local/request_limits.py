"""Limits of export requests, so that no request can exhaust the memory of the receiver.

A small compressed body can expand a thousandfold, and two bytes of protobuf can become a message
object of a hundred bytes. Any local process can send such a request.
"""

from __future__ import annotations

import threading
import zlib
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.otlp import MalformedError, RejectedError, request_type

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

MAX_BODY_BYTES: Final = 64 * 1024**2
"""Maximum size of a body, before and after decompression."""

MAX_JSON_BYTES: Final = 16 * 1024**2
"""Maximum size of a JSON body, which needs several times its size in memory."""

MAX_FIELDS: Final = 1_000_000
"""Maximum number of fields in a request. Batches of 8192 spans with 20 attributes have fewer."""

_MAX_DEPTH: Final = 100  # protobuf rejects deeper messages
_SMALL_BYTES: Final = 1024**2
_WAIT_S: Final = 5.0
# zlib selects the expected header by `wbits`.
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def too_large(what: str, limit: int) -> RejectedError:
    """Return the error for something that exceeds its limit."""
    return RejectedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what} must not exceed {limit}")


def decompress(body: bytes, encoding: str) -> bytes:
    """Return the decompressed body.

    Raises:
        RejectedError: The encoding is not supported, or the decompressed body is too large.
        MalformedError: The body is damaged.
    """
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RejectedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the content encoding must be gzip or deflate, got {encoding}",
        )
    decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = decompressor.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise MalformedError(f"the body is not valid {encoding}: {error}") from error
    if decompressor.unconsumed_tail:
        raise too_large("the number of bytes of the decompressed body", MAX_BODY_BYTES)
    if not decompressor.eof:
        raise MalformedError(f"the {encoding} body is truncated")
    if decompressor.unused_data.strip(b"\0"):  # zeros are padding
        raise MalformedError(f"other data follows the {encoding} body")
    return plain


def check_complexity(signal: str, body: bytes, *, is_json: bool = False) -> None:
    """Check that the message of a body does not need much more memory than the body.

    Raises:
        RejectedError: The body has too many fields, or is JSON and too large.
    """
    if is_json:
        if len(body) > MAX_JSON_BYTES:
            raise too_large("the number of bytes of a JSON body", MAX_JSON_BYTES)
        # A text, which has two quotation marks, needs less memory than an object.
        fields = body.count(b"{") + body.count(b"[") + body.count(b'"') // 4
    elif len(body) <= 2 * MAX_FIELDS:  # a field has at least two bytes
        return
    else:
        fields = _count_fields(body, request_type(signal).DESCRIPTOR)
    if fields > MAX_FIELDS:
        raise too_large("the number of fields", MAX_FIELDS)


def _count_fields(body: bytes, descriptor: Any) -> int:
    """Return the number of fields in a protobuf message; stop above `MAX_FIELDS`.

    A malformed message has no certain number. The parser rejects it.
    """
    count, at, end, nested = 0, 0, len(body), _nested_types(descriptor)
    enclosing: list[tuple[int, Mapping[int, Any]]] = []
    try:
        while count <= MAX_FIELDS and len(enclosing) < _MAX_DEPTH:
            if at >= end:
                if not enclosing:
                    break
                end, nested = enclosing.pop()
                continue
            count += 1
            tag, at = _varint(body, at)
            wire_type = tag & 7
            if wire_type == _LENGTH:
                size, at = _varint(body, at)
                inner = nested.get(tag >> 3)
                if inner is None:
                    at += size
                else:
                    enclosing.append((end, nested))
                    end, nested = min(at + size, end), _nested_types(inner)
            elif wire_type == _VARINT:
                _, at = _varint(body, at)
            elif wire_type in (_FIXED64, _FIXED32):
                at += 8 if wire_type == _FIXED64 else 4
    except IndexError:  # truncated
        pass
    return count


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    byte = body[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at


@cache
def _nested_types(descriptor: Any) -> Mapping[int, Any]:
    """Return the types of the fields of a message type that are messages themselves."""
    return {
        each.number: each.message_type
        for each in descriptor.fields
        if each.message_type is not None
    }


class BodyBudget:
    """The memory of all request bodies that are being received. Small bodies do not count."""

    def __init__(self, limit: int = 2 * MAX_BODY_BYTES) -> None:
        self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Generator[None]:
        """Reserve memory for a body, and wait some seconds for it if necessary.

        Raises:
            RejectedError: Other requests need the memory. Exporters try again after this status.
        """
        if size <= _SMALL_BYTES:
            yield
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= size, _WAIT_S):
                raise RejectedError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at the same time"
                )
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
