"""Text for the terminal. It can come from servers, spans and programs, so it is made harmless."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.text import Text

from llamatelemetry._terminal import printable

if TYPE_CHECKING:
    from rich.console import Console


def safe_text(text: str, style: str = "", *, lines: bool = False) -> Text:
    """Return text without control characters, in which no markup is interpreted.

    Args:
        text: Text of any origin.
        style: Style of the whole text.
        lines: Whether line breaks are kept.
    """
    return Text(printable(text, lines=lines), style)


def print_line(console: Console, text: str, style: str) -> None:
    """Print a safe line. A failure of the output is ignored.

    Args:
        console: Console of standard output or standard error.
        text: Text of any origin.
        style: Style of the whole text.
    """
    # The reader of the output may have exited, or the disk may be full. rich raises SystemExit for
    # a closed pipe.
    with suppress(OSError, SystemExit):
        sys.stdout.flush()
        console.print(safe_text(text, style, lines=True), soft_wrap=True)
