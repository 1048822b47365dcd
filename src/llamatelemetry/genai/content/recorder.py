"""Recording of the content of calls: on the span, in an event, and by a completion hook.

Content is parsed only if it is recorded or a hook is set. Otherwise a call costs one check of
`Instrumenter.content`, and no content is kept. A request is parsed before it is sent, because the
application may change its messages later. At the end of the call the hook runs, then texts are cut
to size, then the attributes are serialized.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry._logs import LogRecord, get_logger

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.completion_hook import (
    COMPLETION_HOOK,
    CompletionHook,
    GuardedCompletionHook,
    load_completion_hook,
    message_types,
)
from llamatelemetry.genai.content.limits import (
    compact_json,
    limit_messages,
    limit_parts,
    limit_tools,
)
from llamatelemetry.genai.content.span_limit import fit_on_span
from llamatelemetry.genai.model import Content
from llamatelemetry.genai.spans import event_attributes
from llamatelemetry.otel._sdk_private import attribute_length_limit
from llamatelemetry.semconv import INFERENCE_OPERATIONS
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry._logs import Logger, LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AnyValue, AttributeValue

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.genai.model import Outcome, Request

_logger = logging.getLogger("llamatelemetry")

EVENT_NAME: Final = "gen_ai.client.inference.operation.details"

# Limit of a stream's text for hooks, which receive it complete. No model writes this much, but a
# broken server might.
_HOOK_MAX_CHARS: Final = 1 << 24

_EMIT_EVENT: Final = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
_BOOLEANS: Final = {"true": True, "false": False}


class GenAIVariables(NamedTuple):
    """OpenTelemetry's GenAI variables without an option in `LlamaTelemetryConfig`.

    `completion_hook` is the name of an entry point. `None` means unset.
    """

    emit_event: bool | None
    completion_hook: str | None


def read_genai_variables(environ: Mapping[str, str] | None = None) -> GenAIVariables:
    """Read the variables. An invalid value is logged and ignored."""
    variables = os.environ if environ is None else environ
    emit_event = variables.get(_EMIT_EVENT, "").strip()
    if emit_event and emit_event.lower() not in _BOOLEANS:
        _logger.warning(
            "Ignored %s: it must be true or false, got %r. capture_content decides whether events "
            "are emitted",
            _EMIT_EVENT,
            emit_event,
        )
    return GenAIVariables(
        emit_event=_BOOLEANS.get(emit_event.lower()),
        completion_hook=variables.get(COMPLETION_HOOK, "").strip() or None,
    )


def content_recorder(
    scope: str,
    version: str,
    config: LlamaTelemetryConfig,
    logger_provider: LoggerProvider | None,
    completion_hook: CompletionHook | None,
) -> ContentRecorder | None:
    """Create the recorder of an `Instrumenter`. Return `None` if content is not used, the default."""
    variables = read_genai_variables()
    hook = _guarded_hook(completion_hook, variables.completion_hook)
    emits = variables.emit_event
    if emits is None:
        emits = config.capture_content in {"event_only", "span_and_event"}
    on_span = config.capture_content in {"span_only", "span_and_event"}
    if not (on_span or emits or hook is not None):
        return None
    logger = get_logger(scope, version, logger_provider) if emits else None
    return ContentRecorder(config, logger, hook)


def _guarded_hook(hook: CompletionHook | None, name: str | None) -> GuardedCompletionHook | None:
    if hook is None and name is not None:
        hook = load_completion_hook(name)
    types = None if hook is None else message_types()
    return None if hook is None or types is None else GuardedCompletionHook(hook, types)


class ContentRecorder:
    """Recorder of content for one `Instrumenter`. Without a logger there are no events."""

    def __init__(
        self,
        config: LlamaTelemetryConfig,
        logger: Logger | None,
        hook: GuardedCompletionHook | None,
    ) -> None:
        self.on_span = config.capture_content in {"span_only", "span_and_event"}
        self.on_event = config.capture_content in {"event_only", "span_and_event"}
        self.max_chars = config.content_max_chars
        self.logger = logger
        self.hook = hook

    def start(self, request: Request, span: Span) -> CallContent | None:
        """Parse the content of a request. Return `None` if the content of this call is not used."""
        if request.read_content is None:
            return None
        to_span = self.on_span and span.is_recording()
        logger = self.logger
        emits = (
            logger is not None
            and request.operation in _EVENT_OPERATIONS
            and logger.enabled(event_name=EVENT_NAME)
        )
        if not (to_span or emits or self.hook is not None):
            return None
        return CallContent(self, request, span, to_span, logger if emits else None)


_EVENT_OPERATIONS: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}


class CallContent:
    """The content of one call, from its start to its end."""

    __slots__ = ("_content", "_is_used", "_logger", "_recorder", "_span", "_to_span")

    def __init__(
        self,
        recorder: ContentRecorder,
        request: Request,
        span: Span,
        to_span: bool,
        logger: Logger | None,
    ) -> None:
        self._recorder = recorder
        self._span = span
        self._to_span = to_span
        self._logger = logger
        # An event may be emitted without content.
        self._is_used = to_span or (logger is not None and recorder.on_event) or bool(recorder.hook)
        self._content = Content()
        if self._is_used and request.read_content is not None:
            self._content = _read(request.read_content, "parsing the messages of a request")

    @property
    def max_chars(self) -> int | None:
        """Maximum number of characters to keep of each text; `None` if texts are not used."""
        if not self._is_used:
            return None
        return self._recorder.max_chars if self._recorder.hook is None else _HOOK_MAX_CHARS

    @property
    def emits(self) -> bool:
        """Whether an event will be emitted."""
        return self._logger is not None

    def finish(self, outcome: Outcome, context: Context) -> Mapping[str, AttributeValue]:
        """Run the hook, emit the event in `context`, and return the span's content attributes."""
        self._add_response(outcome)
        record = None
        if self._logger is not None:
            record = LogRecord(
                timestamp=outcome.ended_wall_ns,
                context=context,
                event_name=EVENT_NAME,
                attributes=event_attributes(outcome),
            )
        hook = self._recorder.hook
        if hook is not None:
            self._content = hook.run(self._content, self._span, record)
        recorded = self._limited() if self._to_span or (record and self._recorder.on_event) else {}
        if self._logger is not None and record is not None:
            if self._recorder.on_event:
                # A hook may have added attributes.
                record.attributes = {**(record.attributes or {}), **recorded}
            try:
                self._logger.emit(record)
            except Exception as error:  # A log processor of the application may raise.
                internal_errors.log_once("emitting an event", error)
        if not self._to_span:
            return {}
        return {name: compact_json(value) for name, value in recorded.items()}

    def _add_response(self, outcome: Outcome) -> None:
        response = outcome.response
        if not self._is_used or response.read_content is None:
            return
        parsed = _read(response.read_content, "parsing the messages of a response")
        content = self._content
        content.outputs = parsed.outputs
        content.instructions = content.instructions or parsed.instructions
        content.tools = content.tools or parsed.tools
        # The conventions' schema requires a finish reason. A stream that failed or was abandoned
        # has none.
        reason = "error" if outcome.error is not None else "unknown"
        for message in content.outputs:
            message.setdefault("finish_reason", reason)

    def _limited(self) -> dict[str, AnyValue]:
        content, max_chars = self._content, self._recorder.max_chars
        found: dict[str, Any] = {
            names.GEN_AI_INPUT_MESSAGES: limit_messages(content.inputs, max_chars),
            names.GEN_AI_OUTPUT_MESSAGES: limit_messages(content.outputs, max_chars),
            names.GEN_AI_SYSTEM_INSTRUCTIONS: limit_parts(content.instructions, max_chars),
            names.GEN_AI_TOOL_DEFINITIONS: limit_tools(content.tools, max_chars),
        }
        used = {name: value for name, value in found.items() if value}
        value_limit = attribute_length_limit(self._span) if self._to_span else None
        return {**fit_on_span(used, max_chars, value_limit)}


def _read(read: Callable[[], Content], action: str) -> Content:
    try:
        return read()
    except Exception as error:
        internal_errors.log_once(action, error)
        return Content()
