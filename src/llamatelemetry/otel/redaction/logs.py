"""RedactionLogProcessor: takes out of log records and events what must not leave."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from . import failing
from .content import is_content_event
from .redaction import Redaction
from .resources import cleaned_scope
from .rule_based import RuleBased

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

# At debug level these log whole requests and replies.
_TALKATIVE: Final = frozenset(
    {
        *("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3"),
        *("requests", "litellm", "LiteLLM", "langchain", "llama_index", "transformers"),
        *("huggingface_hub", "botocore", "boto3", "aiohttp", "hpack", "h2", "mcp"),
    }
)
_INFO: Final = 9  # SeverityNumber.INFO
_TRACEBACK: Final = "Traceback (most recent call last):"


class RedactionLogProcessor(RuleBased, LogRecordProcessor):
    """Redacts log records: body, attributes, exceptions, resource. Add it before an exporter's.

    `llamatelemetry.init()` adds one, in front of all others, wherever a
    `RedactionSpanProcessor` is. Arguments and errors are those of that class. The bodies of
    GenAI events, and what HTTP and model libraries log at debug level, count as what was said;
    the words of the application's own log lines are matched by patterns only.
    """

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Redacts the record for the processors after this one; the application keeps its own."""
        given = log_record.log_record
        try:
            log_record.log_record = self._redacted(log_record)
            log_record.resource = self._resources.cleaned(log_record.resource)
        except Exception as error:
            log_record.log_record = _without_texts(given)
            log_record.resource = failing.resource()
            log_record.instrumentation_scope = None
            failing.report("a log record", error)

    def enabled(self, **_: Any) -> bool:
        """False: this processor is no reason to make a record."""
        return False

    def shutdown(self) -> None:
        """Does nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's
        """True: nothing is kept."""
        return True

    def _redacted(self, log_record: ReadWriteLogRecord) -> LogRecord:
        record = copy.copy(log_record.log_record)
        redaction = self._redactor.begin()
        scope = log_record.instrumentation_scope
        given: Any = record.attributes
        attributes = dict(given or {})
        record.body = self._body(record, attributes, getattr(scope, "name", None), redaction)
        record.attributes = _like(given, redaction.event(_event_of(record, attributes), attributes))
        record.exception = None  # the SDK has made attributes of it
        log_record.instrumentation_scope = cleaned_scope(scope, redaction)
        return record

    def _body(
        self,
        record: LogRecord,
        attributes: dict[str, Any],
        logger: str | None,
        redaction: Redaction,
    ) -> Any:
        body: Any = record.body
        name = _event_of(record, attributes)
        if self.rules.redact_prompts:
            if is_content_event(name) or _is_talkative(logger, record):
                return redaction.body(body, is_content=True)
            if isinstance(body, str):
                body = _without_exception(body, attributes.get("exception.message"), redaction)
        return redaction.body(body, is_content=False)


def _event_of(record: LogRecord, attributes: dict[str, Any]) -> str:
    return record.event_name or str(attributes.get("event.name", ""))


def _is_talkative(logger: str | None, record: LogRecord) -> bool:
    number = record.severity_number
    return (
        number is not None
        and number.value < _INFO
        and (logger or "").partition(".")[0] in _TALKATIVE
    )


def _without_exception(body: str, message: object, redaction: Redaction) -> str:
    """The text of a log line without the words of the exception that it was logged with."""
    head, traceback, rest = body.partition(_TRACEBACK)
    if isinstance(message, str) and message.strip():
        head = head.replace(message, redaction.instead_of(message))
    return head + redaction.stack_trace(traceback + rest) if traceback else head


def _like(given: Any, values: dict[str, Any]) -> BoundedAttributes:
    made = BoundedAttributes(attributes=values, immutable=False)
    made.dropped = getattr(given, "dropped", 0)
    return made


def _without_texts(given: LogRecord) -> LogRecord:
    record = copy.copy(given)
    record.body = None
    record.attributes = BoundedAttributes(
        attributes=failing.without_texts(given.attributes), immutable=False
    )
    record.exception = None
    return record
