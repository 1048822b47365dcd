"""Binary data inside messages, left where it is until somebody wants its bytes."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes


@dataclass(frozen=True, slots=True)
class BlobData:
    """Binary data as it was sent: within a text, from ``start`` on, which is not copied.

    ``cut_chars`` is what a stream's fold has left out of the text.
    """

    text: str
    start: int = 0
    is_base64: bool = True
    cut_chars: int = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes the data has; near enough where the text is not clean base64."""
        chars = len(self.text) - self.start + self.cut_chars
        if not self.is_base64:
            return chars - 2 * self.text.count("%", self.start)
        padding = 2 if self.text.endswith("==") else 1 if self.text.endswith("=") else 0
        return max(0, chars * 3 // 4 - padding)

    def decode(self) -> bytes:
        """The bytes; none where the text is malformed or was cut."""
        if self.cut_chars:
            return b""
        payload = self.text[self.start :]
        try:
            return base64.b64decode(payload) if self.is_base64 else unquote_to_bytes(payload)
        except (binascii.Error, ValueError):
            return b""


def data_url(url: str) -> tuple[str | None, BlobData] | None:
    """Read ``data:image/png;base64,...``: its type and its data. ``None`` for any other URL."""
    if url[:5].lower() != "data:":
        return None
    comma = url.find(",", 0, 256)
    if comma < 0:
        return None, BlobData(url, len(url))
    header = url[5:comma].lower()
    mime_type = header.partition(";")[0] or None
    return mime_type, BlobData(url, comma + 1, is_base64=header.endswith(";base64"))
