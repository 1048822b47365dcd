r"""Search of text behind its escapes, and of fields in text that is not JSON as a whole.

A match can be hidden by an escape (`alice%40example.com`), and a field by text around its JSON,
such as a log message or a cut at a length limit. Positions always refer to the given text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

_MAX_LAYERS: Final = 4
_MAX_CODE_POINT: Final = 0x10FFFF
_ESCAPE: Final = re.compile(
    r"%(?P<url>[0-9A-Fa-f]{2})"
    # JSON in JSON doubles the backslashes, so a run of them is one escape.
    r"|(?<!\\)\\++(?:u(?P<utf16>[0-9A-Fa-f]{4})|x(?P<byte>[0-9A-Fa-f]{2})|(?P<letter>[bfnrt/\"']))"
    r"|&#(?P<decimal>[0-9]{1,7});|&#[xX](?P<hex>[0-9A-Fa-f]{1,6});|&(?P<entity>[A-Za-z]{2,24};)"
)
_LETTERS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_FIELD: Final = re.compile(
    r"[\"'](?P<name>[^\"'\\\n]{1,256}+)\\{0,63}[\"'][ \t\r\n]{0,8}:[ \t\r\n]{0,8}"
)
_QUOTE: Final = re.compile(r"\\{0,63}[\"']")
_BARE_VALUE: Final = re.compile(r"[^\s,}\]]+")
_NOT_SECRET: Final = frozenset({"true", "false", "null", "True", "False", "None"})


class Unescaped:
    """A text without its escapes, of up to four layers: of URLs, JSON, Python and HTML.

    Each escape becomes one character. Bytes of UTF-8 become one character each, because the
    built-in patterns match ASCII.
    """

    def __init__(self, text: str, starts: list[int]) -> None:
        self.text = text
        self._starts = starts

    @classmethod
    def of(cls, text: str) -> Unescaped | None:
        """Return the text without its escapes, `None` if it has none."""
        found: Unescaped | None = None
        for _ in range(_MAX_LAYERS):
            inner = _unescape_once(text if found is None else found.text)
            if inner is None:
                break
            if found is not None:
                inner = cls(inner.text, [found._starts[at] for at in inner._starts])
            found = inner
        return found

    def given_span(self, span: tuple[int, int]) -> tuple[int, int]:
        """Return the start and end in the given text of a start and end in this text."""
        return self._starts[span[0]], self._starts[span[1]]


def _unescape_once(text: str) -> Unescaped | None:
    if not ("\\" in text or "%" in text or "&" in text):  # quicker than a search
        return None
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        character = _character(match)
        if character is None:
            continue
        pieces += (text[at : match.start()], character)
        starts += range(at, match.start() + 1)
        at = match.end()
    if not pieces:
        return None
    return Unescaped("".join([*pieces, text[at:]]), [*starts, *range(at, len(text) + 1)])


def _character(match: re.Match[str]) -> str | None:
    kind, digits = match.lastgroup, match.group(match.lastgroup or 0)
    if kind == "letter":
        return _LETTERS.get(digits, digits)
    if kind == "entity":
        from html.entities import html5  # 2,000 entries, which few texts need

        found = html5.get(digits, "")
        return found if len(found) == 1 else None
    code = int(digits, 10 if kind == "decimal" else 16)
    return chr(code) if code <= _MAX_CODE_POINT else None


def field_values(text: str, is_redacted: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the value of each field `"name": value` whose name is redacted.

    The quotes may be escaped, and single as in Python. The value ends at its closing quote. If
    that is missing, or the value is an object or a list, it ends with the text.
    """
    if ":" not in text:
        return
    at = 0
    while (match := _FIELD.search(text, at)) is not None:
        # The closing quote may be the opening one of the next name.
        at = match.end("name")
        if not is_redacted(match["name"]):
            continue
        start, end = _value_span(text, match.end())
        if end > start and text[start:end] not in _NOT_SECRET:
            yield start, end
        at = max(at, end)


def _value_span(text: str, start: int) -> tuple[int, int]:
    quote = _QUOTE.match(text, start)
    if quote is not None:
        closing = re.compile(r"(?<!\\)" + re.escape(quote[0])).search(text, quote.end())
        return quote.end(), len(text) if closing is None else closing.start()
    if text[start : start + 1] in {"{", "["}:
        return start, len(text)
    bare = _BARE_VALUE.match(text, start)
    return (start, start) if bare is None else bare.span()
