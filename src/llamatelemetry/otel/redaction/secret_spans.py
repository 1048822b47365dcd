"""What is taken out of spans when nothing is to be redacted: keys, passwords and cookies."""

from __future__ import annotations

from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from . import failing
from .content import URLS, Kind
from .redaction import Redactor
from .rules import Rules


class SecretsSpanProcessor(SpanProcessor):
    """Replaces headers that hold secrets, and keys in URLs, whoever has recorded them.

    HTTP instrumentations record the URL with its query, and headers when they are told to. Of a
    span without any of these only the attributes' names are looked at.
    """

    def __init__(self) -> None:
        self._redactor = Redactor(Rules(redact_prompts=False))
        self._names = self._redactor.rules.names

    def _on_ending(self, span: Span) -> None:
        live: Any = span
        with live._lock:
            self._clean(live)

    def on_end(self, span: ReadableSpan) -> None:
        """Does it again for what was added since, or in an SDK without that earlier call."""
        self._clean(span)

    def _clean(self, span: Any) -> None:
        try:
            found = [name for name in span._attributes or () if self._is_secret(name)]
            if found:
                self._replace(span, found)
        except Exception as error:
            span._attributes = BoundedAttributes(attributes=failing.without_texts(None))
            failing.report("the secrets of a span", error)

    def _is_secret(self, name: str) -> bool:
        return name in URLS or self._names.kind(name) is Kind.SECRET

    def _replace(self, span: Any, found: list[str]) -> None:
        redaction = self._redactor.begin()
        given = span._attributes
        values = dict(given)
        values |= {name: redaction.attribute(name, values[name]) for name in found}
        replaced: Any = BoundedAttributes(attributes=values)
        replaced.dropped = getattr(given, "dropped", 0)
        span._attributes = replaced
