"""Patterns and how they are matched, with a time limit per text.

A regular expression can take exponential time on a text made for it, and users of a model
write these texts. The package `regex` stops at a time limit. The standard library's `re` cannot,
so without `regex` only the built-in patterns are matched. They are written so that their time
grows linearly with the length of the text (`benchmarks/redaction.py` measures it).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from time import monotonic, thread_time
from typing import Any, Final

BASE_S: Final = 0.1
PER_CHAR_S: Final = 4e-6
"""Time limit of one pattern on one text: 0.1 s plus 4 s per million characters.

A thread that has waited for its turn gets as much CPU time again. The built-in patterns need a
small part of the limit, even on adversarial texts.
"""

_SHORT_CHARS: Final = 10_000
"""Length up to which a built-in pattern keeps the interpreter lock. A search takes at most 5 ms.

`regex` would release the lock in each search, and the other threads of a busy program would take
it. Each of them keeps it for 5 ms, so that a search of microseconds would take much longer.
"""

PIP_COMMAND: Final = "pip install 'llamatelemetry-core[redaction]'"

VALUE_GROUP: Final = "value"
"""Group of a built-in expression that is redacted instead of the whole match."""


class Matcher:
    """One compiled expression.

    Args:
        expression: Regular expression in the syntax of `re`.
        trusted: Whether it is a built-in one, which `re` may match if `regex` is missing.

    Raises:
        ValueError: The expression is invalid.
        ImportError: The expression is not a built-in one, and `regex` is missing.
    """

    def __init__(self, expression: str, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._regex = _import_regex()
        if self._regex is None:
            if not trusted:
                raise ImportError(
                    "Regular expressions in redact_patterns need the package regex, which limits "
                    f"their matching time. Install it: {PIP_COMMAND}"
                )
            self._compiled: Any = re.compile(expression)
            return
        try:
            self._compiled = self._regex.compile(expression)
        except self._regex.error as error:
            raise ValueError(
                f"redact_patterns must be valid regular expressions, got {expression!r}: {error}"
            ) from None

    def searching(self, text: str) -> Callable[[int], re.Match[str] | None]:
        """Return a function that finds the next match from a position.

        That function raises `TimeoutError` once all searches of this text together exceed the
        time limit. The part of the text behind the last match is then unknown.
        """
        search = self._compiled.search
        if self._regex is None:
            return lambda at: search(text, at)
        limit_s = BASE_S + len(text) * PER_CHAR_S
        releases_lock = not self._trusted or len(text) > _SHORT_CHARS
        # Cheaper than `thread_time`, but it also counts while other threads run.
        clock: Callable[[], float] = monotonic
        until_s = clock() + limit_s

        def next_match(at: int) -> re.Match[str] | None:
            nonlocal clock, until_s
            left_s = until_s - clock()
            if left_s <= 0 and clock is monotonic:
                clock, left_s = thread_time, limit_s
                until_s = clock() + limit_s
            if left_s <= 0:
                raise TimeoutError
            return search(text, at, timeout=left_s, concurrent=releases_lock)

        return next_match


@cache
def _has_digits(count: int) -> re.Pattern[str]:
    return re.compile(rf"(?:\D*+\d){{{count}}}")


@cache
def _import_regex() -> Any:
    try:
        return importlib.import_module("regex")
    except ImportError:
        return None


@dataclass(frozen=True)
class Pattern:
    """One kind of text to redact.

    Attributes:
        name: Name of a built-in pattern; the expression itself for a user's pattern.
        expression: Regular expression. If it has a group `value`, only that group is redacted.
        needs: Substrings. A text without any of them cannot match and is not searched; most
            texts are skipped this way.
        digits: Number of digits. A text with fewer cannot match and is not searched.
        check: Returns how many characters of a match are valid, for example by a check digit.
        secret: Whether it grants access to something; otherwise it is personal data.
        trusted: Whether it is a built-in pattern.
    """

    name: str
    expression: str
    needs: tuple[str, ...] = ()
    digits: int = 0
    check: Callable[[str], int] | None = None
    secret: bool = False
    trusted: bool = True

    @cached_property
    def matcher(self) -> Matcher:
        """The compiled expression, compiled on first use."""
        return Matcher(self.expression, trusted=self.trusted)

    def spans(self, text: str) -> Iterable[tuple[int, int]]:
        """Return start and end of each occurrence, from left to right.

        Raises:
            TimeoutError: The text could not be searched to its end within the time limit.
        """
        if self.needs:
            for needed in self.needs:  # quicker than `any`
                if needed in text:
                    break
            else:
                return ()
        if self.digits and not _has_digits(self.digits).match(text):
            return ()
        return self._search(text)

    def _search(self, text: str) -> Iterator[tuple[int, int]]:
        search = self.matcher.searching(text)
        at = 0
        while at <= len(text) and (match := search(at)) is not None:
            start, end = match.span(VALUE_GROUP) if self._has_value else (-1, -1)
            if start < 0:
                start, end = match.span()
            if self.check is not None:
                end = start + self.check(text[start:end])
            if end > start:
                yield start, end
                at = end
            else:
                # Only one character further: a valid occurrence may start inside this match.
                at = match.start() + 1

    @cached_property
    def _has_value(self) -> bool:
        return self.trusted and f"(?P<{VALUE_GROUP}>" in self.expression
