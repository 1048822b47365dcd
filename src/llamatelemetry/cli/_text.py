"""Text for the terminal. It can come from servers, spans and programs, so it is made harmless."""

from __future__ import annotations

from rich.text import Text

from llamatelemetry._terminal import printable


def safe_text(text: str, style: str = "", *, lines: bool = False) -> Text:
    """Return text without control characters, in which no markup is interpreted.

    Args:
        text: Text of any origin.
        style: Style of the whole text.
        lines: Whether line breaks are kept.
    """
    return Text(printable(text, lines=lines), style)
