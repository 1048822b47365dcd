"""Span processors that redact: `RedactionSpanProcessor`, and `SecretsSpanProcessor` by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.attribute_names import URLS, AttributeKind
from llamatelemetry.otel.redaction.processor_base import RedactionProcessor, redact_scope
from llamatelemetry.otel.redaction.redactor import Redaction, Redactor, as_dict
from llamatelemetry.otel.redaction.rules import Rules

# In these scopes genai.errors builds the status from an error class, an HTTP status and the
# server's error code, so it cannot quote a prompt.
_STATUS_WITHOUT_CONTENT: Final = frozenset(
    {
        "llamatelemetry_instrumentation_openai",
        "llamatelemetry_instrumentation_llamacpp",
        "llamatelemetry_instrumentation_transformers",
        "llamatelemetry.llama",
        "llamatelemetry.inference",
    }
)


_HAS_ON_ENDING: Final = hasattr(SpanProcessor, "_on_ending")
_MAX_CACHED_NAMES: Final = 4096


class RedactionSpanProcessor(RedactionProcessor, SpanProcessor):
    r"""Redacts spans before they are exported.

    The processor acts in `OnEnding`, before the SDK passes the finished span to any processor.
    Its position among the processors therefore does not matter. Attributes that another
    processor adds to the finished span are redacted if that processor is in front of this one.

    Redacted are attributes with all nested values, JSON text included; events and links; the
    status description, exception messages and stack traces; the span name; and the attributes
    of resource and scope. If redaction fails, all text of the span is dropped.

    | Arguments | Redacted |
    |---|---|
    | `()` | Prompts, completions, and arguments and results of tools |
    | `(patterns=["email", "jwt"])` | Also e-mail addresses and JSON web tokens in any text |
    | `(patterns=[r"ACME-\d+"])` | Also text that matches a regular expression |
    | `(redact_keys=["user.*"])` | Also attributes, and fields of maps, with these names |
    | `(False, patterns=["pii"])` | Only personal data; prompts and completions stay |

    Args:
        redact_prompts: Whether prompts, completions, error messages, and arguments, results and
            definitions of tools are redacted, under the names of all comparable
            instrumentations.
        redact_keys: Attribute names, exact or with `*`, in any case.
        patterns: Names of built-in patterns, `"pii"`, `"secrets"` or `"all"`, and regular
            expressions.
        replacement: Text that replaces redacted text.

    Raises:
        ValueError: A pattern is invalid.
        ImportError: A regular expression was given, and the package `regex` is missing.
    """

    def _on_ending(self, span: Span) -> None:
        # Private in the SDK; the specification calls it OnEnding. The lock keeps two redactors
        # of a concurrent pipeline from overwriting each other's result.
        live: Any = span
        with live._lock:
            self._redact(live)

    def on_end(self, span: ReadableSpan) -> None:
        """Redact what was added since `OnEnding`, or everything in an SDK without `OnEnding`."""
        self._redact(span)

    def _redact(self, span: Any) -> None:
        try:
            before = _RedactedAttributes.of(span)
            if not (self._redactor in before.done_by and before.is_unchanged(span)):
                self._redact_from(span, before)
        except Exception as error:
            _drop_text(span)
            fail_closed.log_once("a span", error)

    def _redact_from(self, span: Any, before: _RedactedAttributes) -> None:
        own = before if self._redactor in before.done_by else _NOT_REDACTED
        redaction = self._redactor.start()
        types = _error_types(span)
        given = span._attributes
        attributes = {
            name: value if own.has_result(name, value) else redaction.attribute(name, value)
            for name, value in as_dict(given).items()
        }
        if own.status is not span._status:
            span._status = _status(span, redaction, types)
        span._name = redaction.text(span._name)
        span._events = _bounded_list(
            span._events, [self._event(e, redaction) for e in span._events]
        )
        span._links = _bounded_list(
            span._links, [self._link(each, redaction) for each in span._links]
        )
        span._resource = self._resources.redact(span._resource)
        span._instrumentation_scope = redact_scope(span._instrumentation_scope, redaction)
        span._attributes = _with_history(attributes, given, self._redactor, before)
        span._attributes.remember(span)

    def _event(self, event: Any, redaction: Redaction) -> Any:
        given = event.attributes
        if isinstance(given, _RedactedAttributes) and self._redactor in given.done_by:
            return event
        kept = _with_history(redaction.event(event.name, given), given, self._redactor)
        return Event(redaction.text(event.name), kept, event.timestamp)

    def _link(self, link: Link, redaction: Redaction) -> Link:
        given: Any = link.attributes
        if not given or (
            isinstance(given, _RedactedAttributes) and self._redactor in given.done_by
        ):
            return link
        kept = _with_history(redaction.attributes(given), given, self._redactor)
        # Copy the link, because the application may use the same object for other spans.
        return Link(link.context, kept)


class _RedactedAttributes(BoundedAttributes):
    """Attributes after redaction. Those of a span also remember the redacted rest of the span.

    If a span has attributes of another class, a processor replaced them after redaction.
    """

    def __init__(self, values: Mapping[str, Any], dropped: int = 0) -> None:
        super().__init__()
        # The setter of the base class would validate values that are valid already.
        self._dict = dict(values)
        self.dropped = dropped
        self._immutable = True
        self.done_by: tuple[Redactor, ...] = ()
        self.status: object = None
        self._result_values: dict[str, Any] = {}
        self._result_parts: tuple[object, ...] = ()

    @classmethod
    def of(cls, span: Any) -> _RedactedAttributes:
        """Return the redacted attributes of the span, empty ones if it is not redacted yet."""
        return span._attributes if isinstance(span._attributes, cls) else _NOT_REDACTED

    def remember(self, span: Any) -> None:
        """Remember the state of the span after redaction."""
        self.status = span._status
        self._result_values = dict(self._dict)
        self._result_parts = _parts_of(span)

    def has_result(self, name: str, value: object) -> bool:
        """Return whether the value is the result of earlier redaction: do not hash a hash."""
        return self._result_values.get(name, self) is value

    def is_unchanged(self, span: Any) -> bool:
        """Return whether the span is unchanged since its redaction."""
        now = _parts_of(span)
        return (
            len(now) == len(self._result_parts)
            and all(a is b for a, b in zip(now, self._result_parts, strict=True))
            and len(self._result_values) == len(self._dict)
            and all(self.has_result(name, value) for name, value in self._dict.items())
        )


_NOT_REDACTED: Final = _RedactedAttributes({})


def _with_history(
    values: Mapping[str, Any],
    given: Any,
    redactor: Redactor,
    before: _RedactedAttributes = _NOT_REDACTED,
) -> _RedactedAttributes:
    kept = _RedactedAttributes(values, getattr(given, "dropped", 0))
    earlier = given.done_by if isinstance(given, _RedactedAttributes) else before.done_by
    kept.done_by = (*(each for each in earlier if each is not redactor), redactor)
    return kept


def _parts_of(span: Any) -> tuple[object, ...]:
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
        described = redaction.redact_secrets(status.description)
    else:
        described = redaction.error_text(status.description, known_types)
    return Status(status.status_code, described)


def _bounded_list(given: Any, items: list[Any]) -> Any:
    copied = cast("Any", BoundedList(None))
    copied.extend(items)
    copied.dropped = getattr(given, "dropped", 0)
    return copied


def _drop_text(span: Any) -> None:
    span._attributes = _RedactedAttributes(fail_closed.numbers_only(span._attributes))
    span._name = fail_closed.FAILED_SPAN_NAME
    span._events = _bounded_list(span._events, [])
    span._links = _bounded_list(span._links, [])
    span._status = Status(span._status.status_code)
    span._resource = Resource({})
    span._instrumentation_scope = None


class SecretsSpanProcessor(SpanProcessor):
    """Redacts secrets when no redaction is configured: headers, passwords and keys in URLs.

    HTTP instrumentations record URLs with their query, and headers if configured to. For a span
    without such attributes, only the attribute names are read.
    """

    def __init__(self) -> None:
        self._redactor = Redactor(Rules(redact_prompts=False))
        self._names = self._redactor.rules.names
        self._harmless_names: set[str] = set()

    def _on_ending(self, span: Span) -> None:
        live: Any = span
        with live._lock:
            self._redact(live)

    def on_end(self, span: ReadableSpan) -> None:
        """Redact here in an SDK without `OnEnding`."""
        if not _HAS_ON_ENDING:
            self._redact(span)

    def _redact(self, span: Any) -> None:
        try:
            names = span._attributes
            if names and not self._harmless_names.issuperset(names):
                found = [name for name in names if self._is_secret(name)]
                if found:
                    self._replace(span, found)
        except Exception as error:
            span._attributes = BoundedAttributes(attributes=fail_closed.numbers_only(None))
            fail_closed.log_once("the secrets of a span", error)

    def _is_secret(self, name: str) -> bool:
        if name in URLS or self._names.kind(name) is AttributeKind.SECRET:
            return True
        if len(self._harmless_names) < _MAX_CACHED_NAMES:
            self._harmless_names.add(name)
        return False

    def _replace(self, span: Any, found: list[str]) -> None:
        redaction = self._redactor.start()
        given = span._attributes
        values = dict(given)
        values |= {name: redaction.attribute(name, values[name]) for name in found}
        replaced: Any = BoundedAttributes(attributes=values)
        replaced.dropped = getattr(given, "dropped", 0)
        span._attributes = replaced
