"""The processors that the options ask for: span processors in order, and redaction of the rest."""

from __future__ import annotations

import os
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from llamatelemetry.local.call_history import CallHistory
from llamatelemetry.otel._sdk_private import meter_provider_resource, update_resource
from llamatelemetry.otel.processor_chains import prepend_processors, remove_processors
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.options import asks_for_redaction
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor
from llamatelemetry.otel.span_processors import SessionSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.otel.redaction.logs import RedactionLogProcessor
    from llamatelemetry.otel.redaction.redactor import Redactor
    from llamatelemetry.otel.redaction.rules import Rules
    from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor


def arrange(
    config: LlamaTelemetryConfig, enriching: Sequence[SpanProcessor] = ()
) -> tuple[SpanProcessor, ...]:
    """Return llamatelemetry's and the application's span processors in their order.

    The exporters run after all of them:

    1. attributes that are known when a span starts;
    2. `enriching`: attributes that are known when it ends;
    3. redaction, or without it the removal of keys, passwords and cookies;
    4. the application's processors, in their order;
    5. the calls for `llamatelemetry.summary()`, and trace graphs.

    Redaction runs while a span is ending, before any processor receives the ended span.
    Processors that add attributes to the ended span must come before it, so that these are
    redacted, too.
    """
    redaction = redaction_processors(config) or (SecretsSpanProcessor(),)
    before_graphs = (
        SessionSpanProcessor(),
        *enriching,
        *redaction,
        *config.span_processors,
        CallHistory(),
    )
    if not config.enable_trace_graphs:
        return before_graphs
    from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor

    return (
        *before_graphs,
        TraceGraphProcessor(partial(_redact_attribute, _redactors(before_graphs))),
    )


def _rules(span_processors: Sequence[SpanProcessor]) -> list[Rules]:
    """Return the rules of the redacting processors among these."""
    # There is none unless something has loaded the module of their class.
    loaded: Any = sys.modules.get("llamatelemetry.otel.redaction.spans")
    kind: type[RedactionSpanProcessor] | None = loaded and loaded.RedactionSpanProcessor
    return [each.rules for each in span_processors if kind and isinstance(each, kind)]


def _redactors(span_processors: Sequence[SpanProcessor]) -> list[Redactor]:
    """Return redactors with the rules of the redacting processors among these."""
    rules = _rules(span_processors)
    if not rules:
        return []
    from llamatelemetry.otel.redaction.redactor import Redactor

    return [Redactor(each) for each in rules]


def _redact_attribute(redactors: Sequence[Redactor], name: str, value: Any) -> Any:
    """Return the value of an attribute, redacted by all redactors."""
    try:
        for redactor in redactors:
            value = redactor.start().attribute(name, value)
    except Exception as error:
        fail_closed.log_once("the name of a step", error)
        return fail_closed.FAILED_SPAN_NAME
    return value


def redaction_processors(config: LlamaTelemetryConfig) -> tuple[SpanProcessor, ...]:
    """Return the span processor that the options `redact_*` ask for, if any."""
    if not asks_for_redaction(config):
        return ()
    from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor

    processor = RedactionSpanProcessor.from_config(config)
    return () if processor is None else (processor,)


def log_redaction_processors(
    span_processors: Sequence[SpanProcessor],
) -> list[RedactionLogProcessor]:
    """Return log record processors with the rules of the redacting span processors."""
    rules = _rules(span_processors)
    if not rules:
        return []
    from llamatelemetry.otel.redaction.logs import RedactionLogProcessor

    return [RedactionLogProcessor.from_rules(each) for each in rules]


class LogAndMetricRedaction:
    """Applies the rules of redacting span processors to log records and the metrics' resource.

    `created` are the SDK providers of this set-up. The others are the application's.
    """

    def __init__(self, created: Mapping[str, Any]) -> None:
        self._created = created
        self._processors: list[RedactionLogProcessor] = []
        self._redactors: list[Redactor] = []
        self._redacted: dict[str, Any] = {}
        if hasattr(os, "register_at_fork"):
            # The SDK's handler, registered earlier, detects attributes that may differ in the
            # child again, such as the command line.
            method = weakref.WeakMethod(self._redact_metrics)
            os.register_at_fork(after_in_child=lambda: (redact := method()) and redact())

    def add(self, span_processors: Sequence[SpanProcessor], *, logs_done: bool = False) -> None:
        """Apply the rules of the redacting processors among these.

        `logs_done` is `True` if the logger provider already has their log record processors.
        """
        redactors = _redactors(span_processors)
        if not redactors:
            return
        provider = self._provider("logs")
        # Without a provider, no log record can be exported.
        if provider is not None and not logs_done:
            processors = log_redaction_processors(span_processors)
            self._processors += processors
            prepend_processors(provider, processors)
        self._redactors += redactors
        self._redact_metrics()

    def remove(self) -> None:
        """Restore the processors of the application's logger provider."""
        if "logs" not in self._created:
            remove_processors(self._provider("logs"), self._processors)

    def _provider(self, signal: str) -> Any:
        return self._created.get(signal) or SIGNALS[signal].application_provider

    def _redact_metrics(self) -> None:
        """Redact new attributes of the metrics' resource, for which the SDK has no processors.

        The processors of spans and log records redact their resource themselves.
        """
        provider = self._provider("metrics")
        resource = meter_provider_resource(provider)
        if resource is None:
            return
        changed: dict[str, Any] = {}
        for name, value in resource.attributes.items():
            redacted = value
            if self._redacted.get(name, self) != value:
                redacted = _redact_attribute(self._redactors, name, value)
            if redacted != value:
                changed[name] = redacted
        if changed:
            self._redacted |= changed
            update_resource(provider, changed)
