"""Spans and log records that a full queue drops are counted and reported."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from google.protobuf.json_format import MessageToDict

from tests.support.otlp_receiver import Received, http_receiver
from tests.support.waiting import wait_for

PROGRAM = """
    import os, sys, threading
    import llamatelemetry
    from opentelemetry import _logs, trace

    def record(number):
        for _ in range(number):
            trace.get_tracer("test").start_span("made").end()
            _logs.get_logger("test").emit(body="made")

    llamatelemetry.init("drops")
    # The exporter gets the first ones, and waits for the receiver, while the queue gets full.
    record(4)
    sys.stdin.readline()
    record(100)
    if {forks} and os.fork() == 0:
        assert llamatelemetry.shutdown(60)
        os._exit(0)
    print("made", flush=True)
    assert llamatelemetry.shutdown(60)
"""


def dropped(received: Received) -> dict[str, int]:
    """Return the dropped items by metric, over all processes."""
    values: dict[tuple[str, str], int] = {}
    for message in received.messages["metrics"]:
        for resource in message.resource_metrics:
            pid = str(resource.resource.attributes[0])
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.sum.data_points:
                        attributes = {a.key: a.value.string_value for a in point.attributes}
                        if attributes.get("error.type") == "queue_full":
                            assert metric.sum.is_monotonic
                            assert attributes["otel.component.type"].startswith("batching_")
                            values[metric.name, pid] = point.as_int
    return {name: value for (name, _), value in values.items()}


def run(received: Received, *, forks: bool = False, **variables: str) -> str:
    received.may_respond.clear()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(forks=forks))],
        env={
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
            "OTEL_BLRP_MAX_QUEUE_SIZE": "8",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "4",
            **variables,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Only then does no thread of the SDK take items from the queues while they get full.
    wait_for(lambda: {"/v1/traces", "/v1/logs"} <= set(received.started))
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "made\n"
    received.may_respond.set()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return errors


def test_dropped_spans_and_log_records_are_counted_and_warned_of():
    with http_receiver() as received:
        errors = run(received)
        counted = dropped(received)
        assert set(counted) == {
            "otel.sdk.processor.span.processed",
            "otel.sdk.processor.log.processed",
        }
        assert counted["otel.sdk.processor.span.processed"] == 104 - len(received.spans()) > 0
        assert counted["otel.sdk.processor.log.processed"] == 104 - len(received.logs()) > 0
    lines = [line for line in errors.splitlines() if line.startswith("Dropped ")]
    # At the first one, and the rest at the end.
    assert len([line for line in lines if "spans" in line]) == 2
    total = sum(int(line.split()[1]) for line in lines if "spans" in line)
    assert total == counted["otel.sdk.processor.span.processed"]
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in errors
    assert "OTEL_BLRP_MAX_QUEUE_SIZE" in errors


@pytest.mark.slow
def test_dropped_items_are_counted_once_if_sdk_counts_them():
    with http_receiver() as received:
        run(received, OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true")
        scopes = {
            scope.scope.name
            for message in received.messages["metrics"]
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            if "queue_full" in str(MessageToDict(scope))
        }
        assert scopes == {"opentelemetry-sdk"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_starts_count_from_zero():
    with http_receiver() as received:
        run(received, forks=True)
        assert len(dropped(received)) == 2
        sent = [
            resource
            for message in received.messages["metrics"]
            for resource in message.resource_metrics
            if "queue_full" in str(resource)
        ]
        assert len({str(each.resource) for each in sent}) == 1
