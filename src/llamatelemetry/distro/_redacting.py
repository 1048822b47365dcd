"""What redaction needs beside its span processor: log records, and the resource of metrics."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from llamatelemetry.otel.log_processors import put_in_front, take_out
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.redaction.logs import RedactionLogProcessor
from llamatelemetry.otel.redaction.redaction import Redactor
from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


class RedactionTwins:
    """Applies the rules of every redacting span processor to logs and to metrics' resource.

    Args:
        made: the providers that are ours, by signal; the others are the application's.
    """

    def __init__(self, made: Mapping[str, Any]) -> None:
        self._made = made
        self._processors: list[RedactionLogProcessor] = []
        self._redactors: list[Redactor] = []
        self._left: dict[str, Any] = {}
        if hasattr(os, "register_at_fork"):
            # The SDK's own handler, which is there before this one, detects anew what may
            # differ in the child, its command line among it.
            again = weakref.WeakMethod(self._clean_metrics)
            os.register_at_fork(after_in_child=lambda: (method := again()) and method())

    def add(self, span_processors: Sequence[SpanProcessor]) -> None:
        """Applies the rules of those among them that redact."""
        found = [each for each in span_processors if isinstance(each, RedactionSpanProcessor)]
        if not found:
            return
        twins = [RedactionLogProcessor.from_rules(each.rules) for each in found]
        self._processors += twins
        provider = self._provider("logs")
        if provider is not None:  # else there is nothing that logs could leave by
            put_in_front(provider, twins)
        self._redactors += [Redactor(each.rules) for each in found]
        self._clean_metrics()

    def take_out(self) -> None:
        """Leaves a logger provider that is not ours as it was."""
        if "logs" not in self._made:
            take_out(self._provider("logs"), self._processors)

    def _provider(self, signal: str) -> Any:
        return self._made.get(signal) or SIGNALS[signal].foreign

    def _clean_metrics(self) -> None:
        """Redacts what is new in the resource of metrics, for which there are no processors.

        Those of spans and log records see to the resource themselves.
        """
        provider = self._provider("metrics")
        resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)
        if resource is None:
            return
        changed: dict[str, Any] = {}
        for name, value in resource.attributes.items():
            redacted = value
            if self._left.get(name, self) != value:
                for redactor in self._redactors:
                    redacted = redactor.begin().attribute(name, redacted)
            if redacted != value:
                changed[name] = redacted
        if changed:
            self._left |= changed
            provider._update_resource(Resource(changed))
