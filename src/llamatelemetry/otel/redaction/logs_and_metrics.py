"""Redaction of log records, and of the resource of metrics."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from llamatelemetry.otel.log_processors import put_in_front, take_out
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.attribute_names import is_content_event
from llamatelemetry.otel.redaction.processor_base import RedactionProcessor, redact_scope
from llamatelemetry.otel.redaction.redactor import Redaction, Redactor
from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk.trace import SpanProcessor

# These libraries log whole requests and responses at debug level.
_CONTENT_LOGGERS: Final = frozenset(
    {
        *("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3"),
        *("requests", "litellm", "LiteLLM", "langchain", "llama_index", "transformers"),
        *("huggingface_hub", "botocore", "boto3", "aiohttp", "hpack", "h2", "mcp"),
    }
)
_INFO: Final = 9  # SeverityNumber.INFO
_TRACEBACK: Final = "Traceback (most recent call last):"


class RedactionLogProcessor(RedactionProcessor, LogRecordProcessor):
    """Redacts body, attributes, exception and resource of log records.

    Add it in front of the processors that export. `llamatelemetry.init()` adds one in front of
    all others for every `RedactionSpanProcessor`. Arguments and errors are those of that class.

    Bodies of GenAI events and debug messages of HTTP and model libraries are content and are
    redacted as a whole. In other messages of the application, only matches of the patterns are.
    """

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Redact a copy of the record for the following processors, not the application's own."""
        given = log_record.log_record
        try:
            log_record.log_record = self._redacted(log_record)
            log_record.resource = self._resources.redact(log_record.resource)
        except Exception as error:
            log_record.log_record = _drop_text(given)
            log_record.resource = Resource({})
            log_record.instrumentation_scope = None
            fail_closed.log_once("a log record", error)

    def enabled(self, **_: Any) -> bool:
        """Return `False`: a record is only needed if another processor exports it."""
        return False

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - signature of the SDK
        """Return `True`: this processor buffers nothing."""
        return True

    def _redacted(self, log_record: ReadWriteLogRecord) -> LogRecord:
        record = copy.copy(log_record.log_record)
        redaction = self._redactor.start()
        scope = log_record.instrumentation_scope
        given: Any = record.attributes
        attributes = dict(given or {})
        record.body = self._body(record, attributes, getattr(scope, "name", None), redaction)
        record.attributes = _bounded_attributes(
            given, redaction.event(_event_name(record, attributes), attributes)
        )
        # The SDK has copied the exception to the attributes, which are redacted.
        record.exception = None
        log_record.instrumentation_scope = redact_scope(scope, redaction)
        return record

    def _body(
        self,
        record: LogRecord,
        attributes: dict[str, Any],
        logger: str | None,
        redaction: Redaction,
    ) -> Any:
        body: Any = record.body
        name = _event_name(record, attributes)
        if self.rules.redact_prompts:
            if is_content_event(name) or _is_library_debug_record(logger, record):
                return redaction.body(body, is_content=True)
            if isinstance(body, str):
                body = _strip_exception(body, attributes.get("exception.message"), redaction)
        return redaction.body(body, is_content=False)


def _event_name(record: LogRecord, attributes: dict[str, Any]) -> str:
    return record.event_name or str(attributes.get("event.name", ""))


def _is_library_debug_record(logger: str | None, record: LogRecord) -> bool:
    number = record.severity_number
    return (
        number is not None
        and number.value < _INFO
        and (logger or "").partition(".")[0] in _CONTENT_LOGGERS
    )


def _strip_exception(body: str, message: object, redaction: Redaction) -> str:
    """Return a log message without the message of the exception that was logged with it."""
    head, traceback, rest = body.partition(_TRACEBACK)
    if isinstance(message, str) and message.strip():
        head = head.replace(message, redaction.replacement_for(message))
    return head + redaction.stack_trace(traceback + rest) if traceback else head


def _bounded_attributes(given: Any, values: dict[str, Any]) -> BoundedAttributes:
    copied = BoundedAttributes(attributes=values, immutable=False)
    copied.dropped = getattr(given, "dropped", 0)
    return copied


def _drop_text(given: LogRecord) -> LogRecord:
    record = copy.copy(given)
    record.body = None
    record.attributes = BoundedAttributes(
        attributes=fail_closed.numbers_only(given.attributes), immutable=False
    )
    record.exception = None
    return record


class LogAndMetricRedaction:
    """Applies the rules of redacting span processors to log records and the metrics resource.

    Args:
        own_providers: Providers created by llamatelemetry, by signal. Providers of other signals
            are the application's.
    """

    def __init__(self, own_providers: Mapping[str, Any]) -> None:
        self._own_providers = own_providers
        self._processors: list[RedactionLogProcessor] = []
        self._redactors: list[Redactor] = []
        self._redacted: dict[str, Any] = {}
        if hasattr(os, "register_at_fork"):
            # The SDK's handler runs before this one. It detects resource attributes again that
            # may differ in the child, such as the command line.
            redact_again = weakref.WeakMethod(self._redact_metrics_resource)
            os.register_at_fork(after_in_child=lambda: (method := redact_again()) and method())

    def add(self, span_processors: Sequence[SpanProcessor]) -> None:
        """Apply the rules of the redacting processors among these."""
        found = [each for each in span_processors if isinstance(each, RedactionSpanProcessor)]
        if not found:
            return
        processors = [RedactionLogProcessor.from_rules(each.rules) for each in found]
        self._processors += processors
        provider = self._provider("logs")
        # Without a logger provider, no log record is exported.
        if provider is not None:
            put_in_front(provider, processors)
        self._redactors += [Redactor(each.rules) for each in found]
        self._redact_metrics_resource()

    def remove(self) -> None:
        """Remove the log processors from a logger provider that the application created."""
        if "logs" not in self._own_providers:
            take_out(self._provider("logs"), self._processors)

    def _provider(self, signal: str) -> Any:
        return self._own_providers.get(signal) or SIGNALS[signal].foreign

    def _redact_metrics_resource(self) -> None:
        """Redact new attributes of the metrics resource, because metrics have no processors.

        The processors of spans and log records redact the resource of each item themselves.
        """
        provider = self._provider("metrics")
        resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)
        if resource is None:
            return
        changed: dict[str, Any] = {}
        for name, value in resource.attributes.items():
            redacted = value
            if self._redacted.get(name, self) != value:
                for redactor in self._redactors:
                    redacted = redactor.start().attribute(name, redacted)
            if redacted != value:
                changed[name] = redacted
        if changed:
            self._redacted |= changed
            provider._update_resource(Resource(changed))
