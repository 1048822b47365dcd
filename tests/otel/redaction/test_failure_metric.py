"""The metric that counts texts that were dropped because their redaction failed."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import llamatelemetry
from llamatelemetry.otel.redaction.fail_closed import FAILURES
from llamatelemetry.otel.redaction.redactor import Redaction

NAME = "llamatelemetry.redaction.failures"


def test_failed_redaction_is_counted(monkeypatch):
    reader = InMemoryMetricReader()
    FAILURES.reset_after_fork()
    FAILURES.export_to(MeterProvider([reader]))
    assert reader.get_metrics_data() is None

    def fail(self, text):
        raise RuntimeError(f"cannot redact {text}")

    monkeypatch.setattr(Redaction, "text", fail)
    llamatelemetry.init(exporter="none", redact_prompts=True)
    try:
        trace.get_tracer("test").start_span("work", attributes={"prompt": "secret"}).end()
    finally:
        llamatelemetry.shutdown()
    data = reader.get_metrics_data()
    FAILURES.reset_after_fork()
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.data.data_points
    assert metric.name == NAME
    # The span fails in several steps, and other texts of the set-up fail, too.
    assert point.value > 0
