"""Text of servers, files and spans for a terminal or a log.

A terminal obeys escape sequences: text can change its title, hide or overwrite lines, and in some
terminals write to the clipboard. Other characters reverse the direction of the text around them.
"""

from __future__ import annotations

import re
from typing import Final

# Color and style. They are removed, because programs such as llama-server use them for their logs.
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
# Control characters except tab and line feed, characters that change the direction of text, line
# and paragraph separators, tags, and surrogates, which cannot be encoded.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return a text with control characters as visible escapes, such as `\x1b`.

    Args:
        text: Text that may come from a server.
        lines: Whether line breaks are kept. Otherwise they are escaped, too, so that the text
            cannot imitate further lines of output.
    """
    text = _UNSAFE.sub(_escape, _STYLE.sub("", text))
    return text if lines else text.replace("\n", "\\n").replace("\t", " ")


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
