"""Making text of tokens as they come, and ending it before a stop sequence. No library is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a decoder gives for a letter of which some bytes are still to come.
_INCOMPLETE: Final = "�"


class RowText:
    """The text of one answer, token by token.

    ``feed`` gives what can be shown by now: not what may still turn out to be the beginning of a
    stop sequence, nor a letter of which some bytes are missing. A stop sequence may begin and end
    anywhere inside of tokens.

    Args:
        tokenizer: makes text of tokens.
        stops: the sequences before which the text ends.
    """

    __slots__ = ("_from", "_held", "_read", "_stops", "_tokenizer", "stopped", "tokens")

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self.tokens: list[int] = []
        self.stopped = False
        self._from = 0  # tokens before this are not looked at again
        self._read = 0  # the text of tokens before this has been taken
        self._held = ""

    def feed(self, tokens: Sequence[int]) -> str:
        """Take the next tokens; give the text that they complete, which may be empty."""
        if self.stopped:
            return ""
        self.tokens.extend(tokens)
        # Some decoders treat the first token of a text differently: the last ones that were read
        # are decoded once more in front of the new ones, and their text is taken off again.
        before = self._decode(self._from, self._read)
        text = self._decode(self._from, None)
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._from, self._read = self._read, len(self.tokens)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """There are no more tokens; give what was held back."""
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
    """Give where the stop sequence begins that is complete first; the longest of several.

    By this, unlike by what begins first, the text does not depend on how it comes in pieces.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Give the length of the longest end of a text that is the beginning of a stop sequence."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
