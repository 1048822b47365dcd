"""Redaction of log records."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.attribute_names import is_content_event
from llamatelemetry.otel.redaction.processor_base import RedactionProcessor, redact_scope
from llamatelemetry.otel.redaction.redactor import Redaction

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

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

    Examples:
        >>> from opentelemetry.sdk._logs import LoggerProvider
        >>> from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
        >>> from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
        >>> from llamatelemetry.otel import RedactionLogProcessor
        >>> exporter, provider = InMemoryLogRecordExporter(), LoggerProvider()
        >>> provider.add_log_record_processor(RedactionLogProcessor(patterns=["email"]))
        >>> provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        >>> provider.get_logger("shop").emit(body="mail to ada@example.com")
        >>> exporter.get_finished_logs()[0].log_record.body
        'mail to [REDACTED]'
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
        record.event_name = record.event_name and redaction.text(record.event_name)
        record.severity_text = record.severity_text and redaction.text(record.severity_text)
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
