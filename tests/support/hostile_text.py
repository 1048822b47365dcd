"""Text that a hostile server or program could send to attack a terminal."""

from __future__ import annotations

# Sets the title of the window, moves the cursor, writes to the clipboard, reverses text.
EVIL = "\x1b]0;evil\x07\x1b[2K\x9b1A\x1b]52;c;ZXZpbA==\x07\x08\r\u202e\u2066\x7f"
_CONTROLS = set("\x1b\x07\x9b\x08\r\u202e\u2066\x7f\ud800")


def assert_harmless(text: str) -> None:
    """Assert that an output has the text, without its control characters."""
    assert "evil" in text
    assert not set(text) & _CONTROLS
