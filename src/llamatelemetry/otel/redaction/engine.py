"""Matching with a time limit, by the package `regex`; without it, built-in patterns only.

A regular expression can take exponential time on a text made for it, and the texts here are
written by whoever talks to the model. `regex` gives up after a time limit. The standard
library's `re` does not, so it gets only the built-in patterns, which are written so that their
time grows with the length of the text (benchmarks/redaction_patterns.py measures it).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Any, Protocol

BASE_S = 0.1
PER_CHAR_S = 4e-6
"""The time limit of one pattern on one text: a tenth of a second, and four seconds more for each
million characters. The built-in patterns need a small part of that, also of texts made for it."""

PIP_COMMAND = "pip install 'llamatelemetry-core[redaction]'"


class Match(Protocol):
    """What is used of a match, of either engine."""

    def start(self) -> int:
        """Where it begins."""
        ...

    def end(self) -> int:
        """Where it ends."""
        ...

    def span(self, group: int | str = 0, /) -> tuple[int, int]:
        """Where a group begins and ends; (-1, -1) when it took no part."""
        ...


class Matcher:
    """One compiled expression, and how it finds its matches.

    Args:
        expression: in the syntax of `re`.
        trusted: a built-in one, which the standard library may match when `regex` is missing.

    Raises:
        ValueError: it is no expression.
        ImportError: it is a user's, and `regex` is missing.
    """

    def __init__(self, expression: str, *, trusted: bool = False) -> None:
        self.expression = expression
        self._timed = _regex()
        if self._timed is None:
            if not trusted:
                raise ImportError(
                    "regular expressions of your own are matched by the package regex, which has "
                    f"a time limit and is not installed: {PIP_COMMAND}"
                )
            self._compiled: Any = re.compile(expression)
            return
        try:
            self._compiled = self._timed.compile(expression)
        except self._timed.error as error:
            raise ValueError(f"{expression!r} is no regular expression: {error}") from None

    def searching(self, text: str) -> Callable[[int], Match | None]:
        """A function that gives the next match from a position on.

        It raises TimeoutError when the time for this text is over, whichever search that is in:
        what was not reached until then is not known.
        """
        search = self._compiled.search
        limit_s = BASE_S + len(text) * PER_CHAR_S
        until_s = monotonic() + limit_s

        def next_match(at: int) -> Match | None:
            left_s = until_s - monotonic()
            if left_s <= 0:
                raise TimeoutError
            if self._timed is None:
                return search(text, at)
            return search(text, at, timeout=left_s)

        return next_match


@cache
def _regex() -> Any:
    try:
        return importlib.import_module("regex")
    except ImportError:
        return None
