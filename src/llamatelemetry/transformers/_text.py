"""Incremental decoding of tokens, ending before a stop sequence. It needs no library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Decoders return this character if some bytes of a character are missing.
_INCOMPLETE: Final = "�"


class RowText:
    """The text of one row, token by token.

    `feed` returns the text that can be shown. It holds back text that may be the beginning of a stop
    sequence, and characters with missing bytes. A stop sequence may begin and end within tokens.

    Args:
        tokenizer: Tokenizer.
        stops: Sequences before which the text ends.
    """

    __slots__ = ("_from", "_held", "_read", "_stops", "_tokenizer", "stopped", "tokens")

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self.tokens: list[int] = []
        self.stopped = False
        self._from = 0  # earlier tokens are not decoded again
        self._read = 0  # the text of earlier tokens was returned
        self._held = ""

    def feed(self, tokens: Sequence[int]) -> str:
        """Add tokens and return the text that they complete, which may be empty."""
        if self.stopped:
            return ""
        self.tokens.extend(tokens)
        # Some decoders treat the first token of a text differently. So the last decoded tokens are decoded
        # again in front of the new ones, and their text is removed.
        before = self._decode(self._from, self._read)
        text = self._decode(self._from, None)
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._from, self._read = self._read, len(self.tokens)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """Return the text that was held back: there are no more tokens."""
        if self.stopped:
            return ""
        text = self._decode(self._from, None)[len(self._decode(self._from, self._read)) :]
        self._from = self._read = len(self.tokens)
        shown = self._release(text)
        held, self._held = self._held, ""
        return shown + ("" if self.stopped else held)

    def _decode(self, start: int, end: int | None) -> str:
        return self._tokenizer.decode(
            self.tokens[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _release(self, text: str) -> str:
        self._held += text
        at = find_stop(self._held, self._stops)
        if at is not None:
            self.stopped = True
            shown, self._held = self._held[:at], ""
            return shown
        keep = _longest_beginning(self._held, self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[-keep:] if keep else ""
        return shown


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return where the stop sequence begins that is complete first; the longest of several.

    With this rule the text does not depend on how it is split into chunks.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest suffix that is the beginning of a stop sequence."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
