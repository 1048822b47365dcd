"""What content of a call is kept and where it goes: its span, an event, a completion hook.

Content is read only for a call whose span or event is to have it, or when there is a hook;
otherwise a call costs one look at ``Instrumenter.content``, and nothing of it is held. A request
is read before it is sent, since the application may change its messages afterwards; all else
happens when the call ends: the hook, then cutting to size, then JSON for the span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry._logs import LogRecord

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.limits import compact_json, limit_messages, limit_parts, limit_tools
from llamatelemetry.genai.model import Content
from llamatelemetry.genai.content.span_limit import fit_on_span, value_max_chars
from llamatelemetry.genai.spans import event_attributes
from llamatelemetry.semconv import INFERENCE_OPERATIONS
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry._logs import Logger
    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AnyValue, AttributeValue

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.genai.content.completion_hook import GuardedHook
    from llamatelemetry.genai.model import Outcome, Request, Response

EVENT_NAME: Final = "gen_ai.client.inference.operation.details"

# A hook wants a stream's reply whole, and no model writes this much; a broken server might.
_HOOK_MAX_CHARS: Final = 1 << 24


class ContentRecorder:
    """What one `Instrumenter` does with content.

    Args:
        config: says what is captured.
        logger: takes the events, if there are to be any.
        hook: is run with the content of each call.
    """

    def __init__(
        self,
        config: LlamaTelemetryConfig,
        logger: Logger | None,
        hook: GuardedHook | None,
    ) -> None:
        self.on_span = config.capture_content in {"span_only", "span_and_event"}
        self.on_event = config.capture_content in {"event_only", "span_and_event"}
        self.max_chars = config.content_max_chars
        self.logger = logger
        self.hook = hook

    def start(self, request: Request, span: Span) -> CallContent | None:
        """Read a request's content, or give ``None`` when nobody wants anything of this call."""
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

    __slots__ = ("_content", "_logger", "_recorder", "_span", "_to_span", "_wanted")

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
        # Not so for an event that is wanted without content.
        self._wanted = to_span or (logger is not None and recorder.on_event) or bool(recorder.hook)
        self._content = Content()
        if self._wanted and request.read_content is not None:
            self._content = _read(request.read_content, "reading the messages of a request")

    @property
    def max_chars(self) -> int | None:
        """Up to where a stream's texts are wanted; ``None`` when they are not wanted at all."""
        if not self._wanted:
            return None
        return self._recorder.max_chars if self._recorder.hook is None else _HOOK_MAX_CHARS

    @property
    def emits(self) -> bool:
        """Whether there will be an event."""
        return self._logger is not None

    def finish(self, outcome: Outcome, context: Context) -> Mapping[str, AttributeValue]:
        """Run the hook and emit the event; give the attributes that the span is to have.

        Args:
            outcome: what came of the call.
            context: holds its span.
        """
        self._add_reply(outcome.response)
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
                # A hook may have added references of its own.
                record.attributes = {**(record.attributes or {}), **recorded}
            self._logger.emit(record)
        if not self._to_span:
            return {}
        return {name: compact_json(value) for name, value in recorded.items()}

    def _add_reply(self, response: Response) -> None:
        if not self._wanted or response.read_content is None:
            return
        reply = _read(response.read_content, "reading the messages of a reply")
        content = self._content
        content.outputs = reply.outputs
        content.instructions = content.instructions or reply.instructions
        content.tools = content.tools or reply.tools

    def _limited(self) -> dict[str, AnyValue]:
        content, max_chars = self._content, self._recorder.max_chars
        found: dict[str, Any] = {
            names.GEN_AI_INPUT_MESSAGES: limit_messages(content.inputs, max_chars),
            names.GEN_AI_OUTPUT_MESSAGES: limit_messages(content.outputs, max_chars),
            names.GEN_AI_SYSTEM_INSTRUCTIONS: limit_parts(content.instructions, max_chars),
            names.GEN_AI_TOOL_DEFINITIONS: limit_tools(content.tools, max_chars),
        }
        said = {name: value for name, value in found.items() if value}
        value_limit = value_max_chars(self._span) if self._to_span else None
        return {**fit_on_span(said, max_chars, value_limit)}


def _read(read: Callable[[], Content], doing: str) -> Content:
    try:
        return read()
    except Exception as error:
        internal_errors.log_once(doing, error)
        return Content()
