"""What is taken out of spans when nothing is to be redacted: keys, passwords and cookies."""

from __future__ import annotations

from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from . import failing
from .content import URLS, Kind
from .redaction import Redactor
from .rules import Rules

_TELLS_OF_ENDING = hasattr(SpanProcessor, "_on_ending")
_MOST_NAMES = 4096


class SecretsSpanProcessor(SpanProcessor):
    """Replaces headers that hold secrets, and keys in URLs, whoever has recorded them.

    HTTP instrumentations record the URL with its query, and headers when they are told to. Of a
    span without any of these only the attributes' names are looked at.
    """

    def __init__(self) -> None:
        self._redactor = Redactor(Rules(redact_prompts=False))
        self._names = self._redactor.rules.names
        self._harmless: set[str] = set()

    def _on_ending(self, span: Span) -> None:
        live: Any = span
        with live._lock:
            self._clean(live)

    def on_end(self, span: ReadableSpan) -> None:
        """Does it here in an SDK that does not tell of the ending."""
        if not _TELLS_OF_ENDING:
            self._clean(span)

    def _clean(self, span: Any) -> None:
        try:
            names = span._attributes
            if names and not self._harmless.issuperset(names):
                found = [name for name in names if self._is_secret(name)]
                if found:
                    self._replace(span, found)
        except Exception as error:
            span._attributes = BoundedAttributes(attributes=failing.without_texts(None))
            failing.report("the secrets of a span", error)

    def _is_secret(self, name: str) -> bool:
        if name in URLS or self._names.kind(name) is Kind.SECRET:
            return True
        if len(self._harmless) < _MOST_NAMES:
            self._harmless.add(name)
        return False

    def _replace(self, span: Any, found: list[str]) -> None:
        redaction = self._redactor.begin()
        given = span._attributes
        values = dict(given)
        values |= {name: redaction.attribute(name, values[name]) for name in found}
        replaced: Any = BoundedAttributes(attributes=values)
        replaced.dropped = getattr(given, "dropped", 0)
        span._attributes = replaced
