"""Incremental decoders of `Content-Encoding`, for bodies that pass by undecoded."""

from __future__ import annotations

import zlib
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Decode = Callable[[bytes], bytes]

# A chunk that decodes to more than this is not a chunk of text.
_LONGEST_DECODED: Final = 8 * 1024 * 1024


def content_decoder(encoding: str) -> Decode | None:
    """Return a function that undoes a `Content-Encoding` chunk by chunk; `None` if it is not supported.

    Data in another encoding, or data that becomes too large, decodes to nothing.
    """
    decoders = [_decoder(name.strip().lower()) for name in encoding.split(",")]
    if None in decoders:
        return None

    # The last encoding was applied last.
    def decode(data: bytes) -> bytes:
        for each in reversed(decoders):
            data = each(data) if each is not None else data
        return data

    return decoders[0] if len(decoders) == 1 else decode


def _decoder(name: str) -> Decode | None:
    if name in {"", "identity"}:
        return _identity
    if name in {"gzip", "x-gzip", "deflate"}:
        return _Inflate(may_be_raw=name == "deflate")
    try:
        if name == "br":
            return _Brotli()
        return _Zstandard() if name == "zstd" else None
    except ImportError:  # The HTTP library does not decode it either.
        return None


def _identity(data: bytes) -> bytes:
    return data


class _Inflate:
    def __init__(self, *, may_be_raw: bool) -> None:
        # Adding 32 accepts both gzip and zlib headers.
        self._inflate: Any = zlib.decompressobj(zlib.MAX_WBITS + 32)
        # Some servers send `deflate` without a header, which HTTP libraries accept.
        self._raw: Any = zlib.decompressobj(-zlib.MAX_WBITS) if may_be_raw else None

    def __call__(self, data: bytes) -> bytes:
        if self._inflate is None:
            return b""
        try:
            decoded: bytes = self._inflate.decompress(data, _LONGEST_DECODED)
        except zlib.error:
            self._inflate, self._raw = self._raw, None
            return self(data)
        if data:
            self._raw = None  # The header is valid.
        if self._inflate.unconsumed_tail:
            self._inflate = None
            return b""
        return decoded


class _Decompressor:
    """Guards a decompressor of another package: its errors, and data that becomes too large."""

    def __init__(self, decompress: Callable[[bytes], bytes]) -> None:
        self._decompress: Callable[[bytes], bytes] | None = decompress

    def __call__(self, data: bytes) -> bytes:
        if self._decompress is None or not data:
            return b""
        try:
            decoded = self._decompress(data)
        except Exception:  # Each package has error classes of its own.
            decoded = None
        if decoded is None or len(decoded) > _LONGEST_DECODED:
            self._decompress = None
            return b""
        return decoded


class _Brotli(_Decompressor):
    """`br`, by either package that httpx uses for it."""

    def __init__(self) -> None:
        decompressor = _first_module("brotli", "brotlicffi").Decompressor()
        process = getattr(decompressor, "process", None) or decompressor.decompress
        with suppress(TypeError):  # Old versions have no limit.
            process(b"", output_buffer_limit=1)
            process = partial(process, output_buffer_limit=_LONGEST_DECODED + 1)
        super().__init__(process)


class _Zstandard(_Decompressor):
    """`zstd`, by the module of Python 3.14 or the packages that httpx and httpx2 use for it."""

    def __init__(self) -> None:
        self._module = _first_module("compression.zstd", "backports.zstd", "zstandard")
        self._start_frame()
        super().__init__(self._decompress_frames)

    def _start_frame(self) -> None:
        self._frame: Any = self._module.ZstdDecompressor()
        self._options = {"max_length": _LONGEST_DECODED + 1}
        if hasattr(self._frame, "decompressobj"):  # zstandard, which has no limit
            self._frame, self._options = self._frame.decompressobj(), {}

    def _decompress_frames(self, data: bytes) -> bytes:
        """Decompress the data. A body may have several frames, such as one for each event."""
        decoded = bytearray()
        while data and len(decoded) <= _LONGEST_DECODED:
            if self._frame.eof:
                self._start_frame()
            decoded += self._frame.decompress(data, **self._options)
            data = self._frame.unused_data if self._frame.eof else b""
        return bytes(decoded)


def _first_module(*names: str) -> Any:
    for name in names:
        with suppress(ImportError):
            return import_module(name)
    raise ImportError(names[0])
