"""Redaction of spans by the options `redact_*`: `RedactionSpanProcessor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from llamatelemetry.otel._sdk_private import replace_span_parts, span_lock, span_part
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.processor_base import RedactionProcessor, redact_scope
from llamatelemetry.otel.redaction.redactor import Redaction, Redactor, as_dict
from llamatelemetry.otel.redaction.secret_spans import bounded_list, drop_parts, drop_text

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

    Examples:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        >>> from llamatelemetry.otel import RedactionSpanProcessor
        >>> exporter, provider = InMemorySpanExporter(), TracerProvider()
        >>> provider.add_span_processor(RedactionSpanProcessor(patterns=["email"]))
        >>> provider.add_span_processor(SimpleSpanProcessor(exporter))
        >>> with provider.get_tracer("shop").start_as_current_span("order") as span:
        ...     span.set_attribute("customer", "ada@example.com")
        >>> exporter.get_finished_spans()[0].attributes["customer"]
        '[REDACTED]'
        >>> RedactionSpanProcessor(patterns=["emial"])
        Traceback (most recent call last):
        ValueError: Unknown pattern 'emial'. Did you mean 'email'? ...
    """

    def _on_ending(self, span: Span) -> None:
        # The lock keeps two redactors of a concurrent pipeline from overwriting each other's result.
        with span_lock(span):
            self._redact(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Redact additions since `OnEnding`, or everything in an SDK without `OnEnding`."""
        self._redact(span)

    def _redact(self, span: ReadableSpan) -> None:
        try:
            before = _RedactedAttributes.of(span)
            if not (self._redactor in before.done_by and before.is_unchanged(span)):
                self._redact_from(span, before)
        except Exception as error:
            drop_parts(span, drop_text)
            fail_closed.log_once("a span", error)

    def _redact_from(self, span: ReadableSpan, before: _RedactedAttributes) -> None:
        own = before if self._redactor in before.done_by else _NOT_REDACTED
        redaction = self._redactor.start()
        given = span_part(span, "attributes")
        redacted = {
            name: value if own.has_result(name, value) else redaction.attribute(name, value)
            for name, value in as_dict(given).items()
        }
        attributes = _with_history(redacted, given, self._redactor, before)
        replace_span_parts(
            span,
            name=redaction.text(span.name),
            status=span.status if own.status is span.status else _status(span, redaction),
            events=bounded_list(
                [self._event(each, redaction) for each in span.events], span.dropped_events
            ),
            links=bounded_list(
                [self._link(each, redaction) for each in span.links], span.dropped_links
            ),
            resource=self._resources.redact(span.resource),
            instrumentation_scope=redact_scope(span.instrumentation_scope, redaction),
            attributes=attributes,
        )
        attributes.remember(span)

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
        super().__init__(attributes=values)
        self.dropped = dropped
        self.done_by: tuple[Redactor, ...] = ()
        self.status: object = None
        self._result_values: dict[str, Any] = {}
        self._result_parts: tuple[object, ...] = ()

    @classmethod
    def of(cls, span: ReadableSpan) -> _RedactedAttributes:
        """Return the redacted attributes of the span, empty ones if it is not redacted yet."""
        present = span_part(span, "attributes")
        return present if isinstance(present, cls) else _NOT_REDACTED

    def remember(self, span: ReadableSpan) -> None:
        """Remember the state of the span after redaction."""
        self.status = span.status
        self._result_values = dict(self.copy())
        self._result_parts = _parts_of(span)

    def has_result(self, name: str, value: object) -> bool:
        """Return whether the value is the result of earlier redaction: do not hash a hash."""
        return self._result_values.get(name, self) is value

    def is_unchanged(self, span: ReadableSpan) -> bool:
        """Return whether the span is unchanged since its redaction."""
        now = _parts_of(span)
        return (
            len(now) == len(self._result_parts)
            and all(a is b for a, b in zip(now, self._result_parts, strict=True))
            and len(self._result_values) == len(self)
            and all(self.has_result(name, value) for name, value in self.copy().items())
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


def _parts_of(span: ReadableSpan) -> tuple[object, ...]:
    own = (span.name, span.status, span.resource, span.instrumentation_scope)
    return (*own, *span.events, None, *span.links)


def _status(span: ReadableSpan, redaction: Redaction) -> Status:
    status: Status = span.status
    if not status.description:
        return status
    scope = getattr(span.instrumentation_scope, "name", None)
    if scope in _STATUS_WITHOUT_CONTENT:
        described = redaction.redact_secrets(status.description)
    else:
        types = [as_dict(event.attributes).get("exception.type") for event in span.events]
        types.append(as_dict(span.attributes).get("error.type"))
        described = redaction.error_text(status.description, types)
    return Status(status.status_code, described)
