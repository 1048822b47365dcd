"""RedactionSpanProcessor: takes out of spans what must not leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from . import failing
from .redaction import Redaction, Redactor, as_dict
from .resources import cleaned_scope
from .rule_based import RuleBased

# Their statuses are made of a class, an HTTP status and a server's error code, by
# genai.errors: nothing that was said can be in them.
_STATUS_WITHOUT_CONTENT: Final = frozenset(
    {
        "llamatelemetry_instrumentation_openai",
        "llamatelemetry_instrumentation_llamacpp",
        "llamatelemetry_instrumentation_transformers",
        "llamatelemetry.llama",
        "llamatelemetry.inference",
    }
)


class RedactionSpanProcessor(RuleBased, SpanProcessor):
    r"""Redacts spans before any exporter gets them.

    It acts while a span is ending, before the SDK hands the finished span to any processor, so
    that it may stand anywhere among the others. What a later processor still adds to the
    finished span is redacted too, if that processor stands before this one.

    What it covers: attributes with all that is nested in them, JSON in texts included; events,
    links, status text, exception messages and stack traces, the span's name, and the
    attributes of its resource and scope. When it fails, all texts of the span are dropped.

    ==================================  ====================================================
    ``RedactionSpanProcessor()``        all that was said to and by a model and its tools
    ``(patterns=["email", "jwt"])``     and e-mail addresses and JSON web tokens anywhere
    ``(patterns=[r"ACME-\d+"])``         and texts that a regular expression matches
    ``(redact_keys=["user.*"])``        and attributes, and fields of maps, of these names
    ``(False, patterns=["pii"])``       texts about persons only; what was said stays
    ==================================  ====================================================

    Args:
        redact_prompts: whether prompts, completions, tool arguments, results and definitions
            are redacted, under the names of all comparable instrumentations, and error texts.
        redact_keys: names, exact or with `*`, in any case.
        patterns: names of built-in ones, "pii", "secrets" or "all", and regular expressions.
        replacement: stands in the place of what was redacted.

    Raises:
        ValueError: a pattern that is none.
        ImportError: regular expressions of your own without the package `regex`.
    """

    def _on_ending(self, span: Span) -> None:
        # Private in the SDK, but it is what OpenTelemetry's specification calls OnEnding. Two
        # redactors of a concurrent pipeline must not overwrite one another's work.
        live: Any = span
        with live._lock:
            self._redact(live)

    def on_end(self, span: ReadableSpan) -> None:
        """Redacts what came after the span was ending, or all of it in an SDK without that."""
        self._redact(span)

    def _redact(self, span: Any) -> None:
        try:
            before = _Redacted.of(span)
            if not (self._redactor in before.done_by and before.is_unchanged(span)):
                self._redact_from(span, before)
        except Exception as error:
            _drop_texts(span)
            failing.report("a span", error)

    def _redact_from(self, span: Any, before: _Redacted) -> None:
        own = before if self._redactor in before.done_by else _UNTOUCHED
        redaction = self._redactor.begin()
        types = _error_types(span)
        given = span._attributes
        attributes = {
            name: value if own.left(name, value) else redaction.attribute(name, value)
            for name, value in as_dict(given).items()
        }
        if own.status is not span._status:
            span._status = _status(span, redaction, types)
        span._name = redaction.text(span._name)
        span._events = _list_like(span._events, [self._event(e, redaction) for e in span._events])
        span._links = _list_like(span._links, [self._link(each, redaction) for each in span._links])
        span._resource = self._resources.cleaned(span._resource)
        span._instrumentation_scope = cleaned_scope(span._instrumentation_scope, redaction)
        span._attributes = _kept(attributes, given, self._redactor, before)
        span._attributes.left_by(span)

    def _event(self, event: Any, redaction: Redaction) -> Any:
        given = event.attributes
        if isinstance(given, _Redacted) and self._redactor in given.done_by:
            return event
        kept = _kept(redaction.event(event.name, given), given, self._redactor)
        return Event(redaction.text(event.name), kept, event.timestamp)

    def _link(self, link: Link, redaction: Redaction) -> Link:
        given: Any = link.attributes
        if not given or (isinstance(given, _Redacted) and self._redactor in given.done_by):
            return link
        kept = _kept(redaction.attributes(given), given, self._redactor)
        # A new one: the application may have given this link to other spans as well.
        return Link(link.context, kept)


class _Redacted(BoundedAttributes):
    """Redacted attributes; those of a span also remember how all of the span was left.

    Anything else in the place of a span's attributes means that somebody has changed it since.
    """

    def __init__(self, values: Mapping[str, Any], dropped: int = 0) -> None:
        super().__init__()
        # Not by the base's setter, which would clean what is clean.
        self._dict = dict(values)
        self.dropped = dropped
        self._immutable = True
        self.done_by: tuple[Redactor, ...] = ()
        self.status: object = None
        self._left_values: dict[str, Any] = {}
        self._left_rest: tuple[object, ...] = ()

    @classmethod
    def of(cls, span: Any) -> _Redacted:
        """What an earlier pass has left on the span."""
        return span._attributes if isinstance(span._attributes, cls) else _UNTOUCHED

    def left_by(self, span: Any) -> None:
        """Remembers the span as it is now."""
        self.status = span._status
        self._left_values = dict(self._dict)
        self._left_rest = _rest_of(span)

    def left(self, name: str, value: object) -> bool:
        """Whether this value is one that an earlier pass has left: a hash is not hashed again."""
        return self._left_values.get(name, self) is value

    def is_unchanged(self, span: Any) -> bool:
        """Whether the span is as it was left."""
        now = _rest_of(span)
        return (
            len(now) == len(self._left_rest)
            and all(a is b for a, b in zip(now, self._left_rest, strict=True))
            and len(self._left_values) == len(self._dict)
            and all(self.left(name, value) for name, value in self._dict.items())
        )


_UNTOUCHED: Final = _Redacted({})


def _kept(
    values: Mapping[str, Any], given: Any, redactor: Redactor, before: _Redacted = _UNTOUCHED
) -> _Redacted:
    kept = _Redacted(values, getattr(given, "dropped", 0))
    earlier = given.done_by if isinstance(given, _Redacted) else before.done_by
    kept.done_by = (*(each for each in earlier if each is not redactor), redactor)
    return kept


def _rest_of(span: Any) -> tuple[object, ...]:
    own = (span._name, span._status, span._resource, span._instrumentation_scope)
    return (*own, *span._events, None, *span._links)


def _error_types(span: Any) -> list[object]:
    found = [as_dict(event.attributes).get("exception.type") for event in span._events]
    return [*found, as_dict(span._attributes).get("error.type")]


def _status(span: Any, redaction: Redaction, known_types: list[object]) -> Status:
    status: Status = span._status
    if not status.description:
        return status
    scope = getattr(span._instrumentation_scope, "name", None)
    if scope in _STATUS_WITHOUT_CONTENT:
        described = redaction.secrets_out_of(status.description)
    else:
        described = redaction.error_text(status.description, known_types)
    return Status(status.status_code, described)


def _list_like(given: Any, items: list[Any]) -> Any:
    made = cast("Any", BoundedList(None))
    made.extend(items)
    made.dropped = getattr(given, "dropped", 0)
    return made


def _drop_texts(span: Any) -> None:
    span._attributes = _Redacted(failing.without_texts(span._attributes))
    span._name = failing.NAME
    span._events = _list_like(span._events, [])
    span._links = _list_like(span._links, [])
    span._status = Status(span._status.status_code)
    span._resource = failing.resource()
    span._instrumentation_scope = None
