"""Redaction of the values of one span, one log record or one resource."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from llamatelemetry._limits import Limit
from llamatelemetry.otel.redaction.attribute_names import (
    URLS,
    AttributeKind,
    is_content_event,
    is_label,
)
from llamatelemetry.otel.redaction.embedded import Unescaped, field_values
from llamatelemetry.otel.redaction.messages import compact_json, parse_json, redact_messages
from llamatelemetry.otel.redaction.patterns import Pattern
from llamatelemetry.otel.redaction.rules import Rules

_logger = logging.getLogger("llamatelemetry.otel.redaction")

# Card and phone numbers may be recorded as integers. Smaller integers are neither, and larger
# ones, such as timestamps, rarely match.
_MIN_SEARCHED_NUMBER: Final = 10**8
_MAX_DEPTH: Final = 32
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_CLEAN_TEXTS: Final = Limit("clean_texts", 4096, "Short texts without anything to redact")
_MAX_CACHED_TEXT_CHARS: Final = 128
_MAY_HOLD_SECRETS: Final = frozenset(
    {AttributeKind.SECRET, AttributeKind.ERROR_TEXT, AttributeKind.STACK_TRACE}
)

_FRAME: Final = re.compile(r'  File "[^"\n]*", line \d+, in \S+')
_FIRST_LINE: Final = "Traceback (most recent call last):"


class Redactor:
    """Rules with their caches, shared by all threads.

    `clean_texts` are short texts without anything to redact, such as model names and addresses.
    `slow_patterns` are the names of patterns whose time limit was exceeded and logged.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.clean_texts: dict[str, None] = {}
        self.slow_patterns: set[str] = set()

    def start(self) -> Redaction:
        """Start the redaction of one span, log record or resource."""
        return Redaction(self)


class Redaction:
    """The redaction of one span, log record or resource.

    If a pattern exceeds the time limit on a text, that text and all later ones are replaced
    without a search. A record therefore costs at most one time limit.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rules = redactor.rules
        self._names = redactor.rules.names
        self._out_of_time = False

    def attributes(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the attributes with redacted values and unchanged names."""
        return {name: self.attribute(name, value) for name, value in as_dict(given).items()}

    def attribute(self, name: str, value: Any) -> Any:
        """Return the redacted value of one attribute."""
        kind = self._names.kind(name)
        if kind is AttributeKind.TEXT:  # as are most
            return self._value(name, value, 0)
        return self._by_kind(kind, name, value, 0)

    def event(self, event: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the redacted attributes of an event. In a GenAI event they may be content."""
        if not is_content_event(event):
            return self.attributes(given)
        return {
            name: self._by_kind(self._names.nested_kind(event, name), name, value, 0)
            for name, value in as_dict(given).items()
        }

    def body(self, value: Any, *, is_content: bool) -> Any:
        """Return the redacted body of a log record, which may be a prompt or a completion."""
        if is_content and self._rules.redact_prompts:
            return redact_messages(value, self)
        return self._value("", value, 0)

    def error_text(self, text: str, known_type: Iterable[object] = ()) -> str:
        """Return the redacted message of an error, which may quote a prompt or a key.

        A class name of the error among `known_type`, at the start of the text, is kept.
        """
        if not self._rules.redact_prompts or not text:
            return self.redact_secrets(text)
        head, colon, rest = text.partition(": ")
        kept = {str(name).rpartition(".")[2] for name in known_type if name}
        if head.rpartition(".")[2] in kept and (colon or head == text):
            return f"{head}{colon}{self.replacement_for(rest)}"
        return self.replacement_for(text)

    def stack_trace(self, text: str) -> str:
        """Return a stack trace with only file, line and function of each frame.

        Source lines are dropped because they may hold literals. Everything behind the first
        error message is dropped because a message may contain lines that look like frames.
        """
        if not self._rules.redact_prompts:
            return self.redact_secrets(text)
        lines = text.split("\n")
        kept = [_FIRST_LINE] if lines[0] == _FIRST_LINE else []
        if not kept and not _FRAME.fullmatch(lines[0]):
            return self.replacement_for(text)
        for line in lines[len(kept) :]:
            if _FRAME.fullmatch(line):
                kept.append(self.redact_secrets(line))
            elif not line.startswith("    "):
                break
        return "\n".join([*kept, self.replacement_for(text)])

    def may_hold_secret(self, name: str) -> bool:
        """Return whether an attribute of this name may hold a header, password or key."""
        return name in URLS or self._names.kind(name) in _MAY_HOLD_SECRETS

    def is_key(self, name: str) -> bool:
        """Return whether a field of this name is redacted by the option `redact_keys`."""
        return self._names.kind(name) is AttributeKind.KEY

    def replacement_for(self, text: str) -> str:
        """Return the replacement for a whole text. An empty text stays empty."""
        return self._rules.replacement_for(text) if text else text

    def whole(self, value: Any) -> Any:
        """Return the replacement for a whole value. A list of texts keeps its length."""
        if value is None or isinstance(value, str):
            return value if value is None else self.replacement_for(value)
        if isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            if items and all(isinstance(item, str) for item in items):
                replaced = [self.replacement_for(item) for item in items]
                return replaced if isinstance(value, list) else tuple(replaced)
        return self.replacement_for(_plain_text(value))

    def text(self, text: str) -> str:
        """Return the text with all matches of the patterns replaced."""
        clean = self._redactor.clean_texts
        if text in clean:
            return text
        redacted = self._search(text, self._rules.text_patterns)
        if redacted is text and len(text) <= _MAX_CACHED_TEXT_CHARS:
            clean[text] = None
            _CLEAN_TEXTS.trim(clean)
        return redacted

    def redact_secrets(self, text: str) -> str:
        """Return an error message without secrets, because libraries quote keys in messages."""
        return self._search(text, self._rules.error_patterns)

    def _search(self, text: str, patterns: tuple[Pattern, ...]) -> str:
        if self._out_of_time:
            return self.replacement_for(text)
        unescaped = Unescaped.of(text)
        spans = list(field_values(text, self._is_redacted_field))
        if unescaped is not None:
            found = field_values(unescaped.text, self._is_redacted_field)
            spans += map(unescaped.given_span, found)
        for pattern in patterns:
            try:
                spans += pattern.spans(text)
                if unescaped is not None:
                    spans += map(unescaped.given_span, pattern.spans(unescaped.text))
            except TimeoutError:
                self._out_of_time = True
                self._log_slow(pattern)
                return self.replacement_for(text)
        return self._replace(text, spans) if spans else text

    def _is_redacted_field(self, name: str) -> bool:
        kind = self._names.kind(name)
        if kind in (AttributeKind.KEY, AttributeKind.SECRET):
            return True
        return self._rules.redact_prompts and kind not in (AttributeKind.TEXT, AttributeKind.LABEL)

    def _replace(self, text: str, spans: list[tuple[int, int]]) -> str:
        pieces: list[str] = []
        at = 0
        for start, end in _merged(spans):
            pieces += (text[at:start], self._rules.replacement_for(text[start:end]))
            at = end
        return "".join([*pieces, text[at:]])

    def _log_slow(self, pattern: Pattern) -> None:
        if pattern.name not in self._redactor.slow_patterns:
            self._redactor.slow_patterns.add(pattern.name)
            _logger.warning(
                "redact_patterns: %r exceeded its time limit on a text, redacted the whole text. Avoid "
                "nested repetitions such as (a+)+. Logged once per pattern",
                pattern.name,
            )

    def _by_kind(self, kind: AttributeKind, name: str, value: Any, depth: int) -> Any:
        if kind is AttributeKind.KEY or (
            kind is AttributeKind.SECRET and not isinstance(value, bool)
        ):
            return self.whole(value)
        if kind is AttributeKind.ERROR_TEXT and isinstance(value, str):
            return self.error_text(value)
        if kind is AttributeKind.STACK_TRACE and isinstance(value, str):
            return self.stack_trace(value)
        if kind in (AttributeKind.TEXT, AttributeKind.SECRET) or not self._rules.redact_prompts:
            return self._value(name, value, depth)
        return self._content(kind, value)

    def _content(self, kind: AttributeKind, value: Any) -> Any:
        if kind is AttributeKind.LABEL and is_label(value):
            return self._value("", value, 0)
        return redact_messages(value, self)

    def _value(self, path: str, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return self.whole(value)
        if type(value) in _SCALARS:  # quicker than the tests of abstract classes
            return self._scalar(path, value, depth)
        if isinstance(value, Mapping):
            return self._mapping(path, cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
            items = [self._value(path, item, depth + 1) for item in cast("Sequence[Any]", value)]
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
            return self._bytes(path, bytes(value), depth)
        return self.text(str(value))

    def _mapping(self, path: str, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = str(key)
            kind = self._names.nested_kind(path, name)
            inner = f"{path}.{name}" if path else name
            found[self.text(name)] = self._by_kind(kind, inner, item, depth + 1)
        return found

    def _number(self, value: int) -> int | str:
        if -_MIN_SEARCHED_NUMBER < value < _MIN_SEARCHED_NUMBER:
            return value
        as_text = str(value)
        found = self.text(as_text)
        return value if found == as_text else found

    def _bytes(self, path: str, value: bytes, depth: int) -> bytes:
        try:
            as_text = value.decode()
        except UnicodeDecodeError:
            # Latin-1 decodes any bytes, and the patterns match ASCII.
            as_text = value.decode("latin-1")
        found = self._text_or_json(path, as_text, depth)
        return value if found == as_text else found.encode("utf-8", errors="replace")

    def _text_or_json(self, path: str, text: str, depth: int) -> str:
        parsed = parse_json(text)
        if parsed is None or depth > _MAX_DEPTH:
            return self.text(text)
        found = self._value(path, parsed, depth + 1)
        return text if found == parsed else compact_json(found)


def as_dict(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of attributes, an empty one for `None`."""
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
    return compact_json(value) if isinstance(value, (dict, list, tuple)) else str(value)
