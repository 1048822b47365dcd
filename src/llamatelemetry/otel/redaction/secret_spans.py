"""Redaction of secrets in spans when no redaction is configured: `SecretsSpanProcessor`.

Every set-up has this processor, so importing this module does not load the rules and patterns.
The first span with something to examine does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.status import Status

from llamatelemetry._limits import REJECTS, Limit
from llamatelemetry.otel._sdk_private import has_on_ending, replace_span_parts, span_lock
from llamatelemetry.otel.redaction import fail_closed

if TYPE_CHECKING:
    from llamatelemetry.otel.redaction.redactor import Redaction, Redactor

_HARMLESS: Final = Limit("harmless_names", 4096, "Names of attributes without secrets", REJECTS)


class SecretsSpanProcessor(SpanProcessor):
    """Redacts secrets when no redaction is configured: headers, passwords and keys in URLs.

    HTTP instrumentations record URLs with their query, and headers if configured to. Exceptions
    of HTTP libraries quote the URL, too, in the status description and in exception events. For a
    span without any of these, only the attribute names are read.
    """

    def __init__(self) -> None:
        self._redactor: Redactor | None = None
        self._harmless_names: set[str] = set()
        self._has_on_ending = has_on_ending()

    def _on_ending(self, span: Span) -> None:
        with span_lock(span):
            self._redact(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Redact here in an SDK without `OnEnding`."""
        if not self._has_on_ending:
            self._redact(span)

    def _redact(self, span: ReadableSpan) -> None:
        try:
            names = span.attributes
            has_names = names and not self._harmless_names.issuperset(names)
            if has_names or span.events or span.links or span.status.description:
                self._redact_parts(span, self._start())
        except Exception as error:
            drop_parts(span, _drop_secrets)
            # An object can end a span when the interpreter cannot import any more. By then, the
            # exporters have shut down.
            if not sys.is_finalizing():
                fail_closed.log_once("the secrets of a span", error)

    def _start(self) -> Redaction:
        redactor = self._redactor
        if redactor is None:
            from llamatelemetry.otel.redaction.redactor import Redactor
            from llamatelemetry.otel.redaction.rules import Rules

            # Without a lock: two threads may create one each, which differ only in their caches.
            redactor = self._redactor = Redactor(Rules(redact_prompts=False))
        return redactor.start()

    def _redact_parts(self, span: ReadableSpan, redaction: Redaction) -> None:
        parts: dict[str, Any] = {}
        attributes = self._without_secrets(span.attributes, redaction)
        if attributes is not None:
            attributes.dropped = span.dropped_attributes
            parts["attributes"] = attributes
        if span.status.description:
            described = redaction.redact_secrets(span.status.description)
            if described != span.status.description:
                parts["status"] = Status(span.status.status_code, described)
        events = [self._event(each, redaction) for each in span.events]
        if any(event is not given for event, given in zip(events, span.events, strict=True)):
            parts["events"] = bounded_list(events, span.dropped_events)
        links = [self._link(each, redaction) for each in span.links]
        if any(link is not given for link, given in zip(links, span.links, strict=True)):
            parts["links"] = bounded_list(links, span.dropped_links)
        if parts:
            replace_span_parts(span, **parts)

    def _event(self, event: Event, redaction: Redaction) -> Event:
        kept = self._without_secrets(event.attributes, redaction)
        return event if kept is None else Event(event.name, kept, event.timestamp)

    def _link(self, link: Link, redaction: Redaction) -> Link:
        kept = self._without_secrets(link.attributes, redaction)
        return link if kept is None else Link(link.context, kept)

    def _without_secrets(
        self, given: Mapping[str, Any] | None, redaction: Redaction
    ) -> BoundedAttributes | None:
        """Return a copy of attributes without secrets, or `None` if there are none to redact."""
        if not given or self._harmless_names.issuperset(given):
            return None
        values = dict(given)
        found = {
            name: redaction.attribute(name, value)
            for name, value in values.items()
            if self._may_hold_secret(name, redaction)
        }
        return BoundedAttributes(attributes=values | found) if found else None

    def _may_hold_secret(self, name: str, redaction: Redaction) -> bool:
        if redaction.may_hold_secret(name):
            return True
        if name not in self._harmless_names and _HARMLESS.has_room(self._harmless_names):
            self._harmless_names.add(name)
        return False


def bounded_list(items: list[Any], dropped: int) -> Any:
    """Return the events or links of a span as the SDK stores them."""
    copied = cast("Any", BoundedList(None))
    copied.extend(items)
    copied.dropped = dropped
    return copied


def drop_text(stored: object) -> object:
    """Return a field of a span without text: only numbers, times and ids."""
    if isinstance(stored, str):
        return fail_closed.FAILED_SPAN_NAME
    if isinstance(stored, Status):
        return Status(stored.status_code)
    if isinstance(stored, (Resource, InstrumentationScope)):
        return Resource({}) if isinstance(stored, Resource) else None
    if isinstance(stored, Sequence) and not isinstance(stored, SpanContext):
        return bounded_list([], getattr(cast("Any", stored), "dropped", 0))
    if isinstance(stored, Mapping):
        return BoundedAttributes(
            attributes=fail_closed.numbers_only(cast("Mapping[str, Any]", stored))
        )
    return stored


def _drop_secrets(stored: object) -> object:
    # Names and the resource are kept: this processor does not redact them either.
    if isinstance(stored, (str, Resource, InstrumentationScope)):
        return stored
    return drop_text(stored)


def drop_parts(span: object, drop: Callable[[object], object]) -> None:
    """Apply `drop` to each field of a span, by type, because a field may be renamed or missing."""
    for field, stored in dict(getattr(span, "__dict__", {})).items():
        setattr(span, field, drop(stored))
