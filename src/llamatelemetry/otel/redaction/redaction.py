"""Redacts the values of one span, one log record or one resource."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from .content import Kind, is_content_event, is_label
from .json_text import compact, parse_json
from .messages import redact_messages
from .patterns import Pattern
from .rules import Rules

_logger = logging.getLogger("llamatelemetry.otel.redaction")

# A card number or a phone number may come as a number; counters and times seldom match.
_SMALLEST_NUMBER: Final = 10**8
_DEEPEST: Final = 32
_MOST_CLEAN_TEXTS: Final = 4096
_LONGEST_CLEAN_TEXT: Final = 128

_FRAME: Final = re.compile(r'  File "[^"\n]*", line \d+, in \S+')
_FIRST_LINE: Final = "Traceback (most recent call last):"


class Redactor:
    """Rules, and what has been found out with them so far; shared by all threads."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.clean_texts: set[str] = set()
        """Short texts in which nothing is to be redacted: model names, addresses."""
        self.slow_patterns: set[str] = set()
        """Patterns that ran out of time, and were told of."""

    def begin(self) -> Redaction:
        """Starts with one span, log record or resource."""
        return Redaction(self)


class Redaction:
    """One pass over one span, log record or resource.

    When a pattern runs out of time on one text, that text and all that would still have to be
    searched are replaced unseen, so that a record costs one time limit at most.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rules = redactor.rules
        self._names = redactor.rules.names
        self._out_of_time = False

    def attributes(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The attributes with what is to be redacted replaced; the names stay."""
        return {name: self.attribute(name, value) for name, value in as_dict(given).items()}

    def attribute(self, name: str, value: Any) -> Any:
        """The value of one attribute as it may leave."""
        return self._as_kind(self._names.kind(name), name, value, 0)

    def event(self, event: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The attributes of an event; those of one that tells what was said are content."""
        if not is_content_event(event):
            return self.attributes(given)
        return {
            name: self._as_kind(self._names.nested_kind(event, name), name, value, 0)
            for name, value in as_dict(given).items()
        }

    def body(self, value: Any, *, is_content: bool) -> Any:
        """The body of a log record; `is_content` when it tells what was said."""
        if is_content and self._rules.redact_prompts:
            return redact_messages(value, self)
        return self._anything("", value, 0)

    def error_text(self, text: str, known_type: Iterable[object] = ()) -> str:
        """A text about an error: a status, a message. It may quote what was said, or a key.

        Args:
            text: the text.
            known_type: names of the error's class; one stays where the text begins with it.
        """
        if not self._rules.redact_prompts or not text:
            return self.secrets_out_of(text)
        head, colon, rest = text.partition(": ")
        kept = {str(name).rpartition(".")[2] for name in known_type if name}
        if head.rpartition(".")[2] in kept and (colon or head == text):
            return f"{head}{colon}{self.instead_of(rest)}"
        return self.instead_of(text)

    def stack_trace(self, text: str) -> str:
        """A stack trace with file, line and function of each frame of its first part.

        Source lines may hold literals, and after a message anything may stand, also what looks
        like a frame.
        """
        if not self._rules.redact_prompts:
            return self.secrets_out_of(text)
        lines = text.split("\n")
        kept = [_FIRST_LINE] if lines[0] == _FIRST_LINE else []
        if not kept and not _FRAME.fullmatch(lines[0]):
            return self.instead_of(text)
        for line in lines[len(kept) :]:
            if _FRAME.fullmatch(line):
                kept.append(self.secrets_out_of(line))
            elif not line.startswith("    "):
                break
        return "\n".join([*kept, self.instead_of(text)])

    def instead_of(self, text: str) -> str:
        """What stands in the place of a whole text; an empty one stays empty."""
        return self._rules.instead_of(text) if text else text

    def whole(self, value: Any) -> Any:
        """A value of which nothing may stay, but that it is there, and how many texts it has."""
        if value is None or isinstance(value, str):
            return value if value is None else self.instead_of(value)
        if isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            if items and all(isinstance(item, str) for item in items):
                replaced = [self.instead_of(item) for item in items]
                return replaced if isinstance(value, list) else tuple(replaced)
        return self.instead_of(_plain_text(value))

    def text(self, text: str) -> str:
        """A text with what the patterns find in it replaced."""
        clean, is_short = self._redactor.clean_texts, len(text) <= _LONGEST_CLEAN_TEXT
        if is_short and text in clean:
            return text
        found = self._searched(text, self._rules.in_texts)
        if is_short and found is text:
            if len(clean) > _MOST_CLEAN_TEXTS:
                clean.clear()
            clean.add(text)
        return found

    def secrets_out_of(self, text: str) -> str:
        """An error's text, of which the rules leave the words: libraries quote keys there."""
        return self._searched(text, self._rules.in_errors)

    def _searched(self, text: str, patterns: tuple[Pattern, ...]) -> str:
        if self._out_of_time:
            return self.instead_of(text)
        spans: list[tuple[int, int]] = []
        for pattern in patterns:
            try:
                spans += pattern.spans(text)
            except TimeoutError:
                self._out_of_time = True
                self._report_slow(pattern)
                return self.instead_of(text)
        return self._cut_out(text, spans) if spans else text

    def _cut_out(self, text: str, spans: list[tuple[int, int]]) -> str:
        pieces: list[str] = []
        at = 0
        for start, end in _merged(spans):
            pieces += (text[at:start], self._rules.instead_of(text[start:end]))
            at = end
        return "".join([*pieces, text[at:]])

    def _report_slow(self, pattern: Pattern) -> None:
        if pattern.name not in self._redactor.slow_patterns:
            self._redactor.slow_patterns.add(pattern.name)
            _logger.warning(
                "redact_patterns: %r ran out of time on a text; the text was redacted as a whole. "
                "Repetitions within repetitions, as in (a+)+, cause this. Said once for each "
                "pattern.",
                pattern.name,
            )

    def _as_kind(self, kind: Kind, name: str, value: Any, depth: int) -> Any:
        if kind is Kind.KEY or (kind is Kind.SECRET and not isinstance(value, bool)):
            return self.whole(value)
        if kind is Kind.ERROR_TEXT and isinstance(value, str):
            return self.error_text(value)
        if kind is Kind.STACK_TRACE and isinstance(value, str):
            return self.stack_trace(value)
        if kind in (Kind.TEXT, Kind.SECRET) or not self._rules.redact_prompts:
            return self._anything(name, value, depth)
        return self._content(kind, value)

    def _content(self, kind: Kind, value: Any) -> Any:
        if kind is Kind.LABEL and is_label(value):
            return self._anything("", value, 0)
        return redact_messages(value, self)

    def _anything(self, path: str, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            return self.whole(value)
        if isinstance(value, Mapping):
            return self._mapping(path, cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
            items = [self._anything(path, item, depth + 1) for item in cast("Sequence[Any]", value)]
            return items if isinstance(value, list) else tuple(items)
        return self._scalar(path, value, depth)

    def _scalar(self, path: str, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text_or_json(path, value, depth)
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return self._number(value)
        if isinstance(value, (bytes, bytearray)):
            return self._bytes(bytes(value))
        return self.text(str(value))

    def _mapping(self, path: str, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = str(key)
            kind = self._names.nested_kind(path, name)
            inner = f"{path}.{name}" if path else name
            found[self.text(name)] = self._as_kind(kind, inner, item, depth + 1)
        return found

    def _number(self, value: int) -> int | str:
        if -_SMALLEST_NUMBER < value < _SMALLEST_NUMBER:
            return value
        as_text = str(value)
        found = self.text(as_text)
        return value if found == as_text else found

    def _bytes(self, value: bytes) -> bytes:
        # Latin-1 takes any bytes, and what the patterns look for is ASCII.
        as_text = value.decode("latin-1")
        found = self.text(as_text)
        return value if found == as_text else found.encode("utf-8", errors="replace")

    def _text_or_json(self, path: str, text: str, depth: int) -> str:
        parsed = parse_json(text)
        if parsed is None or depth > _DEEPEST:
            return self.text(text)
        found = self._anything(path, parsed, depth + 1)
        return text if found == parsed else compact(found)


def as_dict(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of attributes; empty for none."""
    return dict(attributes) if attributes else {}


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _plain_text(value: Any) -> str:
    return compact(value) if isinstance(value, (dict, list, tuple)) else str(value)
