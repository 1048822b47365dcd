"""Binary data inside messages, decoded only when needed."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes


@dataclass(frozen=True, slots=True)
class BlobData:
    """Binary data as it was sent: part of a text, which is not copied.

    Attributes:
        text: Text that contains the data.
        start: Index of the first character of the data.
        is_base64: Whether the data is base64; otherwise it is percent-encoded.
        cut_chars: Number of characters that the accumulator of a stream did not keep.
    """

    text: str
    start: int = 0
    is_base64: bool = True
    cut_chars: int = 0

    @property
    def size_bytes(self) -> int:
        """Size of the data in bytes; approximate for malformed base64."""
        chars = len(self.text) - self.start + self.cut_chars
        if not self.is_base64:
            return chars - 2 * self.text.count("%", self.start)
        padding = 2 if self.text.endswith("==") else 1 if self.text.endswith("=") else 0
        return max(0, chars * 3 // 4 - padding)

    def decode(self) -> bytes:
        """Return the bytes; empty if the data is malformed or was cut."""
        if self.cut_chars:
            return b""
        payload = self.text[self.start :]
        try:
            return base64.b64decode(payload) if self.is_base64 else unquote_to_bytes(payload)
        except (binascii.Error, ValueError):
            return b""


def data_url(url: str) -> tuple[str | None, BlobData] | None:
    """Parse a `data:` URL. Return its media type and data; `None` for any other URL."""
    if url[:5].lower() != "data:":
        return None
    comma = url.find(",", 0, 256)
    if comma < 0:
        return None, BlobData(url, len(url))
    header = url[5:comma].lower()
    mime_type = header.partition(";")[0] or None
    return mime_type, BlobData(url, comma + 1, is_base64=header.endswith(";base64"))
