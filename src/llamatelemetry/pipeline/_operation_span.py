"""The span and metrics of one operation: a workflow, agent, tool or task."""

from __future__ import annotations

import asyncio
import traceback
from os import getpid
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, StatusCode

from llamatelemetry.genai import describe_error, internal_errors
from llamatelemetry.genai.agents import AgentRun, current_agent, with_agent
from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.otel.session import session_attributes
from llamatelemetry.pipeline._instruments import AGENT, TOOL, content_max_chars
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv import metrics as specs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.pipeline._instruments import OperationKind, PipelineInstruments

_FUNCTION: Final = "function"


class OperationSpan:
    """The span of a workflow, agent, tool or task, started on construction.

    Attributes that are `None` are left out. Nothing is recorded if instrumentation is suppressed.
    """

    __slots__ = (
        "__weakref__",
        "_agent_run",
        "_enclosing_agent",
        "_ended_ns",
        "_instruments",
        "_kind",
        "_name",
        "_pid",
        "_started_ns",
        "_started_wall_ns",
        "context",
        "span",
    )

    def __init__(
        self,
        kind: OperationKind,
        name: str,
        attributes: Mapping[str, AttributeValue | None],
        instruments: PipelineInstruments,
    ) -> None:
        self._kind = kind
        self._name = name
        self._instruments = instruments
        self._agent_run: AgentRun | None = None
        self._enclosing_agent = current_agent()
        self.span: Span = trace.INVALID_SPAN
        self.context: Context = context_api.get_current()
        self._started_ns: int | None = None
        self._ended_ns: int | None = None
        # A forked child inherits open operations and must not end them a second time.
        self._pid = getpid()
        if not is_instrumentation_enabled():
            return
        try:
            self._start(attributes)
        except Exception as error:
            internal_errors.log_once("starting a span of a pipeline", error)

    def _start(self, attributes: Mapping[str, AttributeValue | None]) -> None:
        known: dict[str, AttributeValue | None] = {
            names.GEN_AI_OPERATION_NAME: self._kind.operation,
            self._kind.name_attribute: self._name,
            **session_attributes(),
        }
        if self._kind is TOOL:
            known[names.GEN_AI_TOOL_TYPE] = _FUNCTION
            known[names.GEN_AI_AGENT_NAME] = (
                None if self._enclosing_agent is None else self._enclosing_agent.name
            )
        known.update(attributes)
        self._started_wall_ns = time_ns()
        started_ns = perf_counter_ns()
        self.span = self._instruments.tracer.start_span(
            self._kind.span_name(self._name),
            kind=SpanKind.INTERNAL,
            attributes={key: value for key, value in known.items() if value is not None},
            start_time=self._started_wall_ns,
        )
        self.context = trace.set_span_in_context(self.span, self.context)
        if self._kind is AGENT:
            self._agent_run = AgentRun(self._name)
            self.context = with_agent(self._agent_run, self.context)
        elif self._kind is TOOL and self._enclosing_agent is not None:
            self._enclosing_agent.count_tool_call()
        self._started_ns = started_ns

    def finish(self, error: BaseException | None = None) -> None:
        """End the operation, with the error that ended it."""
        started_ns, self._started_ns = self._started_ns, None
        # None: nothing is recorded, or the operation has ended already.
        if started_ns is None or self._pid != getpid():
            return
        duration_ns = (self._ended_ns or perf_counter_ns()) - started_ns
        try:
            failure = error if error is not None and _is_failure(error) else None
            if failure is not None:
                _record_error(self.span, failure)
            self._record_metrics(duration_ns / 1e9, failure)
        except Exception as internal_error:
            internal_errors.log_once("recording the end of a pipeline's span", internal_error)
        finally:
            self._end_span(duration_ns)

    def _end_span(self, duration_ns: int) -> None:
        try:
            # From the monotonic clock, so that a clock step does not change the duration.
            self.span.end(self._started_wall_ns + duration_ns)
        except Exception as error:  # A span processor of the application may raise.
            internal_errors.log_once("ending a span of a pipeline", error)

    def abandon(self) -> None:
        """End the operation now, but let the finalizer's thread record it.

        The garbage collector may close a generator, and recording inside it is not safe.
        """
        if self._started_ns is not None:
            self._ended_ns = perf_counter_ns()
            finalizer.put(self)

    def finalize(self) -> None:
        """Record the end of an abandoned operation."""
        self.finish()

    def _record_metrics(self, duration_s: float, failure: BaseException | None) -> None:
        if self._kind.duration is None:
            return
        attributes = {self._kind.name_attribute: self._name}
        if self._kind is TOOL:
            attributes[names.GEN_AI_TOOL_TYPE] = _FUNCTION
            if self._enclosing_agent is not None:
                attributes[names.GEN_AI_AGENT_NAME] = self._enclosing_agent.name
        record, run = self._instruments.record, self._agent_run
        token = context_api.attach(self.context)  # for the exemplars of the measurements
        try:
            if run is not None:
                record(specs.AGENT_INFERENCE_CALLS, run.inference_calls, attributes)
                record(specs.AGENT_TOOL_CALLS, run.tool_calls, attributes)
            if failure is not None:
                attributes = {**attributes, names.ERROR_TYPE: describe_error(failure).type}
            record(self._kind.duration, duration_s, attributes)
        finally:
            context_api.detach(token)


def _is_failure(error: BaseException) -> bool:
    """Return whether it is a failure, not an abandoned generator or `sys.exit(0)`."""
    if isinstance(error, SystemExit):
        return error.code not in {None, 0}
    return not isinstance(error, GeneratorExit)


def _record_error(span: Span, error: BaseException) -> None:
    """Record an error. Its message may quote a prompt, so it needs content capture."""
    if not span.is_recording():
        return
    described = describe_error(error)
    span.set_attribute(names.ERROR_TYPE, described.type)
    event: dict[str, Any] = {"exception.type": described.type}
    if content_max_chars() is None:
        description = described.description
        event["exception.stacktrace"] = "".join(traceback.format_tb(error.__traceback__))
    else:
        description = "".join(traceback.format_exception_only(error)).strip()
        event["exception.message"] = str(error)
        event["exception.stacktrace"] = "".join(traceback.format_exception(error))
    if not isinstance(error, asyncio.CancelledError):
        span.add_event("exception", event)
    span.set_status(StatusCode.ERROR, description)
